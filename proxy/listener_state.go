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
	"github.com/postern-proxy/postern/proxy/l7/http2"
	"github.com/postern-proxy/postern/proxy/limit"
	"github.com/postern-proxy/postern/proxy/listener"
	"github.com/postern-proxy/postern/proxy/mtls"
)

// listenerState is a listener of one generation, linked to what it works with. It is immutable.
type listenerState struct {
	spec        *listenerSpec
	credentials *source.Holder // never nil
	tls         *mtls.Server   // nil for plaintext
	http1       *http1.Server
	http2       *http2.Server
	bounds      limit.Bounds
	limiter     *limit.Limiter // the same for all generations of the listener
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
	believed string // whose PROXY headers: the addresses that they gave live as long as the connections
}

func (s *Server) newListenerState(spec *listenerSpec, old *listenerState) (*listenerState, error) {
	l := &spec.declared
	state := &listenerState{spec: spec, lineage: &lineage{l.Name, l.Protocol, l.Service, l.TLS, l.Caller, believed(l.ProxyProtocol)}}
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
	state.bounds, state.limiter = boundsOf(l), old.limits()
	s.makeEngines(state)
	return state, nil
}

// makeEngines gives the listener what speaks HTTP on its connections.
func (s *Server) makeEngines(state *listenerState) {
	l := &state.spec.declared
	handler, secure := l7.HandlerFunc(s.ServeExchange), scheme(state.tls != nil)
	refused := func(ctx context.Context, err *l7.Error) *l7.Response {
		return s.refusedByEngine(connectionFrom(ctx), state, err)
	}
	state.http1 = http1.NewServer(http1.ServerOptions{
		Handler: handler, Scheme: secure, Refused: refused,
		Limits: http1.Limits{MaxHead: int(l.Limits.MaxHead), MaxFields: l.Limits.MaxFields, MinBodyRate: orNone(int(l.Limits.MinBodyRate))},
		Timeouts: http1.Timeouts{Head: l.Timeouts.Head, Idle: l.Timeouts.Idle, Body: l.Timeouts.BodyIdle,
			Write: l.Timeouts.BodyIdle},
	})
	state.http2 = http2.NewServer(http2.ServerOptions{
		Handler: handler, Scheme: secure, Refused: refused,
		Limits: http2.Limits{MaxHead: int(l.Limits.MaxHead), MaxFields: l.Limits.MaxFields, MaxStreams: l.Limits.MaxStreams},
		Timeouts: http2.Timeouts{Head: l.Timeouts.Head, Idle: l.Timeouts.Idle, Body: l.Timeouts.BodyIdle,
			Write: l.Timeouts.BodyIdle, StreamIdle: l.Timeouts.StreamIdle},
	})
}

func boundsOf(l *config.Listener) limit.Bounds {
	each := &l.Limits.PerIdentity
	return limit.Bounds{Requests: l.Limits.MaxRequests, CallerConnections: each.MaxConnections,
		CallerRequests: each.MaxRequests, CallerRate: each.RequestsPerSecond}
}

// limits are the counters of the listener, which it keeps over its generations; new ones when there was none. Their bounds are set
// when the generation serves.
func (s *listenerState) limits() *limit.Limiter {
	if s == nil {
		return limit.New(limit.Bounds{})
	}
	return s.limiter
}

func believed(p *config.ProxyProtocol) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

// proxyProtocol is what the socket reads in front of each connection; nil for nothing.
func (s *listenerState) proxyProtocol() *listener.ProxyProtocol {
	declared := s.spec.declared.ProxyProtocol
	if declared == nil {
		return nil
	}
	return &listener.ProxyProtocol{Trusted: declared.Trusted, Required: !declared.Optional}
}

func (s *Server) terminator(l *config.Listener, credentials *source.Holder) *mtls.Server {
	options := mtls.ServerOptions{
		Credentials: credentials, Mutual: l.TLS.Mode == config.TLSMutual, Revocations: s.options.Revocations,
		MinVersion: tlsVersion(l.TLS.MinVersion), RequirePQ: l.TLS.RequirePQ, Timeout: l.Timeouts.Handshake, Gate: s.gate, Now: s.options.Now,
	}
	if l.Protocol.HTTP() {
		options.ALPN = []string{alpnHTTP2, alpnHTTP1, alpnHTTP10}
	}
	return mtls.NewServer(options)
}

// Names of protocols in ALPN (RFC 7301, Section 6; RFC 9113, Section 3.1).
const (
	alpnHTTP2 = "h2"
	alpnHTTP1 = "http/1.1"
	// alpnHTTP10 is all that curl --http1.0 offers; the engine speaks it as well.
	alpnHTTP10 = "http/1.0"
)

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
