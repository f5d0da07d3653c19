package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Cluster is a group of endpoints that serve the same. Safe for concurrent use.
type Cluster struct {
	options   Options
	endpoints []*endpoint
	engines   engines
	dialer    dialer
	metrics   clusterMetrics
	budget    budget
	panic     panicMode
	turn      atomic.Uint64
	underWay  atomic.Int64 // requests, those that wait included
	closed    atomic.Bool

	ejecting sync.Mutex // held while one endpoint is ejected, so that their share is kept
}

// New returns a Cluster. It dials nothing until it is asked, or Run.
func New(options Options) *Cluster {
	options.setDefaults()
	c := &Cluster{
		options: options, engines: newEngines(&options), dialer: dialer{resolve: options.Resolve, one: options.Dial},
		metrics: newClusterMetrics(options.Metrics, options.Name),
		budget:  budget{share: options.Retry.Budget, perSecond: int64(options.Retry.MinPerSecond)},
	}
	for _, at := range options.Endpoints {
		c.endpoints = append(c.endpoints, newEndpoint(c, at))
	}
	c.metrics.available.Set(float64(len(c.endpoints)))
	return c
}

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.options.Name }

// Run checks the health of the endpoints and follows the addresses of their names, as far as the options ask for it, until the
// context ends. Without it the cluster serves all the same.
func (c *Cluster) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	if c.options.Health.Interval > 0 && len(c.endpoints) > 0 {
		tasks.Go(func() { c.checkHealth(ctx) })
	}
	if named := c.named(); c.options.DNSRefresh > 0 && len(named) > 0 {
		tasks.Go(func() { c.followNames(ctx, named) })
	}
	<-ctx.Done()
	tasks.Wait()
	return nil
}

// Close closes the unused connections and keeps none from now on. Requests that still come are served, each on a connection that is
// there or on one of its own: who asked for the cluster before it was replaced has to be answered. The registry's CloseOwner(c)
// ends what is in use.
func (c *Cluster) Close() {
	c.closed.Store(true)
	for _, e := range c.endpoints {
		e.endDials()
		e.closeUnused(observe.Drained)
		e.health.stop()
	}
}

// Dial opens a connection for a byte stream. The caller closes it and then calls Finish. The error is an *l7.Error.
func (c *Cluster) Dial(ctx context.Context, permit authz.Permit, options DialOptions) (*Conn, error) {
	if !permit.Valid() {
		return nil, errNoPermit()
	}
	preamble, err := options.preamble(c.options.ProxyProtocol)
	if err != nil {
		return nil, c.failed(observe.Internal, err)
	}
	want := purpose{byteStream: true, preamble: preamble}
	conn, failure := c.reach(ctx, nil, func(e *endpoint, patient bool) (*Conn, *l7.Error) { return e.dial(ctx, want, patient) })
	if failure != nil {
		return nil, failure
	}
	return conn, nil
}

// errNoPermit is a programmer's error that must not become an open door.
func errNoPermit() *l7.Error {
	return &l7.Error{Reason: observe.Internal, Status: 500, Side: l7.Upstream, Err: errors.New("no permit stands behind the request")}
}

// reach asks endpoints for a connection, best first and those to avoid last, until one has it; nothing has been sent to those that
// did not. When none of those tried has one because none can be reached, and they could a moment ago, it asks on: whoever restarts
// an endpoint does not expect errors. How long is bounded by ConnectTimeout and, for each endpoint, by bridged; how often, by the
// gates of the endpoints, which a request that is asked for patience waits at.
func (c *Cluster) reach(ctx context.Context, avoid *endpoint, ask func(e *endpoint, patient bool) (*Conn, *l7.Error)) (*Conn, *l7.Error) {
	if len(c.endpoints) == 0 {
		return nil, c.failed(observe.UpstreamNone, errors.New("it has no endpoint"))
	}
	began := time.Now()
	tried := make([]*endpoint, 0, maxEndpointTries+1)
	if avoid != nil {
		tried = append(tried, avoid)
	}
	first := len(tried)
	for {
		e, more := c.pick(tried)
		more = more && len(tried)-first+1 < maxEndpointTries
		conn, failure := ask(e, !more)
		if failure == nil {
			return conn, nil
		}
		tried = append(tried, e)
		if ctx.Err() != nil {
			return nil, timeoutOf(ctx, failure)
		}
		if more {
			continue
		}
		now := time.Now()
		if failure.Reason != observe.UpstreamConnect || now.Sub(began) >= c.options.ConnectTimeout || !e.bridged(now) {
			c.metrics.refusedFor(failure.Reason)
			return nil, failure
		}
		tried, first = tried[:0], 0
	}
}

// maxEndpointTries bounds how many endpoints one request asks before it waits for one.
const maxEndpointTries = 3

// failed is a failure that concerns no single endpoint.
func (c *Cluster) failed(reason observe.Reason, err error) *l7.Error {
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Side: l7.Upstream, Err: fmt.Errorf("cluster %q: %w", c.options.Name, err)}
}

// timeoutOf tells a request that ran out of time while connecting from an endpoint that does not answer.
func timeoutOf(ctx context.Context, e *l7.Error) *l7.Error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return e
	}
	late := *e
	late.Reason, late.Status = observe.UpstreamTimeout, l7.StatusOf(observe.UpstreamTimeout)
	return &late
}
