package upstream

import (
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// State says whether requests are sent to an endpoint.
type State string

// States of an endpoint.
const (
	// Available endpoints share the requests.
	Available State = "available"
	// Ejected is left alone for a while, because it could not be reached or failed too often.
	Ejected State = "ejected"
	// Unhealthy is turned away by the checks of its health until they succeed again.
	Unhealthy State = "unhealthy"
)

// EndpointStatus is what an operator is told of an endpoint.
type EndpointStatus struct {
	Address string
	State   State
	// Reason is why it is not available; none if it is.
	Reason observe.Reason
	// Until is when it comes back by itself; zero if it does not, or is there.
	Until time.Time
	// UnderWay counts requests and byte streams, Waiting those that wait for a connection, Connections all that are open or being
	// opened.
	UnderWay, Waiting, Connections int64
}

// Status describes the endpoints in the order of their declaration.
func (c *Cluster) Status() []EndpointStatus {
	now := time.Now().UnixNano()
	list := make([]EndpointStatus, 0, len(c.endpoints))
	for _, e := range c.endpoints {
		list = append(list, e.status(now))
	}
	return list
}

func (e *endpoint) status(now int64) EndpointStatus {
	s := EndpointStatus{Address: e.at.Target, State: Available, UnderWay: e.active.Load(), Waiting: e.queued.Load(), Connections: e.open.Load()}
	if e.health.available(now) {
		return s
	}
	s.Reason = e.health.lastReason()
	if e.health.unwell.Load() {
		s.State = Unhealthy
		return s
	}
	s.State = Ejected
	until := e.health.ejected.Load()
	if e.health.connects.Load() > 0 {
		until = max(until, e.health.alone.Load())
	}
	s.Until = time.Unix(0, until)
	return s
}
