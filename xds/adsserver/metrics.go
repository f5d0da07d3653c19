package adsserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the server does. Their type label is a type URL of Options.Types.
type metrics struct {
	pushes *prometheus.CounterVec
	nacks  *prometheus.CounterVec
	delay  *prometheus.HistogramVec
	forged prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Server) (*metrics, error) {
	m := &metrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_xds_pushes_total", Help: "Responses sent to nodes.",
		}, []string{"type"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_xds_nacks_total", Help: "Responses that nodes rejected.",
		}, []string{"type"}),
		delay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_xds_push_seconds", Help: "Time from a change to its acceptance by a node.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30},
		}, []string{"type"}),
		forged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_xds_rejected_identity_total", Help: "Streams whose node.id was the SPIFFE ID of somebody else.",
		}),
	}
	if r == nil {
		return m, nil
	}
	collectors := []prometheus.Collector{
		m.pushes, m.nacks, m.delay, m.forged,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "postern_xds_streams", Help: "Open streams of nodes."}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(len(s.streams))
		}),
	}
	for typeURL, t := range s.tables {
		m.pushes.WithLabelValues(typeURL)
		m.nacks.WithLabelValues(typeURL)
		collectors = append(collectors, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_xds_resources", Help: "Resources in the table.", ConstLabels: prometheus.Labels{"type": typeURL},
		}, func() float64 { return float64(t.Len()) }))
	}
	var errs []error
	for _, c := range collectors {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register metrics of the ADS server: %w", err)
	}
	return m, nil
}

// answered counts the answer to a response.
func (m *metrics) answered(typeURL string, r *response, rejected bool) {
	if rejected {
		m.nacks.WithLabelValues(typeURL).Inc()
		return
	}
	m.delay.WithLabelValues(typeURL).Observe(time.Since(r.since).Seconds())
}
