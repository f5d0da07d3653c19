package interop

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"regexp"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// TestGoSPIFFEGetsItsFirstSVIDWithinTwoSecondsOfTheStart uses an unmodified go-spiffe client.
func TestGoSPIFFEGetsItsFirstSVIDWithinTwoSecondsOfTheStart(t *testing.T) {
	a := start(t)
	x509Source(t, a)
	if took := time.Since(a.Started); took > 2*time.Second {
		t.Errorf("first SVID %v after the process started, want less than 2s", took)
	}
}

func TestGoSPIFFEPeersTalkMutualTLSWithTheirSVIDs(t *testing.T) {
	source := x509Source(t, start(t))
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	authorized := tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain())
	client, server := net.Pipe()
	answered := make(chan error, 1)
	go func() {
		conn := tls.Server(server, tlsconfig.MTLSServerConfig(source, source, authorized))
		_, err := io.WriteString(conn, "hello")
		answered <- err
	}()
	conn := tls.Client(client, tlsconfig.MTLSClientConfig(source, source, authorized))
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q: %v", got, err)
	}
	if err := <-answered; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestPySPIFFEFetchesSVIDAndBundles(t *testing.T) {
	a := start(t)
	out, err := output(t, python(t), "testdata/workload_api.py", a.Socket)
	if err != nil || !regexp.MustCompile(`(?m)^fetched spiffe://\S+ [1-9] [1-9]$`).MatchString(out) {
		t.Errorf("%v\n%s", err, out)
	}
}

func x509Source(t *testing.T, a *process) *workloadapi.X509Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(a.Socket)))
	if err != nil {
		t.Fatalf("fetch the first SVID: %v", err)
	}
	t.Cleanup(func() { _ = source.Close() })
	return source
}
