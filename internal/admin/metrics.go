package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// maxScrapers bounds the connections for metrics; more wait.
const maxScrapers = 64

func metricsHandler(gatherer prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// ServeMetrics answers /metrics, /livez and /readyz on l until ctx ends. notReady names what the process waits for; none means that
// it is ready. Nothing can be changed here, and nothing secret is shown.
func ServeMetrics(ctx context.Context, l net.Listener, gatherer prometheus.Gatherer, notReady func() []string) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metricsHandler(gatherer))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("live\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if waits := notReady(); len(waits) > 0 {
			http.Error(w, "not ready: "+strings.Join(waits, ", "), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(netutil.LimitListener(l, maxScrapers)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
