package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-proxy/postern/internal/admin"
)

// Options say how to run.
type Options struct {
	// Binary is the postern to run; its path.
	Binary string
	// Out takes what is shown.
	Out io.Writer
	// Once ends after the last step instead of staying up until ctx ends.
	Once bool
}

// Run shows every step and then, unless told to end, stays up until ctx ends. The error says which step did not go as it should.
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	dir, err := os.MkdirTemp("", "postern-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demonstration: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, stop, err := setUp(ctx, o.Binary, dir)
	defer stop()
	if err != nil {
		return err
	}
	say(o.Out, "An authority, the services web and orders, and a sidecar for each are up (%d ms).\n", time.Since(began).Milliseconds())
	for i, st := range steps {
		say(o.Out, "%d. %s", i+1, st.title)
		saw, err := st.run(ctx, s)
		if err != nil {
			say(o.Out, "   FAILED: %s", err)
			return fmt.Errorf("step %d (%s): %w", i+1, st.title, err)
		}
		say(o.Out, "   %s\n", saw)
	}
	say(o.Out, "All of it in %.1f s.", time.Since(began).Seconds())
	if o.Once {
		return nil
	}
	s.invite(o.Out, o.Binary, dir)
	<-ctx.Done()
	say(o.Out, "\nEnding; nothing is left behind.")
	return nil
}

// setUp starts everything. stop ends what was started, also after an error.
func setUp(ctx context.Context, binary, dir string) (s *stage, stop func(), err error) {
	s = &stage{client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
	var stops []func()
	stop = func() {
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	if s.ports, err = freePorts(ctx); err != nil {
		return s, stop, err
	}
	backend, err := startService(ctx, "orders", orders())
	if err != nil {
		return s, stop, err
	}
	stops = append(stops, backend.stop)
	front, err := startService(ctx, "web", web(fmt.Sprintf("http://127.0.0.1:%d", s.ports.outbound)))
	if err != nil {
		return s, stop, err
	}
	stops = append(stops, front.stop)
	s.frontend = "http://" + front.addr
	if err := writeFiles(dir, s.ports, backend.addr); err != nil {
		return s, stop, err
	}
	run := func(name string) (*process, error) {
		p, err := start(ctx, binary, dir, name)
		if p != nil {
			stops = append(stops, p.stop)
		}
		return p, err
	}
	if s.authority, err = run("authority"); err != nil {
		return s, stop, err
	}
	for _, name := range []string{"orders", "web"} {
		if err := s.token(ctx, dir, name); err != nil {
			return s, stop, err
		}
	}
	if s.orders, err = run("orders"); err != nil {
		return s, stop, err
	}
	s.web, err = run("web")
	stops = append(stops, s.client.CloseIdleConnections)
	return s, stop, err
}

// token lets the sidecar of a service join, with the identity of the service.
func (s *stage) token(ctx context.Context, dir, name string) error {
	token, err := s.authority.admin.CreateToken(ctx, admin.TokenRequest{Node: name, Identities: []string{"spiffe://demo.internal/" + name}})
	if err != nil {
		return fmt.Errorf("make a join token for %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".token"), []byte(token.Token+"\n"), 0o600); err != nil {
		return fmt.Errorf("write a join token: %w", err)
	}
	return nil
}

func (s *stage) invite(out io.Writer, binary, dir string) {
	say(out, `
Everything stays up. Try, in another terminal:

  curl -i %s/orders/7                          # through web: allowed
  curl -i -X DELETE %s/orders/7                # denied, with a decision id
  curl -i http://127.0.0.1:%d/v1/orders/7              # straight into the sidecar of web: you speak as web
  curl -ki https://127.0.0.1:%d/v1/orders/7            # refused: no identity
  %s --admin-address %s/orders.sock explain <decision id>

Ctrl-C ends it.`, s.frontend, s.frontend, s.ports.outbound, s.ports.inbound, binary, dir)
}

func say(out io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(out, format+"\n", args...)
}
