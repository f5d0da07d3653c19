package source

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-proxy/postern/internal/observe"
)

// maxLabelledIdentities bounds the label values of postern_svid_not_after_timestamp_seconds. A process presents a handful of
// identities of its own; workloads' SVIDs are not labelled at all.
const maxLabelledIdentities = 256

// Values of the result label of postern_svid_renewals_total.
const (
	resultOK     = "ok"
	resultFailed = "failed"
)

// metrics are shared by all sources of a process that were given the same Registerer.
type metrics struct {
	notAfter  *prometheus.GaugeVec
	renewals  *prometheus.CounterVec
	rotations prometheus.Counter
	held      prometheus.Gauge
	refused   prometheus.Counter

	mu       sync.Mutex
	labelled map[string]bool
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_svid_not_after_timestamp_seconds",
			Help: "End of life of this process's own SVIDs, in seconds since 1970.",
		}, []string{observe.KeySPIFFEID}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_svid_renewals_total",
			Help: "Attempts to obtain an SVID, the first one of an identity included, by result.",
		}, []string{"result"}),
		rotations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_svid_rotations_total",
			Help: "SVIDs that took the place of an earlier one of the same identity.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_svid_held",
			Help: "SVIDs that this node holds for itself and its workloads.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_svid_on_demand_refused_total",
			Help: "Identities asked for on demand and refused because as many are in use as the node may hold.",
		}),
		labelled: make(map[string]bool),
	}
	m.renewals.WithLabelValues(resultOK)
	m.renewals.WithLabelValues(resultFailed)
	if registerer == nil {
		return m, nil
	}
	var err error
	m.notAfter = register(registerer, m.notAfter, &err)
	m.renewals = register(registerer, m.renewals, &err)
	m.rotations = register(registerer, m.rotations, &err)
	m.held = register(registerer, m.held, &err)
	m.refused = register(registerer, m.refused, &err)
	return m, err
}

// register registers collector, or returns the equal one that another source of the process registered before.
func register[C prometheus.Collector](registerer prometheus.Registerer, collector C, firstErr *error) C {
	err := registerer.Register(collector)
	if err == nil {
		return collector
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	if *firstErr == nil {
		*firstErr = fmt.Errorf("register metric: %w", err)
	}
	return collector
}

// setOwn records the end of an own SVID, or that there is none.
func (m *metrics) setOwn(id string, x *X509) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if x == nil {
		m.notAfter.DeleteLabelValues(id)
		delete(m.labelled, id)
		return
	}
	if !m.labelled[id] && len(m.labelled) >= maxLabelledIdentities {
		return
	}
	m.labelled[id] = true
	m.notAfter.WithLabelValues(id).Set(float64(x.NotAfter.Unix()))
}

func (m *metrics) renewed(err error) {
	if err != nil {
		m.renewals.WithLabelValues(resultFailed).Inc()
		return
	}
	m.renewals.WithLabelValues(resultOK).Inc()
}
