package observe

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of the data path and of the process. Other packages register their own under the same rules: prefix postern_,
// base units, labels with a bounded set of values. Each has its line in docs/metrics.md.
type Metrics struct {
	// Connections counts accepted and dialled connections by how they began: result is "ok" or a Reason.
	Connections *prometheus.CounterVec // direction, name (listener or cluster), result
	// ConnectionsOpen is the number now open.
	ConnectionsOpen *prometheus.GaugeVec // direction, name
	// ConnectionsClosed counts why established connections ended.
	ConnectionsClosed *prometheus.CounterVec // direction, name, reason
	// HandshakeFailures counts TLS handshakes refused or failed.
	HandshakeFailures *prometheus.CounterVec // direction, name, reason
	// HandshakeSeconds is the time that a TLS handshake took.
	HandshakeSeconds *prometheus.HistogramVec // direction, name
	// Requests counts HTTP requests by the class of their answer: code is "2xx".
	Requests *prometheus.CounterVec // listener, route, code
	// RequestSeconds is the time from the head of a request to the end of its response.
	RequestSeconds *prometheus.HistogramVec // listener
	// RequestsRefused counts requests that postern itself answered with an error.
	RequestsRefused *prometheus.CounterVec // listener, reason
	// Decisions counts the answers of policy; policy is the one that decided, empty on a default denial.
	Decisions *prometheus.CounterVec // service, effect, policy
	// ShadowDecisions counts answers that a policy in shadow mode would have changed.
	ShadowDecisions *prometheus.CounterVec // service, policy, would
	// UpstreamRetries counts requests sent once more, to another endpoint or on another connection.
	UpstreamRetries *prometheus.CounterVec // cluster
	// UpstreamRetriesRefused counts requests that were not sent once more because the retry budget was used up.
	UpstreamRetriesRefused *prometheus.CounterVec // cluster
	// UpstreamAvailable is how many endpoints requests are sent to.
	UpstreamAvailable *prometheus.GaugeVec // cluster
	// UpstreamEjections counts endpoints left alone for a while: reason is "connect" or "gateway".
	UpstreamEjections *prometheus.CounterVec // cluster, reason
	// UpstreamHealthChecks counts checks of endpoints: result is "ok" or "failed".
	UpstreamHealthChecks *prometheus.CounterVec // cluster, result
	// UpstreamOverloaded counts requests that a limit of the cluster refused.
	UpstreamOverloaded *prometheus.CounterVec // cluster
	// AccessLogDropped counts lines that found the queue full.
	AccessLogDropped prometheus.Counter
	// Panics counts connections ended by a recovered panic.
	Panics prometheus.Counter
	// ReloadOK is 1 when the last load of the configuration succeeded.
	ReloadOK prometheus.Gauge
	// Generation is that of the snapshot that serves.
	Generation prometheus.Gauge
}

// NewMetrics registers the metrics on reg.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		Connections:       counter("postern_connections_total", "Connections accepted or dialled, by how they began.", "direction", "name", "result"),
		ConnectionsOpen:   gauge("postern_connections_open", "Connections now open.", "direction", "name"),
		ConnectionsClosed: counter("postern_connections_closed_total", "Established connections that ended, by reason.", "direction", "name", KeyReason),
		HandshakeFailures: counter("postern_tls_handshake_failures_total", "TLS handshakes refused or failed, by reason.", "direction", "name", KeyReason),
		HandshakeSeconds:  histogram("postern_tls_handshake_seconds", "Time that a TLS handshake took.", "direction", "name"),
		Requests:          counter("postern_requests_total", "HTTP requests by class of answer.", KeyListener, KeyRoute, "code"),
		RequestSeconds:    histogram("postern_request_seconds", "Time from the head of a request to the end of its response.", KeyListener),
		RequestsRefused:   counter("postern_requests_refused_total", "Requests that postern itself answered with an error, by reason.", KeyListener, KeyReason),
		Decisions:         counter("postern_authz_decisions_total", "Policy decisions by service, effect and the policy that decided.", KeyService, "effect", KeyPolicy),
		ShadowDecisions:   counter("postern_authz_shadow_decisions_total", "Decisions that a policy in shadow mode would have changed.", KeyService, KeyPolicy, "would"),
		UpstreamRetries:   counter("postern_upstream_retries_total", "Requests sent once more, to another endpoint or on another connection.", KeyCluster),
		UpstreamRetriesRefused: counter("postern_upstream_retries_refused_total",
			"Requests not sent once more because the retry budget was used up.", KeyCluster),
		UpstreamAvailable:    gauge("postern_upstream_endpoints_available", "Endpoints that requests are sent to.", KeyCluster),
		UpstreamEjections:    counter("postern_upstream_ejections_total", "Endpoints left alone for a while, by what they failed in.", KeyCluster, KeyReason),
		UpstreamHealthChecks: counter("postern_upstream_health_checks_total", "Checks of the health of endpoints, by result.", KeyCluster, "result"),
		UpstreamOverloaded:   counter("postern_upstream_requests_overloaded_total", "Requests that a limit of the cluster refused.", KeyCluster),
		AccessLogDropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_access_log_dropped_total",
			Help: "Access log lines dropped because the queue was full."}),
		Panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_panics_total", Help: "Connections ended by a recovered panic."}),
		ReloadOK: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_config_last_reload_successful",
			Help: "1 when the last load of the configuration succeeded, else 0."}),
		Generation: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_config_generation", Help: "Generation of the snapshot that serves."}),
	}
	for _, c := range m.collectors() {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.Connections, m.ConnectionsOpen, m.ConnectionsClosed, m.HandshakeFailures, m.HandshakeSeconds, m.Requests, m.RequestSeconds,
		m.RequestsRefused, m.Decisions, m.ShadowDecisions, m.UpstreamRetries, m.UpstreamRetriesRefused, m.UpstreamAvailable, m.UpstreamEjections,
		m.UpstreamHealthChecks, m.UpstreamOverloaded, m.AccessLogDropped, m.Panics, m.ReloadOK, m.Generation,
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

// histogram has buckets from 0.1 ms to 13 s, each double the last, and a native histogram for scrapers that take one.
func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help,
		Buckets:                        prometheus.ExponentialBuckets(0.0001, 2, 18),
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 100,
	}, labels)
}
