package workloadapi

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type serverMetrics struct {
	connections        prometheus.Gauge
	streams            prometheus.Gauge
	refusedConnections *prometheus.CounterVec
	calls              *prometheus.CounterVec
	updates            prometheus.Counter
	panics             prometheus.Counter
}

func newServerMetrics(registerer prometheus.Registerer) (*serverMetrics, error) {
	m := &serverMetrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_workload_api_connections",
			Help: "Open connections to the Workload API.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_workload_api_streams",
			Help: "Open calls of the Workload API.",
		}),
		refusedConnections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_workload_api_refused_connections_total",
			Help: "Connections to the Workload API that were closed before the first call, by reason.",
		}, []string{"reason"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_workload_api_calls_total",
			Help: "Calls of the Workload API that ended, by gRPC status code.",
		}, []string{"code"}),
		updates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_workload_api_updates_total",
			Help: "Messages that streams of the Workload API have sent.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_workload_api_panics_total",
			Help: "Calls of the Workload API that ended in a panic.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, collector := range []prometheus.Collector{m.connections, m.streams, m.refusedConnections, m.calls, m.updates, m.panics} {
		if err := registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	return m, nil
}
