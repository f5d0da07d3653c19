package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/internal/admin"
	"github.com/postern-proxy/postern/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// process is a process that remembers what it was asked.
type process struct {
	actors []string
	err    error
}

func (p *process) Status(context.Context) admin.Status {
	return admin.Status{Version: "test", Ready: true}
}
func (p *process) Reload(_ context.Context, actor string) error {
	p.actors = append(p.actors, actor)
	return p.err
}
func (p *process) Explain(_ context.Context, r admin.ExplainRequest) (admin.Explanation, error) {
	return admin.Explanation{Service: r.Service, Effect: "allow"}, p.err
}
func (p *process) ExplainDecision(context.Context, string) (admin.Explanation, error) {
	return admin.Explanation{}, p.err
}
func (p *process) Bundle(context.Context) (admin.Bundle, error) { return admin.Bundle{}, p.err }
func (p *process) SetLogLevel(_ context.Context, _ slog.Level, actor string) {
	p.actors = append(p.actors, actor)
}
func (p *process) Drain(_ context.Context, actor string) { p.actors = append(p.actors, actor) }

// serve runs a server whose callers are the user uid, as it tells.
func serve(t *testing.T, p *process, uid uint32, peer func(*net.UnixConn) (admin.Caller, error)) (*admin.Client, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "adm") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "a.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := admin.NewServer(p, nil, prometheus.NewRegistry(), admin.Callers{UID: uid, PeerOf: peer}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	client := admin.NewClient(socket)
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return client, socket
}

func user(uid uint32) func(*net.UnixConn) (admin.Caller, error) {
	return func(*net.UnixConn) (admin.Caller, error) { return admin.Caller{UID: uid, PID: 1}, nil }
}

func code(t *testing.T, err error) string {
	t.Helper()
	var refused *admin.Error
	if !errors.As(err, &refused) {
		t.Fatalf("error %v is no answer of the socket", err)
	}
	return refused.Code
}

func TestOnlyTheOwnUserAndRootAreServed(t *testing.T) {
	for name, row := range map[string]struct {
		peer func(*net.UnixConn) (admin.Caller, error)
		ok   bool
	}{
		"the own user":            {user(1000), true},
		"root":                    {user(0), true},
		"another user":            {user(1001), false},
		"one that cannot be told": {func(*net.UnixConn) (admin.Caller, error) { return admin.Caller{}, errors.New("no credentials") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := serve(t, &process{}, 1000, row.peer)
			_, err := client.Status(t.Context())
			if row.ok && err != nil {
				t.Error(err)
			}
			if !row.ok && code(t, err) != admin.CodeDenied {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAChangeKnowsItsActor(t *testing.T) {
	p := &process{}
	client, _ := serve(t, p, 1000, user(0))
	if err := client.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.actors) != 1 || p.actors[0] != "uid:0" {
		t.Errorf("actors %v", p.actors)
	}
}

func TestAnErrorKeepsItsKindAndItsDetails(t *testing.T) {
	p := &process{err: &admin.Error{Code: admin.CodeInvalid, Err: errors.New("refused"), Details: []string{"a.yaml:1:1: PST010"}}}
	client, _ := serve(t, p, 0, user(0))
	var refused *admin.Error
	if err := client.Reload(t.Context()); !errors.As(err, &refused) || refused.Code != admin.CodeInvalid || len(refused.Details) != 1 {
		t.Errorf("error %+v", refused)
	}
	p.err = errors.New("disk")
	if _, err := client.Bundle(t.Context()); code(t, err) != admin.CodeInternal {
		t.Errorf("error %v", err)
	}
}

func TestAProcessWithoutAuthoritySaysSo(t *testing.T) {
	client, _ := serve(t, &process{}, 0, user(0))
	if _, err := client.Entries(t.Context()); code(t, err) != admin.CodeUnavailable {
		t.Errorf("error %v", err)
	}
}

func TestNobodyAnsweringIsTold(t *testing.T) {
	if _, err := admin.NewClient(filepath.Join(t.TempDir(), "none.sock")).Status(t.Context()); !errors.Is(err, admin.ErrUnreachable) {
		t.Errorf("error %v", err)
	}
}

func TestBrowsersUnknownKeysAndOutsizedBodiesAreRefused(t *testing.T) {
	_, socket := serve(t, &process{}, 0, user(0))
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	for name, row := range map[string]struct {
		body, origin string
		want         int
	}{
		"as it should be": {`{"service":"a"}`, "", http.StatusOK},
		"a browser":       {`{"service":"a"}`, "http://attacker.test", http.StatusForbidden},
		"an unknown key":  {`{"servise":"a"}`, "", http.StatusUnprocessableEntity},
		"too much":        {`{"service":"` + strings.Repeat("a", 5<<20) + `"}`, "", http.StatusUnprocessableEntity},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://postern/v1/explain", strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		if row.origin != "" {
			req.Header.Set("Origin", row.origin)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != row.want {
			t.Errorf("%s: %s, want %d", name, resp.Status, row.want)
		}
	}
}
