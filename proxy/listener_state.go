package proxy

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// listenerState is a listener of one generation, linked to what it works with. It is immutable.
type listenerState struct {
	spec        *listenerSpec
	credentials *source.Holder // never nil
	tls         *mtls.Server   // nil for plaintext
	http        *http1.Server
	metrics     *listenerMetrics
	// lineage is the owner of the listener's connections. It stays the same from one generation to the next as long as nothing
	// changes on which the connections depend, and is compared as a pointer.
	lineage *lineage
}

// lineage is what the connections of a listener depend on; when it changes, they drain.
type lineage struct {
	name     string
	protocol config.Protocol
	service  string
	tls      config.ListenerTLS
	caller   config.Caller
}

func (s *Server) newListenerState(spec *listenerSpec, old *listenerState) (*listenerState, error) {
	l := &spec.declared
	state := &listenerState{spec: spec, lineage: &lineage{l.Name, l.Protocol, l.Service, l.TLS, l.Caller}}
	if old != nil && *old.lineage == *state.lineage && old.spec.address == spec.address {
		state.lineage = old.lineage
	}
	state.credentials = s.options.Credentials(l.TLS.Identity)
	if state.credentials == nil {
		return nil, fmt.Errorf("tls.identity: this process has no credential of %q", l.TLS.Identity.String())
	}
	state.metrics = newListenerMetrics(s.options.Metrics, spec)
	if l.TLS.Mode != config.TLSNone {
		state.tls = s.terminator(l, state.credentials)
	}
	state.http = http1.NewServer(http1.ServerOptions{
		Handler: l7.HandlerFunc(s.ServeExchange),
		Limits:  http1.Limits{MaxHead: int(l.Limits.MaxHead), MaxFields: l.Limits.MaxFields},
		Timeouts: http1.Timeouts{Head: l.Timeouts.Head, Idle: l.Timeouts.Idle, Body: l.Timeouts.BodyIdle,
			Write: l.Timeouts.BodyIdle},
		Scheme: scheme(state.tls != nil),
		Refused: func(ctx context.Context, err *l7.Error) *l7.Response {
			return s.refusedByEngine(connectionFrom(ctx), state, err)
		},
	})
	return state, nil
}

func (s *Server) terminator(l *config.Listener, credentials *source.Holder) *mtls.Server {
	options := mtls.ServerOptions{
		Credentials: credentials, Mutual: l.TLS.Mode == config.TLSMutual, Revocations: s.options.Revocations,
		MinVersion: tlsVersion(l.TLS.MinVersion), Timeout: l.Timeouts.Handshake, Gate: s.gate, Now: s.options.Now,
	}
	if l.Protocol.HTTP() {
		options.ALPN = []string{alpnHTTP1}
	}
	return mtls.NewServer(options)
}

// alpnHTTP1 is the name of HTTP/1.1 in ALPN (RFC 7301, Section 6).
const alpnHTTP1 = "http/1.1"

func scheme(secure bool) string {
	if secure {
		return "https"
	}
	return "http"
}

// expectation makes the patterns of a cluster the question that mtls asks.
func expectation(patterns []config.IDPattern) func(spiffeid.ID) bool {
	return func(id spiffeid.ID) bool {
		for _, p := range patterns {
			if p.Match(id) {
				return true
			}
		}
		return false
	}
}

// listenerMetrics are the children that every connection and request needs, looked up once.
type listenerMetrics struct {
	all       *observe.Metrics
	name      string
	ok        prometheus.Counter
	open      prometheus.Gauge
	handshake prometheus.Observer
	seconds   prometheus.Observer
	routes    [][6]prometheus.Counter // by place of the route, and last for none; by class of status
}

func newListenerMetrics(m *observe.Metrics, spec *listenerSpec) *listenerMetrics {
	name := spec.declared.Name
	out := &listenerMetrics{all: m, name: name,
		ok:        m.Connections.WithLabelValues(observe.Accepted, name, "ok"),
		open:      m.ConnectionsOpen.WithLabelValues(observe.Accepted, name),
		handshake: m.HandshakeSeconds.WithLabelValues(observe.Accepted, name),
		seconds:   m.RequestSeconds.WithLabelValues(name),
	}
	for _, r := range spec.routes {
		out.routes = append(out.routes, classes(m, name, r.name))
	}
	out.routes = append(out.routes, classes(m, name, ""))
	return out
}

func classes(m *observe.Metrics, listener, route string) [6]prometheus.Counter {
	var out [6]prometheus.Counter
	for class, code := range [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		out[class] = m.Requests.WithLabelValues(listener, route, code)
	}
	return out
}

// request counts one; route is its place, or -1.
func (m *listenerMetrics) request(route, status int, took time.Duration) {
	if route < 0 || route >= len(m.routes) {
		route = len(m.routes) - 1
	}
	class := status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	m.routes[route][class].Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *listenerMetrics) refused(reason observe.Reason) {
	m.all.RequestsRefused.WithLabelValues(m.name, reason.String()).Inc()
}

// began counts a connection by how it began; reason is zero for a good one.
func (m *listenerMetrics) began(reason observe.Reason) {
	if reason == "" {
		m.ok.Inc()
		m.open.Inc()
		return
	}
	m.all.Connections.WithLabelValues(observe.Accepted, m.name, reason.String()).Inc()
}

func (m *listenerMetrics) ended(reason observe.Reason) {
	m.open.Dec()
	m.all.ConnectionsClosed.WithLabelValues(observe.Accepted, m.name, reason.String()).Inc()
}
