package upstream

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// clusterMetrics are the children that requests and connections need, looked up once.
type clusterMetrics struct {
	all            *observe.Metrics
	name           string
	ok             prometheus.Counter
	open           prometheus.Gauge
	handshake      prometheus.Observer
	retries        prometheus.Counter
	retriesRefused prometheus.Counter
	overloaded     prometheus.Counter
	available      prometheus.Gauge
	healthy        prometheus.Counter
	unhealthy      prometheus.Counter
}

func newClusterMetrics(m *observe.Metrics, name string) clusterMetrics {
	return clusterMetrics{all: m, name: name,
		ok:             m.Connections.WithLabelValues(observe.Dialled, name, "ok"),
		open:           m.ConnectionsOpen.WithLabelValues(observe.Dialled, name),
		handshake:      m.HandshakeSeconds.WithLabelValues(observe.Dialled, name),
		retries:        m.UpstreamRetries.WithLabelValues(name),
		retriesRefused: m.UpstreamRetriesRefused.WithLabelValues(name),
		overloaded:     m.UpstreamOverloaded.WithLabelValues(name),
		available:      m.UpstreamAvailable.WithLabelValues(name),
		healthy:        m.UpstreamHealthChecks.WithLabelValues(name, "ok"),
		unhealthy:      m.UpstreamHealthChecks.WithLabelValues(name, "failed"),
	}
}

func (m *clusterMetrics) opened() {
	m.ok.Inc()
	m.open.Inc()
}

func (m *clusterMetrics) closed(reason observe.Reason) {
	m.open.Dec()
	m.all.ConnectionsClosed.WithLabelValues(observe.Dialled, m.name, reason.String()).Inc()
}

func (m *clusterMetrics) failed(err *l7.Error) {
	m.all.Connections.WithLabelValues(observe.Dialled, m.name, err.Reason.String()).Inc()
	if reason, ok := handshakeReason(err); ok {
		m.all.HandshakeFailures.WithLabelValues(observe.Dialled, m.name, reason.String()).Inc()
	}
}

// refused counts a server that turned our certificate down after the handshake was done for us.
func (m *clusterMetrics) refused() {
	m.all.HandshakeFailures.WithLabelValues(observe.Dialled, m.name, observe.UpstreamTLS.String()).Inc()
}

// refusedFor counts a request that a limit of the cluster refused.
func (m *clusterMetrics) refusedFor(reason observe.Reason) {
	if reason == observe.UpstreamOverloaded {
		m.overloaded.Inc()
	}
}

func (m *clusterMetrics) ejected(reason string) {
	m.all.UpstreamEjections.WithLabelValues(m.name, reason).Inc()
}

func (m *clusterMetrics) checked(good bool) {
	if good {
		m.healthy.Inc()
		return
	}
	m.unhealthy.Inc()
}
