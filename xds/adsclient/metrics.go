package adsclient

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	updates *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, c *Client) (*metrics, error) {
	m := &metrics{updates: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_xds_client_updates_total", Help: "Responses of the authority, by whether they were accepted.",
	}, []string{"type", "result"})}
	for _, t := range c.types {
		m.updates.WithLabelValues(t.typeURL, accepted)
		m.updates.WithLabelValues(t.typeURL, rejected)
	}
	if r == nil {
		return m, nil
	}
	err := errors.Join(
		r.Register(m.updates),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_xds_client_connected", Help: "1 while the authority is followed.",
		}, func() float64 {
			if c.Connected() {
				return 1
			}
			return 0
		})),
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_xds_client_last_update_timestamp_seconds", Help: "When the authority last sent something; 0 before that.",
		}, func() float64 {
			if at := c.LastUpdate(); !at.IsZero() {
				return float64(at.UnixMilli()) / 1000
			}
			return 0
		})),
	)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the ADS client: %w", err)
	}
	return m, nil
}

const (
	accepted = "accepted"
	rejected = "rejected"
)

func (m *metrics) handled(typeURL string, err error) {
	result := accepted
	if err != nil {
		result = rejected
	}
	m.updates.WithLabelValues(typeURL, result).Inc()
}
