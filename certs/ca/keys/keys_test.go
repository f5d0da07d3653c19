package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/certs/store"
)

func openStore(t *testing.T) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "postern.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, s store.Store, sealer Sealer) *Manager {
	t.Helper()
	m, err := Open(t.Context(), s, sealer)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return m
}

// cheap is a passphrase whose derivation does not cost the tests their time.
func cheap(secret string) Sealer {
	return &passphrase{secret: []byte(secret), cost: argonCost{Time: 1, Memory: 64, Threads: 1}}
}

func sealers(t *testing.T) map[string]Sealer {
	t.Helper()
	return map[string]Sealer{
		KindPassphrase: cheap("correct horse"),
		KindLocalFile:  LocalFile(filepath.Join(t.TempDir(), "sealing.key")),
	}
}

// add makes a key and stores it in a transaction of its own.
func add(ctx context.Context, m *Manager, id string, t Type) (crypto.Signer, error) {
	signer, err := Generate(t)
	if err != nil {
		return nil, err
	}
	op, err := m.Seal(id, t, signer)
	if err != nil {
		return nil, err
	}
	_, err = m.store.Commit(ctx, store.Txn{Then: []store.Op{op}})
	return signer, err
}

func TestKeysComeBackAfterReopening(t *testing.T) {
	t.Parallel()
	for kind, sealer := range sealers(t) {
		s := openStore(t)
		m := open(t, s, sealer)
		if m.Kind() != kind {
			t.Errorf("Kind is %q, want %q", m.Kind(), kind)
		}
		for _, keyType := range []Type{"", ECP256, ECP384, Ed25519, RSA2048} {
			id := "key-" + string(keyType)
			made, err := add(t.Context(), m, id, keyType)
			if err != nil {
				t.Fatalf("%s: add: %v", keyType, err)
			}
			loaded, err := open(t, s, sealer).Load(t.Context(), id)
			if err != nil {
				t.Fatalf("%s: Load: %v", keyType, err)
			}
			if !loaded.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(made.Public()) {
				t.Errorf("%s: another key came back", keyType)
			}
		}
	}
}

func TestStoreNeverHoldsAKeyInTheClear(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	m := open(t, s, cheap("correct horse"))
	signer, err := add(t.Context(), m, "k", ECP256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range page.Items {
		if bytes.Contains(item.Value, der[len(der)/2:]) || bytes.Contains(item.Value, []byte("correct horse")) {
			t.Errorf("%q holds a secret in the clear", item.Key)
		}
	}
}

func TestDeletedKeyIsGone(t *testing.T) {
	t.Parallel()
	m := open(t, openStore(t), cheap("correct horse"))
	if _, err := add(t.Context(), m, "k", ECP256); err != nil {
		t.Fatal(err)
	}
	if empty, err := m.Empty(t.Context()); err != nil || empty {
		t.Errorf("Empty = %v, %v with one key", empty, err)
	}
	if err := errors.Join(m.Delete(t.Context(), "k"), m.Delete(t.Context(), "never was")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Load(t.Context(), "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Load: %v, want ErrNotFound", err)
	}
	if empty, err := m.Empty(t.Context()); err != nil || !empty {
		t.Errorf("Empty = %v, %v without keys", empty, err)
	}
}

func TestSealedKeyCannotPassForAnother(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	m := open(t, s, cheap("correct horse"))
	if _, err := add(t.Context(), m, "root", ECP256); err != nil {
		t.Fatal(err)
	}
	item, err := s.Get(t.Context(), keyPrefix+"root")
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, keyPrefix+"signing", item.Value)
	if _, err := m.Load(t.Context(), "signing"); err == nil {
		t.Error("a key was loaded under another's id")
	}
	damaged := bytes.Replace(item.Value, []byte(`"key":"`), []byte(`"key":"A`), 1)
	commit(t, s, keyPrefix+"root", damaged)
	if _, err := m.Load(t.Context(), "root"); err == nil {
		t.Error("a damaged key was loaded")
	}
}

func commit(t *testing.T, s store.Store, key string, value []byte) {
	t.Helper()
	if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{{Key: key, Value: value, Delete: value == nil}}}); err != nil {
		t.Fatal(err)
	}
}

func TestWrongSealerIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	open(t, s, cheap("correct horse"))
	before, _ := s.Revision(t.Context())
	other := LocalFile(filepath.Join(t.TempDir(), "sealing.key"))
	for name, sealer := range map[string]Sealer{"wrong passphrase": cheap("battery staple"), "another kind": other} {
		if _, err := Open(t.Context(), s, sealer); !errors.Is(err, ErrWrongSealingKey) {
			t.Errorf("%s: %v, want ErrWrongSealingKey", name, err)
		}
	}
	if after, _ := s.Revision(t.Context()); after != before {
		t.Error("the store was changed")
	}
}

func TestMissingSealingFileIsAnErrorThatSaysWhatToDo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sealing.key")
	s := openStore(t)
	open(t, s, LocalFile(path))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), s, LocalFile(path))
	if !errors.Is(err, ErrSealingKeyMissing) || !strings.Contains(err.Error(), "put it back") || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a new sealing key was made")
	}
}

func TestSealingFileOfALostStoreIsAnError(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sealing.key")
	open(t, openStore(t), LocalFile(path))
	if _, err := Open(t.Context(), openStore(t), LocalFile(path)); !errors.Is(err, ErrStateLost) {
		t.Errorf("empty store beside a sealing key: %v, want ErrStateLost", err)
	}
}

func TestKeysWithoutTheRecordOfTheirSealingAreAnError(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	if _, err := add(t.Context(), open(t, s, cheap("correct horse")), "k", ECP256); err != nil {
		t.Fatal(err)
	}
	commit(t, s, sealingKey, nil)
	if _, err := Open(t.Context(), s, cheap("correct horse")); !errors.Is(err, ErrStateLost) {
		t.Errorf("Open: %v, want ErrStateLost", err)
	}
}

func TestSealingFileIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("NOT TESTED: Windows has no permission bits")
	}
	path := filepath.Join(t.TempDir(), "sealing.key")
	s := openStore(t)
	open(t, s, LocalFile(path))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != sealingKeySize {
		t.Fatalf("sealing key file is %v, %v", info, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, LocalFile(path)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestDamagedSealingFileIsRefused(t *testing.T) {
	t.Parallel()
	for _, content := range [][]byte{nil, []byte("short"), make([]byte, sealingKeySize), make([]byte, sealingKeySize+1)} {
		path := filepath.Join(t.TempDir(), "sealing.key")
		s := openStore(t)
		open(t, s, LocalFile(path))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, LocalFile(path)); err == nil {
			t.Errorf("%d bytes: accepted", len(content))
		}
	}
}

// crashing is a store whose first commit, or the moment after it, never comes.
type crashing struct {
	store.Store
	before bool
}

func (c crashing) Commit(ctx context.Context, txn store.Txn) (store.Revision, error) {
	if !c.before {
		if _, err := c.Store.Commit(ctx, txn); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("the process died")
}

func TestCreationSurvivesACrashOnEitherSideOfTheCommit(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "sealing.key")
		s := openStore(t)
		if _, err := Open(t.Context(), crashing{Store: s, before: before}, LocalFile(path)); err == nil {
			t.Fatal("the crash did not happen")
		}
		if _, err := add(t.Context(), open(t, s, LocalFile(path)), "k", ECP256); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, s, LocalFile(path)).Load(t.Context(), "k"); err != nil {
			t.Errorf("before the commit %v: %v", before, err)
		}
	}
}

func TestPassphraseDoesNotShowItself(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	sealer := Passphrase([]byte("correct horse"))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("opened", slog.Any("sealer", sealer))
	fmt.Fprintf(&out, "%v %+v %#v %s", sealer, sealer, sealer, sealer)
	if strings.Contains(out.String(), "horse") {
		t.Errorf("output is %s", out.String())
	}
}

func TestPassphraseBoundsWhatTheStoreMayAskOfIt(t *testing.T) {
	t.Parallel()
	for _, params := range []string{
		`{"kdf":"argon2id","salt":"AAAA","time":1,"memory_kib":4294967295,"threads":1}`,
		`{"kdf":"argon2id","salt":"AAAA","time":1000000,"memory_kib":64,"threads":1}`,
		`{"kdf":"argon2id","salt":"AAAA","time":0,"memory_kib":64,"threads":1}`,
		`{"kdf":"argon2id","salt":"AAAA","time":1,"memory_kib":64,"threads":0}`,
		`{"kdf":"md5","salt":"AAAA","time":1,"memory_kib":64,"threads":1}`, `nonsense`,
	} {
		if _, err := cheap("correct horse").Open([]byte(params)); err == nil {
			t.Errorf("%s: accepted", params)
		}
	}
	if _, _, err := Passphrase([]byte("short")).Create(); err == nil {
		t.Error("a short passphrase was accepted")
	}
}

func TestDefaultPassphraseCostOpensAgain(t *testing.T) {
	t.Parallel()
	key, params, err := Passphrase([]byte("correct horse")).Create()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Passphrase([]byte("correct horse")).Open(params)
	if err != nil || !bytes.Equal(key, again) || len(key) != sealingKeySize {
		t.Errorf("another key came out: %v", err)
	}
}

func TestTypesHaveNames(t *testing.T) {
	t.Parallel()
	for _, want := range Types() {
		if got, err := ParseType(string(want)); err != nil || got != want {
			t.Errorf("ParseType(%q) = %q, %v", want, got, err)
		}
	}
	if got, err := ParseType(""); err != nil || got != ECP256 {
		t.Errorf(`ParseType("") = %q, %v`, got, err)
	}
	if _, err := ParseType("dsa"); err == nil || !strings.Contains(err.Error(), "ec_p256") {
		t.Errorf("ParseType of an unknown name: %v", err)
	}
	if _, err := Generate("dsa"); err == nil {
		t.Error("a key of an unknown type was made")
	}
}
