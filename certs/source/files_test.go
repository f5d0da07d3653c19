package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/testkit"
)

// fileWorld is a directory with credentials and the source that follows it.
type fileWorld struct {
	*Files
	t   *testing.T
	ca  *testkit.CA
	dir string
}

func newFileWorld(t *testing.T) *fileWorld {
	t.Helper()
	w := &fileWorld{t: t, ca: testkit.NewCA(t, "example.org"), dir: t.TempDir()}
	w.write(w.dir, w.ca.Leaf(t))
	w.Files = w.open(w.dir)
	return w
}

func (w *fileWorld) open(dir string) *Files {
	w.t.Helper()
	files, err := NewFiles(FilesOptions{
		Certificate: filepath.Join(dir, "svid.pem"), Key: filepath.Join(dir, "svid.key"), Bundle: filepath.Join(dir, "ca.pem"),
		Logger: slog.New(slog.DiscardHandler), Poll: time.Hour,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

func (w *fileWorld) write(dir string, leaf tls.Certificate) {
	w.t.Helper()
	w.put(filepath.Join(dir, "svid.key"), testkit.KeyPEM(w.t, leaf))
	w.put(filepath.Join(dir, "svid.pem"), testkit.ChainPEM(leaf))
	w.put(filepath.Join(dir, "ca.pem"), w.ca.RootPEM())
}

func (w *fileWorld) put(path string, data []byte) {
	w.t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// follow runs the source to the end of the test.
func (w *fileWorld) follow(files *Files) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- files.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
}

// await waits until the holder has this leaf.
func (w *fileWorld) await(holder *Holder, leaf tls.Certificate) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	for {
		changed := holder.Changed()
		if x := holder.Get(); x != nil && x.Certificate.Leaf.Equal(leaf.Leaf) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatal("the new certificate was not taken")
		}
	}
}

func TestFilesAreTakenAsTheyAreReplaced(t *testing.T) {
	for _, test := range []struct {
		name    string
		replace func(w *fileWorld, leaf tls.Certificate)
	}{
		{"written over", func(w *fileWorld, leaf tls.Certificate) { w.write(w.dir, leaf) }},
		{"renamed over", func(w *fileWorld, leaf tls.Certificate) {
			next := w.t.TempDir()
			w.write(next, leaf)
			for _, name := range []string{"svid.key", "svid.pem", "ca.pem"} {
				if err := os.Rename(filepath.Join(next, name), filepath.Join(w.dir, name)); err != nil {
					w.t.Fatal(err)
				}
			}
		}},
		{"removed and written again", func(w *fileWorld, leaf tls.Certificate) {
			for _, name := range []string{"svid.key", "svid.pem", "ca.pem"} {
				if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
					w.t.Fatal(err)
				}
			}
			w.write(w.dir, leaf)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newFileWorld(t)
			if err := w.Load(); err != nil {
				t.Fatal(err)
			}
			w.follow(w.Files)
			first := w.Holder().Get()
			next := w.ca.Leaf(t)
			test.replace(w, next)
			w.await(w.Holder(), next)
			if x := w.Holder().Get(); x.Generation <= first.Generation {
				t.Errorf("generation %d after %d", x.Generation, first.Generation)
			}
			if n := testutil.ToFloat64(w.metrics.rotations); n != 1 {
				t.Errorf("%v rotations counted", n)
			}
		})
	}
}

// Kubernetes mounts a volume whose files are links into "..data", a link that is moved to a new directory.
func TestFilesBehindASwappedLinkAreTaken(t *testing.T) {
	w := newFileWorld(t)
	mount := t.TempDir()
	version := func(name string, leaf tls.Certificate) {
		dir := filepath.Join(mount, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w.write(dir, leaf)
		if err := os.Symlink(name, filepath.Join(mount, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(mount, "..new"), filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..v1", w.ca.Leaf(t))
	for _, name := range []string{"svid.key", "svid.pem", "ca.pem"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)); err != nil {
			t.Fatal(err)
		}
	}
	files := w.open(mount)
	if err := files.Load(); err != nil {
		t.Fatal(err)
	}
	w.follow(files)
	for _, name := range []string{"..v2", "..v3"} {
		next := w.ca.Leaf(t)
		version(name, next)
		w.await(files.Holder(), next)
	}
}

func TestFilesThatDoNotFitTogetherLeaveWhatIsThere(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(w *fileWorld)
		want  string
	}{
		{"certificate of another key", func(w *fileWorld) {
			w.put(filepath.Join(w.dir, "svid.pem"), testkit.ChainPEM(w.ca.Leaf(w.t)))
		}, "svid.key\": key does not belong"},
		{"a key that everybody may read", func(w *fileWorld) {
			_ = os.Chmod(filepath.Join(w.dir, "svid.key"), 0o604)
		}, "open to everybody"},
		{"half a certificate", func(w *fileWorld) {
			data, _ := os.ReadFile(filepath.Join(w.dir, "svid.pem"))
			w.put(filepath.Join(w.dir, "svid.pem"), data[:len(data)/3])
		}, "no certificate in it"},
		{"an empty key file", func(w *fileWorld) { w.put(filepath.Join(w.dir, "svid.key"), nil) }, "no unencrypted private key"},
		{"a malformed key", func(w *fileWorld) {
			w.put(filepath.Join(w.dir, "svid.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
		}, "malformed private key"},
		{"no bundle", func(w *fileWorld) { _ = os.Remove(filepath.Join(w.dir, "ca.pem")) }, "no such file"},
		{"an expired certificate", func(w *fileWorld) { w.write(w.dir, w.ca.Leaf(w.t, testkit.WithTTL(-time.Second))) }, "ended at"},
		{"two URI SANs", func(w *fileWorld) {
			w.write(w.dir, w.ca.Leaf(w.t, testkit.WithURIs("spiffe://example.org/a", "spiffe://example.org/b")))
		}, "SPIFFE ID"},
		{"an authority", func(w *fileWorld) { w.write(w.dir, w.ca.Leaf(w.t, testkit.AsAuthority())) }, "signing certificate"},
		{"a file without end", func(w *fileWorld) {
			w.put(filepath.Join(w.dir, "ca.pem"), bytes.Repeat([]byte("x"), maxCredentialFile+1))
		}, "is larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newFileWorld(t)
			if err := w.Load(); err != nil {
				t.Fatal(err)
			}
			before := w.Holder().Get()
			test.spoil(w)
			err := w.Load()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), `"spiffe://example.org/workload" taken before serves on until `+before.NotAfter.Format(time.RFC3339)) {
				t.Errorf("%v does not say what serves now", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error quotes the key file: %v", err)
			}
			if w.Holder().Get() != before {
				t.Error("what was there did not stay")
			}
		})
	}
}

func TestUnchangedFilesMakeNoNewValue(t *testing.T) {
	w := newFileWorld(t)
	for range 2 {
		if err := w.Load(); err != nil {
			t.Fatal(err)
		}
	}
	if x := w.Holder().Get(); x.Generation != 1 {
		t.Errorf("generation %d, want 1", x.Generation)
	}
}

func TestSVIDInFilesEndsWithItsLife(t *testing.T) {
	w := newFileWorld(t)
	end := time.Now().Add(2 * time.Second).Truncate(time.Second) // certificates know whole seconds
	w.write(w.dir, w.ca.Leaf(t, testkit.WithValidity(end.Add(-time.Hour), end)))
	if err := w.Load(); err != nil {
		t.Fatal(err)
	}
	changed := w.Holder().Changed()
	w.follow(w.Files)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told")
	}
	if w.Holder().Get() != nil || time.Now().Before(end) {
		t.Errorf("holds %v at %s, end %s", w.Holder().Get(), time.Now(), end)
	}
}

func TestRevocationListInFilesIsTakenFromOurAuthoritiesOnly(t *testing.T) {
	w := newFileWorld(t)
	path := filepath.Join(w.dir, "crl.pem")
	w.options.CRL = path
	list := func(ca *testkit.CA, fromRoot bool) []byte {
		issuer, key := ca.Signing, ca.SigningKey
		if fromRoot {
			issuer, key = ca.Root, ca.RootKey
		}
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(0xabc), RevocationTime: time.Now()}},
		}, issuer, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	}
	w.put(path, list(testkit.NewCA(t, "example.org"), true))
	if err := w.Load(); err == nil {
		t.Error("a list that a stranger signed was taken")
	}
	w.put(path, append(list(w.ca, true), list(w.ca, false)...))
	if err := w.Load(); err != nil {
		t.Fatal(err)
	}
	got := w.Revocations()
	if len(got) != 2 || got[0].Kind != revocation.Serial || got[0].Value != "abc" {
		t.Errorf("revocations %+v", got)
	}
	index := revocation.NewIndex(got)
	leaf := w.ca.Leaf(t, testkit.WithSerial(big.NewInt(0xabc)))
	if _, revoked := index.Match([]*x509.Certificate{leaf.Leaf}, id("/workload"), time.Now()); !revoked {
		t.Error("the certificate of the list is not revoked")
	}
	generation := w.Holder().Get().Generation
	w.put(path, nil)
	if err := w.Load(); err != nil || len(w.Revocations()) != 0 || w.Holder().Get().Generation <= generation {
		t.Errorf("an emptied list: %v, %d revocations", err, len(w.Revocations()))
	}
}

// What others write into the files is read without panic, and what is taken holds together.
func FuzzFiles(f *testing.F) {
	ca := testkit.NewCA(f, "example.org")
	leaf := ca.Leaf(f)
	f.Add(testkit.ChainPEM(leaf), testkit.KeyPEM(f, leaf), ca.RootPEM(), []byte{})
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN EC PRIVATE KEY-----\n"), []byte{}, []byte("x"))
	f.Fuzz(func(t *testing.T, certificate, key, bundle, crl []byte) {
		x, _, err := fileContents{certificate, key, bundle, crl}.parse(FilesOptions{}, 1)
		if err == nil && (x.ID.IsZero() || x.Roots[x.ID.TrustDomain()] == nil || x.Certificate.Leaf == nil) {
			t.Errorf("took %+v", x)
		}
	})
}
