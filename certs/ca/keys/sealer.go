package keys

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/argon2"
)

// Kinds of sealers, as Kind reports them.
const (
	KindPassphrase = "passphrase"
	KindLocalFile  = "local_file"
)

const sealingKeySize = 32 // AES-256

// Errors that callers branch on. Each wrapping error says what to do.
var (
	// ErrSealingKeyMissing: the store holds sealed keys, and what opens them is not there.
	ErrSealingKeyMissing = errors.New("sealing key is missing")
	// ErrWrongSealingKey: what is there does not open them.
	ErrWrongSealingKey = errors.New("wrong sealing key")
	// ErrStateLost: there are traces of an earlier state that the store does not have.
	ErrStateLost = errors.New("state of an earlier authority is lost")
)

// Sealer gives the key under which a Manager seals. A Manager calls it from one goroutine, and zeroes the keys it was handed.
type Sealer interface {
	// Kind returns the constant word that names the kind of sealer.
	Kind() string
	// Create makes the sealing key of a store that has none yet, and what Open will need to have it again. Nothing in it is secret.
	Create() (key, params []byte, err error)
	// Open returns the sealing key that Create made with those params.
	Open(params []byte) (key []byte, err error)
	// Settle is called when the store is known to be sealed under the key last returned. It may be called again.
	Settle() error
}

// Passphrase returns a Sealer that derives the sealing key from a secret that a person or a service manager holds. It keeps a copy.
func Passphrase(secret []byte) Sealer {
	return &passphrase{secret: append([]byte(nil), secret...), cost: defaultCost}
}

type passphrase struct {
	secret []byte
	cost   argonCost
}

// argonCost is the work of one derivation.
type argonCost struct {
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memory_kib"`
	Threads uint8  `json:"threads"`
}

// defaultCost is the second recommended option of RFC 9106, Section 4, for when 2 GiB are too much to ask for: 64 MiB.
var defaultCost = argonCost{Time: 3, Memory: 64 << 10, Threads: 4}

type passphraseParams struct {
	KDF  string `json:"kdf"`
	Salt []byte `json:"salt"`
	argonCost
}

const (
	kdfArgon2id = "argon2id"
	saltSize    = 16 // RFC 9106, Section 4
	minSecret   = 8  // bytes; below it no derivation helps
)

// Kind returns KindPassphrase.
func (p *passphrase) Kind() string { return KindPassphrase }

// String hides the secret, also from %v.
func (p *passphrase) String() string { return KindPassphrase }

// GoString hides the secret from %#v.
func (p *passphrase) GoString() string { return KindPassphrase }

// LogValue hides the secret from logs.
func (p *passphrase) LogValue() slog.Value { return slog.StringValue(KindPassphrase) }

// Create draws a salt and derives the key.
func (p *passphrase) Create() (key, params []byte, err error) {
	if len(p.secret) < minSecret {
		return nil, nil, fmt.Errorf("passphrase has fewer than %d bytes", minSecret)
	}
	made := passphraseParams{KDF: kdfArgon2id, Salt: make([]byte, saltSize), argonCost: p.cost}
	_, _ = rand.Read(made.Salt) // never fails
	if params, err = json.Marshal(made); err != nil {
		return nil, nil, fmt.Errorf("encode parameters of the passphrase: %w", err)
	}
	return p.derive(made), params, nil
}

// Open derives the key again.
func (p *passphrase) Open(params []byte) ([]byte, error) {
	var made passphraseParams
	if err := json.Unmarshal(params, &made); err != nil {
		return nil, fmt.Errorf("decode parameters of the passphrase: %w", err)
	}
	const mostMemory, mostTime = 4 << 20, 64 // KiB and passes: bounds for a store that was tampered with
	if made.KDF != kdfArgon2id || made.Time == 0 || made.Time > mostTime || made.Memory > mostMemory || made.Threads == 0 {
		return nil, fmt.Errorf("parameters of the passphrase are out of bounds: kdf %q", made.KDF)
	}
	return p.derive(made), nil
}

// Settle has nothing to do: nothing is kept outside the store.
func (p *passphrase) Settle() error { return nil }

func (p *passphrase) derive(params passphraseParams) []byte {
	return argon2.IDKey(p.secret, params.Salt, params.Time, params.Memory, params.Threads, sealingKeySize)
}
