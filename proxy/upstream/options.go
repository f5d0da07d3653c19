package upstream

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/l7/http2"
	"github.com/postern-proxy/postern/proxy/listener"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
)

// Address is where an endpoint is: Network "tcp" with host:port, whose name is resolved at every dial, or "unix" with a path.
type Address struct {
	Network string
	Target  string
}

// Protocol is the version of HTTP that is spoken to the endpoints. It says nothing for byte streams.
type Protocol uint8

// Protocols.
const (
	// HTTP1 is HTTP/1.1.
	HTTP1 Protocol = iota
	// HTTP2 is HTTP/2: under TLS the server has to choose "h2" by ALPN, without TLS it is spoken by prior knowledge
	// (RFC 9113, Section 3.3).
	HTTP2
	// Auto is what the server chooses by ALPN, HTTP/1.1 when it chooses nothing or there is no TLS.
	Auto
)

// Options describe a Cluster. Zero durations and counts take the default beside them.
type Options struct {
	Name      string
	Endpoints []Address
	Protocol  Protocol
	// TLS originates TLS; nil speaks plainly. What it offers by ALPN has to go with Protocol.
	TLS *mtls.Client
	// StreamTLS originates the TLS of byte streams, which may offer something else by ALPN; nil means TLS.
	StreamTLS *mtls.Client
	// ProxyProtocol is the version, 1 or 2, of the PROXY header that begins every byte stream; 0 is none. Requests go without.
	ProxyProtocol int

	// ConnectTimeout bounds dial and handshake; default 5 s.
	ConnectTimeout time.Duration
	// ResponseTimeout is the time from the end of a request to the head of its response; 0 is no bound.
	ResponseTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept; default 60 s.
	IdleTimeout time.Duration
	// MaxAge is the longest life of a pooled connection; default 30 min.
	MaxAge time.Duration

	// MaxRequests is how many requests may be under way in the cluster, those that wait included; 0 is no bound. What comes above
	// it, MaxConnections or MaxWaiting is refused with observe.UpstreamOverloaded.
	MaxRequests int
	// MaxConnections is how many connections each endpoint gets; default 1024.
	MaxConnections int
	// MaxWaiting is how many requests may wait for a connection to an endpoint; default 1024.
	MaxWaiting int
	// MaxIdle is how many unused HTTP/1 connections are kept for each endpoint; default 64, negative is none.
	MaxIdle int
	// MaxStreams is how many requests share an HTTP/2 connection, if the server allows as many; default 100.
	MaxStreams int

	Outlier Outlier
	Health  Health
	Retry   Retry
	// DNSRefresh is how often Run resolves the names of endpoints again, to retire connections to addresses that a name no longer
	// has; default 30 s, negative is never.
	DNSRefresh time.Duration

	// HTTP is the engine of HTTP/1 connections, HTTP2 that of HTTP/2 connections. ResponseTimeout holds in the place of their
	// Timeouts.Response, IdleTimeout in that of their Timeouts.Idle, MaxStreams in that of HTTP2.Limits.MaxStreams.
	HTTP  http1.ClientOptions
	HTTP2 http2.ClientOptions

	// Descriptors is the account of the process from which each connection takes one; nil does not count.
	Descriptors *listener.Share
	// Registry knows every connection. Required.
	Registry *registry.Registry
	// Revocations is asked once more after a connection is registered; may be nil.
	Revocations func() *revocation.Index
	// Metrics are required. AccessLog may be nil.
	Metrics   *observe.Metrics
	AccessLog *observe.AccessLog
	// Dial opens a connection to an IP address with port or to the path of a unix socket; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve returns the addresses of a host name; nil means net.DefaultResolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Outlier says when an endpoint that answers badly is ejected, which is left alone for a while.
type Outlier struct {
	// Failures is how many gateway failures in a row eject: a connection that ends or falls silent before its response is complete,
	// a malformed response, status 502, 503 or 504. Default 5, negative is never.
	Failures int
	// Eject is how long the first ejection lasts, the n-th n times as long, MaxEject at most; defaults 30 s and 5 min. An endpoint
	// that has answered well for as long as Eject begins from the first again.
	Eject    time.Duration
	MaxEject time.Duration
	// MaxEjectedPercent is how much of the cluster may be ejected at once, rounded down; default 50, negative is nothing.
	MaxEjectedPercent int
}

// Health says how Run asks endpoints whether they are well, each on a connection of its own. No policy judges these requests: they
// are the proxy's and carry nothing of any client.
type Health struct {
	// Interval is the time between two checks of an endpoint, give or take a tenth; 0 checks nothing.
	Interval time.Duration
	// Path is what is asked for with GET; when it is empty, a connection, with its TLS handshake, is enough.
	Path string
	// Host is the authority of the request; empty is the endpoint's address.
	Host string
	// Timeout bounds a check from the dial to the head of the response; default 3 s.
	Timeout time.Duration
	// Healthy checks in a row that succeed bring an endpoint back, Unhealthy ones that fail turn it away; defaults 2 and 3.
	Healthy, Unhealthy int
	// Statuses are those of success; none means 200 to 399.
	Statuses []int
}

// Retry says how often a request that failed may be sent again; see the package comment for which.
type Retry struct {
	// Attempts is how many further ones a request gets; default 2, negative is none. Those of which nothing was sent do not count,
	// here and below: they are no further load, and get a few in any case.
	Attempts int
	// Budget is the share of the requests, those of the last 10 s or those under way if these are more, that may be retries;
	// default 0.2, negative is nothing.
	Budget float64
	// MinPerSecond is how many retries a second there may be in any case; default 10, negative is none.
	MinPerSecond int
}

func (o *Options) setDefaults() {
	setDefault(&o.ConnectTimeout, 5*time.Second)
	setDefault(&o.IdleTimeout, time.Minute)
	setDefault(&o.MaxAge, 30*time.Minute)
	if o.DNSRefresh == 0 {
		o.DNSRefresh = 30 * time.Second
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = 64
	}
	setDefault(&o.MaxConnections, 1024)
	setDefault(&o.MaxWaiting, 1024)
	setDefault(&o.MaxStreams, 100)
	o.Outlier.setDefaults()
	o.Health.setDefaults()
	o.Retry.setDefaults()
	if o.StreamTLS == nil {
		o.StreamTLS = o.TLS
	}
	o.HTTP.Timeouts.Response = noBound // the cluster has a bound of its own, which begins with the end of the request
	o.HTTP2.Limits.MaxStreams = o.MaxStreams
	o.HTTP2.Timeouts.Response = noBound
	o.HTTP2.Timeouts.Idle = noBound // the pool ends what is unused
	if o.Dial == nil {
		o.Dial = newNetDialer().DialContext
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
}

// client originates TLS for that purpose; nil for none.
func (o *Options) client(want purpose) *mtls.Client {
	if want.byteStream {
		return o.StreamTLS
	}
	return o.TLS
}

func (o *Outlier) setDefaults() {
	if o.Failures == 0 {
		o.Failures = 5
	}
	setDefault(&o.Eject, 30*time.Second)
	setDefault(&o.MaxEject, 5*time.Minute)
	if o.MaxEjectedPercent == 0 {
		o.MaxEjectedPercent = 50
	}
}

func (h *Health) setDefaults() {
	setDefault(&h.Timeout, 3*time.Second)
	setDefault(&h.Healthy, 2)
	setDefault(&h.Unhealthy, 3)
}

func (r *Retry) setDefaults() {
	if r.Attempts == 0 {
		r.Attempts = 2
	}
	if r.Budget == 0 {
		r.Budget = 0.2
	}
	if r.MinPerSecond == 0 {
		r.MinPerSecond = 10
	}
}

// noBound is longer than any connection lives.
const noBound = 10 * 365 * 24 * time.Hour

func setDefault[T int | time.Duration](to *T, value T) {
	if *to <= 0 {
		*to = value
	}
}
