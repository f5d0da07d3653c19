package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// Address is where an endpoint is: Network "tcp" with host:port, whose name is resolved at every dial, or "unix" with a path.
type Address struct {
	Network string
	Target  string
}

// Options describe a Cluster. Zero durations and counts take the default beside them.
type Options struct {
	Name      string
	Endpoints []Address
	// TLS originates TLS; nil speaks plainly.
	TLS *mtls.Client
	// ConnectTimeout bounds dial and handshake; default 5 s.
	ConnectTimeout time.Duration
	// ResponseTimeout is the time from the end of a request to the head of its response; 0 is no bound.
	ResponseTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept; default 60 s.
	IdleTimeout time.Duration
	// MaxAge is the longest life of a pooled connection; default 30 min.
	MaxAge time.Duration
	// MaxIdle is how many unused connections are kept for each endpoint; default 64, negative is none.
	MaxIdle int
	// MaxConnections is how many connections each endpoint gets; default 1024.
	MaxConnections int
	// MaxWaiting is how many requests may wait for a connection to an endpoint; default 1024.
	MaxWaiting int
	// HTTP is the engine of every connection; ResponseTimeout holds in the place of its Timeouts.Response.
	HTTP http1.ClientOptions

	// Registry knows every connection. Required.
	Registry *registry.Registry
	// Revocations is asked once more after a connection is registered; may be nil.
	Revocations func() *revocation.Index
	// Metrics are required. AccessLog may be nil.
	Metrics   *observe.Metrics
	AccessLog *observe.AccessLog
	// Dial opens a connection; nil means a net.Dialer, with happy eyeballs.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Cluster is a group of endpoints that serve the same. Safe for concurrent use.
type Cluster struct {
	options   Options
	endpoints []*endpoint
	http      *http1.Client
	metrics   clusterMetrics
	turn      atomic.Uint64
	closed    atomic.Bool
}

// New returns a Cluster. It dials nothing until it is asked.
func New(options Options) *Cluster {
	options.setDefaults()
	c := &Cluster{options: options, http: http1.NewClient(options.HTTP), metrics: newClusterMetrics(options.Metrics, options.Name)}
	for _, at := range options.Endpoints {
		c.endpoints = append(c.endpoints, newEndpoint(c, at))
	}
	return c
}

func (o *Options) setDefaults() {
	setDefault(&o.ConnectTimeout, 5*time.Second)
	setDefault(&o.IdleTimeout, time.Minute)
	setDefault(&o.MaxAge, 30*time.Minute)
	o.HTTP.Timeouts.Response = noBound // the cluster has a bound of its own, which begins with the end of the request
	if o.MaxIdle == 0 {
		o.MaxIdle = 64
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 1024
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = 1024
	}
	if o.Dial == nil {
		// RFC 8305 is net.Dialer's way with several addresses.
		o.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
}

// noBound is longer than any connection lives.
const noBound = 10 * 365 * 24 * time.Hour

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.options.Name }

// Close closes the unused connections and keeps none from now on. Requests that still come are served, each on a connection of its
// own or of one that waited: who asked for the cluster before it was replaced has to be answered. The registry's CloseOwner(c) ends
// what is in use.
func (c *Cluster) Close() {
	c.closed.Store(true)
	for _, e := range c.endpoints {
		e.endDials()
		e.closeIdle(observe.Drained)
	}
}

// Dial opens a connection for a byte stream. The caller closes it and then calls Finish. The error is an *l7.Error.
func (c *Cluster) Dial(ctx context.Context, permit authz.Permit) (*Conn, error) {
	if !permit.Valid() {
		return nil, errNoPermit()
	}
	conn, err := c.connection(func(e *endpoint) (*Conn, *l7.Error) { return e.dial(ctx) }, ctx.Err)
	if err != nil {
		return nil, err
	}
	conn.retired.Store(true) // never pooled
	conn.byteStream.Store(true)
	return conn, nil
}

// errNoPermit is a programmer's error that must not become an open door.
func errNoPermit() *l7.Error {
	return &l7.Error{Reason: observe.Internal, Status: 500, Side: l7.Upstream, Err: errors.New("no permit stands behind the request")}
}

// connection asks endpoints for a connection, best first, until one has it. Nothing has been sent to those that did not. over says
// that nobody waits any more.
func (c *Cluster) connection(ask func(*endpoint) (*Conn, *l7.Error), over func() error) (*Conn, error) {
	var last *l7.Error
	tried := make([]*endpoint, 0, maxEndpointTries)
	for range min(len(c.endpoints), maxEndpointTries) {
		e := c.pick(tried)
		conn, err := ask(e)
		if err == nil {
			return conn, nil
		}
		last = err
		tried = append(tried, e)
		if over() != nil {
			break
		}
	}
	if last == nil {
		return nil, &l7.Error{Reason: observe.UpstreamNone, Status: l7.StatusOf(observe.UpstreamNone), Side: l7.Upstream,
			Err: fmt.Errorf("cluster %q has no endpoint", c.options.Name)}
	}
	return nil, last
}

// pick returns the endpoint with the fewest requests under way among those not tried yet that are not left alone; if all are,
// among all: a cluster that looks dead is still asked.
func (c *Cluster) pick(tried []*endpoint) *endpoint {
	now := time.Now()
	var best, fallback *endpoint
	start := int(c.turn.Add(1) % uint64(len(c.endpoints)))
	for i := range c.endpoints {
		e := c.endpoints[(start+i)%len(c.endpoints)] // equal ones take turns
		if contains(tried, e) {
			continue
		}
		if fallback == nil || e.load() < fallback.load() {
			fallback = e
		}
		if e.health.available(now) && (best == nil || e.load() < best.load()) {
			best = e
		}
	}
	if best == nil {
		return fallback
	}
	return best
}

func contains(list []*endpoint, e *endpoint) bool {
	for _, have := range list {
		if have == e {
			return true
		}
	}
	return false
}

// maxEndpointTries bounds how many endpoints one request may find dead.
const maxEndpointTries = 3
