package ca

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/certs/revocation"
)

// metrics of the authority. Label values are constants of this package.
type metrics struct {
	issuedTotal    *prometheus.CounterVec
	rotationsTotal *prometheus.CounterVec
	notAfter       *prometheus.GaugeVec
	sequence       prometheus.Gauge
	revoked        prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		issuedTotal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_ca_issued_total",
			Help: "X.509-SVIDs asked for, by kind of holder (workload, node) and result (ok, refused, error).",
		}, []string{"kind", "result"}),
		rotationsTotal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_ca_rotations_total",
			Help: "Authorities that took over from another, by use (root, signing).",
		}, []string{"use"}),
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_ca_authority_not_after_timestamp_seconds",
			Help: "End of the active authority, by use (root, signing).",
		}, []string{"use"}),
		sequence: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_ca_bundle_sequence",
			Help: "Sequence number of the trust domain's bundle.",
		}),
		revoked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_ca_revocations",
			Help: "Revocations on record, including those that ended since the last change.",
		}),
	}
	for _, kind := range []Kind{Workload, Node} {
		for _, result := range []string{"ok", "refused", "error"} {
			m.issuedTotal.WithLabelValues(string(kind), result)
		}
	}
	for _, use := range []Use{Root, Signing} {
		m.rotationsTotal.WithLabelValues(string(use))
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.issuedTotal, m.rotationsTotal, m.notAfter, m.sequence, m.revoked} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) issued(kind Kind, err error) {
	m.issuedTotal.WithLabelValues(string(kind), result(err)).Inc()
}

func (m *metrics) rotated(use Use) { m.rotationsTotal.WithLabelValues(string(use)).Inc() }

func (m *metrics) authorities(c *current) {
	m.notAfter.WithLabelValues(string(Root)).Set(float64(c.root.cert.NotAfter.Unix()))
	m.notAfter.WithLabelValues(string(Signing)).Set(float64(c.signing.cert.NotAfter.Unix()))
	m.sequence.Set(float64(c.state.Sequence))
}

func (m *metrics) revocations(index *revocation.Index) { m.revoked.Set(float64(index.Len())) }
