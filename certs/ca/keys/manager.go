package keys

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-proxy/postern/certs/store"
)

// Keys of the store.
const (
	prefix     = "keys/"
	sealingKey = prefix + "sealing"
	keyPrefix  = prefix + "key/"
)

// checkText is sealed beside the keys, so that a wrong passphrase is told from a damaged key. Its associated data is no key's id.
const checkText, checkID = "postern sealing key", "\x00check"

// ErrNotFound: there is no key with that id.
var ErrNotFound = errors.New("key not found")

// Manager keeps sealed private keys in a store. It may be used concurrently.
type Manager struct {
	store store.Store
	kind  string
	aead  cipher.AEAD
}

// sealing is the record that says how the store's keys are sealed.
type sealing struct {
	Kind   string          `json:"kind"`
	Params json.RawMessage `json:"params"`
	Check  []byte          `json:"check"` // checkText, sealed
}

// sealed is the record of one key.
type sealed struct {
	Type Type   `json:"type"`
	Key  []byte `json:"key"` // nonce and PKCS #8, sealed
}

// Open returns the manager of the store's keys. A store that has none is sealed under a key that sealer makes; any other must be
// opened by the sealer that sealed it (ErrSealingKeyMissing, ErrWrongSealingKey, ErrStateLost).
func Open(ctx context.Context, s store.Store, sealer Sealer) (*Manager, error) {
	item, err := s.Get(ctx, sealingKey)
	if errors.Is(err, store.ErrNotFound) {
		return create(ctx, s, sealer)
	}
	if err != nil {
		return nil, fmt.Errorf("read how keys are sealed: %w", err)
	}
	var record sealing
	if err := json.Unmarshal(item.Value, &record); err != nil {
		return nil, fmt.Errorf("decode how keys are sealed: %w", err)
	}
	if record.Kind != sealer.Kind() {
		return nil, fmt.Errorf("%w: keys of this store are sealed with %q, and %q was given: configure the former", ErrWrongSealingKey, record.Kind, sealer.Kind())
	}
	raw, err := sealer.Open(record.Params)
	if err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	m, err := newManager(s, sealer.Kind(), raw)
	if err != nil {
		return nil, err
	}
	text, err := m.aead.Open(nil, nil, record.Check, []byte(checkID))
	if err != nil || subtle.ConstantTimeCompare(text, []byte(checkText)) != 1 {
		return nil, fmt.Errorf("open keys: %w: this %s is not the one with which the store was sealed", ErrWrongSealingKey, sealer.Kind())
	}
	if err := sealer.Settle(); err != nil {
		return nil, err
	}
	return m, nil
}

// create seals a store for the first time.
func create(ctx context.Context, s store.Store, sealer Sealer) (*Manager, error) {
	page, err := s.List(ctx, prefix, "", 1)
	if err != nil {
		return nil, fmt.Errorf("look for sealed keys: %w", err)
	}
	if len(page.Items) > 0 {
		return nil, fmt.Errorf("%w: the store has sealed keys but no record of how they were sealed: restore it from its backup", ErrStateLost)
	}
	raw, params, err := sealer.Create()
	if err != nil {
		return nil, fmt.Errorf("make sealing key: %w", err)
	}
	m, err := newManager(s, sealer.Kind(), raw)
	if err != nil {
		return nil, err
	}
	check := m.aead.Seal(nil, nil, []byte(checkText), []byte(checkID))
	value, err := json.Marshal(sealing{Kind: sealer.Kind(), Params: params, Check: check})
	if err != nil {
		return nil, fmt.Errorf("encode how keys are sealed: %w", err)
	}
	txn := store.Txn{If: []store.Condition{{Key: sealingKey}}, Then: []store.Op{{Key: sealingKey, Value: value}}}
	if _, err := s.Commit(ctx, txn); err != nil {
		return nil, fmt.Errorf("record how keys are sealed: %w", err)
	}
	if err := sealer.Settle(); err != nil {
		return nil, err
	}
	return m, nil
}

// newManager takes raw over and zeroes it.
func newManager(s store.Store, kind string, raw []byte) (*Manager, error) {
	defer clear(raw)
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("use sealing key: %w", err)
	}
	// Random nonces are safe for 2^32 keys (NIST SP 800-38D, Section 8.3); an authority makes a few a day.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("use sealing key: %w", err)
	}
	return &Manager{store: s, kind: kind, aead: aead}, nil
}

// Kind returns the kind of the sealer, such as KindLocalFile.
func (m *Manager) Kind() string { return m.kind }

// Seal returns the operation that stores a key under an id, for a transaction of the caller's. Until that is committed, nothing keeps
// the key.
func (m *Manager) Seal(id string, t Type, signer crypto.Signer) (store.Op, error) {
	if id == "" {
		return store.Op{}, errors.New("key has no id")
	}
	value, err := m.seal(id, t, signer)
	if err != nil {
		return store.Op{}, err
	}
	return store.Op{Key: keyPrefix + id, Value: value}, nil
}

// Empty reports that no key is stored.
func (m *Manager) Empty(ctx context.Context) (bool, error) {
	page, err := m.store.List(ctx, keyPrefix, "", 1)
	if err != nil {
		return false, fmt.Errorf("look for sealed keys: %w", err)
	}
	return len(page.Items) == 0, nil
}

// Load returns the key with that id, or ErrNotFound.
func (m *Manager) Load(ctx context.Context, id string) (crypto.Signer, error) {
	item, err := m.store.Get(ctx, keyPrefix+id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("load key %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("load key %q: %w", id, err)
	}
	return m.open(id, item.Value)
}

// Delete erases a key. To delete one that is not there is no error.
func (m *Manager) Delete(ctx context.Context, id string) error {
	if _, err := m.store.Commit(ctx, store.Txn{Then: []store.Op{m.Deletion(id)}}); err != nil {
		return fmt.Errorf("delete key %q: %w", id, err)
	}
	return nil
}

// Deletion returns the operation that erases a key, for a transaction of the caller's.
func (m *Manager) Deletion(id string) store.Op { return store.Op{Key: keyPrefix + id, Delete: true} }

func (m *Manager) seal(id string, t Type, signer crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, fmt.Errorf("encode key %q: %w", id, err)
	}
	defer clear(der)
	value, err := json.Marshal(sealed{Type: t, Key: m.aead.Seal(nil, nil, der, []byte(id))})
	if err != nil {
		return nil, fmt.Errorf("encode key %q: %w", id, err)
	}
	return value, nil
}

func (m *Manager) open(id string, value []byte) (crypto.Signer, error) {
	var record sealed
	if err := json.Unmarshal(value, &record); err != nil {
		return nil, fmt.Errorf("decode key %q: %w", id, err)
	}
	der, err := m.aead.Open(nil, nil, record.Key, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("open key %q: it was changed, or sealed under another key or id", id)
	}
	defer clear(der)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parse key %q: %w", id, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %q cannot sign", id)
	}
	return signer, nil
}
