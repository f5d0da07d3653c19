package enroll

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/testkit"
)

// someIdentity is a node's, under a test authority.
func someIdentity(t testing.TB, name string) *NodeIdentity {
	t.Helper()
	authority, key := testkit.NewCA(t, "example.org"), testkit.NewKey(t)
	leaf := authority.Leaf(t, testkit.WithURIs("spiffe://example.org/node/"+name), testkit.WithKey(key))
	chain, err := parseChain(leaf.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	identity := &NodeIdentity{Key: key, Chain: chain, Authorities: append(chain[:0:0], authority.Root)}
	if err := identity.check(); err != nil {
		t.Fatal(err)
	}
	return identity
}

func TestStateIsPrivateAndReadBackAsItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "node")
	state, err := OpenState(dir)
	must(t, err)
	if _, err := state.Load(); !IsNotAttested(err) {
		t.Fatalf("before anything was saved: %v", err)
	}
	for _, name := range []string{"first", "second"} {
		identity := someIdentity(t, name)
		must(t, state.Save(identity))
		got, err := state.Load()
		must(t, err)
		if got.ID != identity.ID || !got.Chain[0].Equal(identity.Chain[0]) || len(got.Chain) != len(identity.Chain) ||
			len(got.Authorities) != 1 || !got.Authorities[0].Equal(identity.Authorities[0]) {
			t.Errorf("read back %+v", got)
		}
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, stateFile): 0o600} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%q has mode %s, want %s", path, info.Mode().Perm(), want)
		}
	}
	files, err := os.ReadDir(dir)
	must(t, err)
	if len(files) != 1 {
		t.Errorf("%d files are left, want the one", len(files))
	}
}

func TestStateThatOthersMayReadIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	state, err := OpenState(dir)
	must(t, err)
	must(t, state.Save(someIdentity(t, "web")))
	must(t, os.Chmod(filepath.Join(dir, stateFile), 0o640))
	if _, err := state.Load(); err == nil || IsNotAttested(err) {
		t.Errorf("file with mode 0640: %v", err)
	}
	must(t, os.Chmod(dir, 0o755)) //nolint:gosec // what the test is about
	if _, err := OpenState(dir); err == nil {
		t.Error("directory with mode 0755 was taken")
	}
}

func TestFailedSaveLeavesTheOldIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	state, err := OpenState(dir)
	must(t, err)
	old := someIdentity(t, "old")
	must(t, state.Save(old))
	must(t, os.Rename(dir, dir+".away")) // not to be written to, for root neither
	if err := state.Save(someIdentity(t, "new")); err == nil {
		t.Fatal("saved into a directory that is not there")
	}
	must(t, os.Rename(dir+".away", dir))
	got, err := state.Load()
	must(t, err)
	if got.ID != old.ID {
		t.Errorf("identity is %q", got.ID)
	}
}

func TestDamagedStateIsRefusedWithoutShowingTheKey(t *testing.T) {
	good, err := encodeIdentity(someIdentity(t, "web"))
	must(t, err)
	other, err := encodeIdentity(someIdentity(t, "web"))
	must(t, err)
	block, rest := pem.Decode(good)
	_, othersRest := pem.Decode(other)
	keyText := strings.Split(string(pem.EncodeToMemory(block)), "\n")[1]
	for name, data := range map[string][]byte{
		"empty":               nil,
		"key alone":           pem.EncodeToMemory(block),
		"no key":              rest,
		"key of another SVID": append(pem.EncodeToMemory(block), othersRest...),
		"cut in the middle":   good[:len(good)/2],
		"unexpected block":    append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: block.Bytes}), rest...),
		"damaged key":         append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes[1:]}), rest...),
		"far too large":       append(bytes.Repeat([]byte("x"), maxState), good...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decodeIdentity(data)
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), keyText[:16]) {
				t.Errorf("error %q shows the key", err)
			}
		})
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	good, err := encodeIdentity(someIdentity(f, "web"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		identity, err := decodeIdentity(data)
		if err != nil {
			return
		}
		again, err := encodeIdentity(identity)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeIdentity(again); err != nil || second.ID != identity.ID {
			t.Fatalf("what was accepted is written as %q, which reads %v, %v", again, second, err)
		}
	})
}

// FuzzAccept: whatever an authority answers, an identity that is accepted is for our key and of a node.
func FuzzAccept(f *testing.F) {
	identity := someIdentity(f, "web")
	f.Add(identity.Chain[0].Raw, identity.Chain[1].Raw, identity.Authorities[0].Raw)
	f.Add([]byte{}, []byte{0x30}, []byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, leaf, intermediate, root []byte) {
		chain, err := parseChain([][]byte{leaf, intermediate})
		if err != nil {
			return
		}
		authorities, err := parseChain([][]byte{root})
		if err != nil {
			return
		}
		got := &NodeIdentity{Key: identity.Key, Chain: chain, Authorities: authorities}
		if got.check() != nil || verifyOwn(chain, authorities, got.ID, nowFunc()) != nil {
			return
		}
		if got.ID != identity.ID {
			t.Fatalf("accepted %q", got.ID)
		}
	})
}
