package testkit

import (
	"crypto/x509"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeafIsAcceptedByItsAuthorityInBothRoles(t *testing.T) {
	ca := NewCA(t, "example.org")
	for _, options := range [][]LeafOption{nil, {FromRoot()}} {
		leaf := ca.Leaf(t, options...)
		if got := verify(ca, leaf.Certificate, x509.ExtKeyUsageServerAuth); got != nil {
			t.Errorf("as server: %v", got)
		}
		if got := verify(ca, leaf.Certificate, x509.ExtKeyUsageClientAuth); got != nil {
			t.Errorf("as client: %v", got)
		}
	}
}

func TestLeafFollowsTheClockOfABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaf := NewCA(t, "example.org").Leaf(t, WithTTL(20*time.Second))
		if left := time.Until(leaf.Leaf.NotAfter); left > 20*time.Second || left < 19*time.Second {
			t.Errorf("the leaf ends in %v, want 20s of the bubble's time", left)
		}
	})
}

func TestBadLeavesHaveDistinctNamesAndAReason(t *testing.T) {
	seen := map[string]bool{}
	for _, bad := range NewCA(t, "example.org").BadLeaves(t) {
		if seen[bad.Name] || bad.Reason == "" || bad.Certificate.Leaf == nil {
			t.Errorf("bad leaf %q with reason %q", bad.Name, bad.Reason)
		}
		seen[bad.Name] = true
	}
	if len(seen) < 10 {
		t.Errorf("%d bad leaves", len(seen))
	}
}

// recorder is a testing.TB that keeps what a check reported, to see checks fail.
type recorder struct {
	testing.TB
	messages []string
	cleanups []func()
}

func (r *recorder) Helper()                   {}
func (r *recorder) Failed() bool              { return false }
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)         { r.messages = append(r.messages, "error") }
func (r *recorder) Errorf(f string, a ...any) { r.messages = append(r.messages, f) }

func TestCheckLeaksReportsAGoroutineThatStays(t *testing.T) {
	r, stop := &recorder{TB: t}, make(chan struct{})
	CheckLeaks(r)
	done := make(chan struct{})
	go func() { defer close(done); <-stop }()
	r.cleanups[0]()
	close(stop)
	<-done
	if len(r.messages) == 0 {
		t.Error("a goroutine stayed and nothing was reported")
	}
}

func TestGoldenReportsADifference(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/list.txt", []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{TB: t}
	Golden(r, "list.txt", []byte("a\nb\n"))
	if len(r.messages) != 0 {
		t.Errorf("the same content: %v", r.messages)
	}
	Golden(r, "list.txt", []byte("a\nc\n"))
	if len(r.messages) != 1 || !strings.Contains(r.messages[0], "differs") {
		t.Errorf("another content: %v", r.messages)
	}
	if line := firstDifference([]byte("a\nb\n"), []byte("a\nc\n")); line != 2 {
		t.Errorf("first difference in line %d, want 2", line)
	}
}

func verify(ca *CA, chain [][]byte, usage x509.ExtKeyUsage) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, der := range chain[1:] {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(certificate)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: ca.Roots()[ca.TrustDomain], Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}
