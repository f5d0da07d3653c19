package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"time"
)

// service is one of the two services: plain HTTP, which knows nothing of identities, TLS or policy.
type service struct {
	server *http.Server
	addr   string
}

func startService(ctx context.Context, name string, handler http.Handler) (*service, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the service %s: %w", name, err)
	}
	s := &service{addr: l.Addr().String(), server: &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

// orders answers for its orders, and says who asked, as its sidecar tells it.
func orders() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, "{\"order\":%q,\"asked_by\":%q}\n", r.PathValue("id"), callerIn(r.Header.Get("X-Forwarded-Client-Cert")))
	})
	mux.HandleFunc("GET /v1/feed", feed)
	return mux
}

// web asks orders for everything that it is asked, at the port of its own sidecar.
func web(sidecar string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, sidecar+"/v1"+r.URL.Path, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(flushing{w}, resp.Body); err != nil {
			panic(http.ErrAbortHandler) // so that who asked sees that the answer is not complete
		}
	})
}

// flushing hands on each piece of a response as it comes.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}

// feed is a response that never ends by itself: a live connection to cut.
func feed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (s *service) stop() { _ = s.server.Close() }
