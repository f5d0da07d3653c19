package enroll

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the server answered. Their code label is a gRPC status, or "busy".
type metrics struct {
	attestations *prometheus.CounterVec
	renewals     *prometheus.CounterVec
	issuances    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"code"})
	}
	m := &metrics{
		attestations: counter("postern_enroll_attestations_total", "Attempts of machines to become nodes, by outcome."),
		renewals:     counter("postern_enroll_node_renewals_total", "Renewals of node SVIDs, by outcome."),
		issuances:    counter("postern_enroll_issuances_total", "SVIDs that nodes asked for, by outcome."),
	}
	if r == nil {
		return m, nil
	}
	if err := errors.Join(r.Register(m.attestations), r.Register(m.renewals), r.Register(m.issuances)); err != nil {
		return nil, fmt.Errorf("register metrics of the enrolment server: %w", err)
	}
	return m, nil
}

func (m *metrics) attested(code string) { m.attestations.WithLabelValues(code).Inc() }
func (m *metrics) renewed(code string)  { m.renewals.WithLabelValues(code).Inc() }
func (m *metrics) issued(code string)   { m.issuances.WithLabelValues(code).Inc() }
