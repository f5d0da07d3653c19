package config

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Cluster is a named group of endpoints that serve the same, and how they are reached.
type Cluster struct {
	// Name is unique among the clusters; routes and listeners name it.
	Name string `config:"name,required"`
	// Endpoints are host:port, or unix:// and a path.
	Endpoints []Address `config:"endpoints,required"`
	// Protocol is what the endpoints speak: http1, h2 (HTTP/2 over TLS), h2c (HTTP/2 without TLS), or auto: what they choose by ALPN
	// under TLS, h2 before http1, and http1 without. It says nothing for TCP connections.
	Protocol UpstreamProtocol `config:"protocol"`
	// TLS says how connections to the endpoints are secured.
	TLS ClusterTLS `config:"tls"`
	// InsecurePlaintext allows tls.mode none to an endpoint on another machine.
	InsecurePlaintext bool `config:"insecure_plaintext"`
	// ConnectTimeout bounds the dial and the TLS handshake.
	ConnectTimeout time.Duration `config:"connect_timeout"`
	// ResponseTimeout is the time from the end of the request to the head of the response. 0: no bound.
	ResponseTimeout time.Duration `config:"response_timeout"`
	// IdleTimeout is how long an unused connection is kept for the next request.
	IdleTimeout time.Duration `config:"idle_timeout"`
	// MaxIdle is how many unused connections are kept for each endpoint.
	MaxIdle int `config:"max_idle"`
	// MaxConnections is how many connections each endpoint gets at most. Further requests wait for one, up to
	// connect_timeout.
	MaxConnections int `config:"max_connections"`
	// MaxWaiting is how many requests may wait for a connection to an endpoint; more are answered 503.
	MaxWaiting int `config:"max_waiting"`
	// MaxRequests is how many requests may be under way in the whole cluster; more are answered 503. 0: no bound.
	MaxRequests int `config:"max_requests"`
	// Retries bound how often a failed request is sent again. One is only sent again when nothing of it was sent, or when it is
	// idempotent, has no body and nothing of an answer came.
	Retries Retries `config:"retries"`
	// HealthCheck asks each endpoint again and again whether it is well. Left out: only requests tell.
	HealthCheck *HealthCheck `config:"health_check"`
	// Outliers says when an endpoint that fails requests is left alone for a while.
	Outliers Outliers `config:"outliers"`
	// DNSRefresh is how often names are resolved again, so that connections to addresses which a name no longer has end.
	DNSRefresh time.Duration `config:"dns_refresh"`
	// ProxyProtocol sends the header of the PROXY protocol on TCP connections: none, v1 or v2. With v2 it has the server name,
	// and the SPIFFE ID of the peer.
	ProxyProtocol ProxyProtocolVersion `config:"proxy_protocol"`
}

// Retries bound how often failed requests are sent again.
type Retries struct {
	// Attempts is how often one request is sent again at most.
	Attempts int `config:"attempts"`
	// BudgetPercent is how many of 100 requests may be sent again, so that a cluster in trouble is not buried.
	BudgetPercent int `config:"budget_percent"`
	// MinPerSecond are allowed each second whatever the budget says.
	MinPerSecond int `config:"min_per_second"`
}

// HealthCheck is how endpoints are asked whether they are well. These requests are postern's own and no policy judges them.
type HealthCheck struct {
	// Path is requested with GET. Left out: a connection, with its TLS handshake, is enough.
	Path string `config:"path"`
	// Host is that of the request. Default: the endpoint's.
	Host string `config:"host,unset"`
	// Interval is the time between two checks of an endpoint.
	Interval time.Duration `config:"interval"`
	// Timeout bounds one check.
	Timeout time.Duration `config:"timeout"`
	// Healthy is how many checks in a row bring an endpoint back.
	Healthy int `config:"healthy"`
	// Unhealthy is how many failed checks in a row take it away.
	Unhealthy int `config:"unhealthy"`
}

// Outliers says when an endpoint is left alone because of what it did to requests.
type Outliers struct {
	// Failures in a row (resets, malformed answers, timeouts, 502, 503, 504) eject an endpoint. 0: never.
	Failures int `config:"failures"`
	// Eject is how long, the first time; each further time it is longer by as much.
	Eject time.Duration `config:"eject"`
	// MaxEject bounds that.
	MaxEject time.Duration `config:"max_eject"`
	// MaxEjectedPercent of the endpoints are away at once at most.
	MaxEjectedPercent int `config:"max_ejected_percent"`
}

// ProxyProtocolVersion is a version of the PROXY protocol.
type ProxyProtocolVersion string

// Versions of the PROXY protocol.
const (
	ProxyProtocolNone ProxyProtocolVersion = "none"
	ProxyProtocolV1   ProxyProtocolVersion = "v1"
	ProxyProtocolV2   ProxyProtocolVersion = "v2"
)

func (ProxyProtocolVersion) values() []string {
	return []string{string(ProxyProtocolNone), string(ProxyProtocolV1), string(ProxyProtocolV2)}
}

// ClusterTLS is the upstream side's TLS.
type ClusterTLS struct {
	// Mode is mutual (both sides present an SVID), server (only the endpoint does) or none.
	Mode TLSMode `config:"mode"`
	// Identity is the SPIFFE ID to present with mode mutual. Default: this process's own.
	Identity spiffeid.ID `config:"identity,unset"`
	// Expect are the SPIFFE IDs, or patterns of them, that the endpoint may have. Required unless mode is none.
	Expect []IDPattern `config:"expect"`
	// MinVersion is the lowest TLS version spoken. It says nothing with mode none.
	MinVersion TLSVersion `config:"min_version"`
	// RequirePQ refuses endpoints whose key exchange would not withstand a quantum computer.
	RequirePQ bool `config:"require_pq"`
}

// UpstreamProtocol is what endpoints speak.
type UpstreamProtocol string

// Protocols of endpoints.
const (
	UpstreamAuto  UpstreamProtocol = "auto"
	UpstreamHTTP1 UpstreamProtocol = "http1"
	UpstreamH2    UpstreamProtocol = "h2"
	UpstreamH2C   UpstreamProtocol = "h2c"
)

func (UpstreamProtocol) values() []string {
	return []string{string(UpstreamAuto), string(UpstreamHTTP1), string(UpstreamH2), string(UpstreamH2C)}
}

func (c *Cluster) setDefaults() {
	c.Protocol = UpstreamAuto
	c.MaxWaiting = 1024
	c.Retries.setDefaults()
	c.Outliers.setDefaults()
	c.DNSRefresh = 30 * time.Second
	c.ProxyProtocol = ProxyProtocolNone
	c.TLS.setDefaults()
	c.ConnectTimeout = 5 * time.Second
	c.IdleTimeout = time.Minute
	c.MaxIdle = 256
	c.MaxConnections = 1024
}

func (r *Retries) setDefaults() { *r = Retries{Attempts: 2, BudgetPercent: 20, MinPerSecond: 10} }

func (h *HealthCheck) setDefaults() {
	*h = HealthCheck{Interval: 10 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Unhealthy: 3}
}

func (o *Outliers) setDefaults() {
	*o = Outliers{Failures: 5, Eject: 30 * time.Second, MaxEject: 5 * time.Minute, MaxEjectedPercent: 50}
}

func (t *ClusterTLS) setDefaults() { *t = ClusterTLS{Mode: TLSNone, MinVersion: TLS13} }

func (c *Cluster) complete() {
	if c.TLS.Mode == TLSNone {
		c.TLS.MinVersion = ""
	}
}

func (c *Cluster) check(k *checker, path string) {
	unique(k, path+".endpoints", c.Endpoints)
	for i, endpoint := range c.Endpoints {
		k.dialled(index(path+".endpoints", i), endpoint)
	}
	if !k.anyBad(path+".tls", path+".tls.mode") {
		c.checkTLS(k, path)
	}
	k.own(path+".tls.identity", c.TLS.Identity)
	unique(k, path+".tls.expect", c.TLS.Expect)
	k.between(path+".connect_timeout", c.ConnectTimeout, time.Millisecond, 10*time.Minute)
	k.orZero(path+".response_timeout", c.ResponseTimeout, time.Millisecond, day)
	k.between(path+".idle_timeout", c.IdleTimeout, time.Millisecond, day)
	k.count(path+".max_idle", c.MaxIdle, 0, 1_000_000)
	k.count(path+".max_connections", c.MaxConnections, 1, 1_000_000)
	k.count(path+".max_waiting", c.MaxWaiting, 1, 1_000_000)
	k.count(path+".max_requests", c.MaxRequests, 0, 10_000_000)
	k.between(path+".dns_refresh", c.DNSRefresh, time.Second, day)
	c.checkProtocol(k, path)
	checkPQ(k, path, c.TLS.RequirePQ, c.TLS.MinVersion)
	c.Retries.check(k, path+".retries")
	c.Outliers.check(k, path+".outliers")
	if c.HealthCheck != nil {
		c.HealthCheck.check(k, path+".health_check")
	}
}

func (c *Cluster) checkProtocol(k *checker, path string) {
	if k.anyBad(path+".protocol", path+".tls", path+".tls.mode") {
		return
	}
	switch {
	case c.Protocol == UpstreamH2 && c.TLS.Mode == TLSNone:
		k.fail(path+".protocol", CodeProtocol, "h2 is HTTP/2 over TLS, and tls.mode is none", "h2c")
	case c.Protocol == UpstreamH2C && c.TLS.Mode != TLSNone:
		k.fail(path+".protocol", CodeProtocol, "h2c is HTTP/2 without TLS, and tls.mode is "+string(c.TLS.Mode), "h2")
	}
}

func (r *Retries) check(k *checker, path string) {
	k.count(path+".attempts", r.Attempts, 0, 10)
	k.count(path+".budget_percent", r.BudgetPercent, 0, 100)
	k.count(path+".min_per_second", r.MinPerSecond, 0, 1_000_000)
}

func (h *HealthCheck) check(k *checker, path string) {
	k.canonicalPath(path+".path", h.Path)
	k.between(path+".interval", h.Interval, 100*time.Millisecond, day)
	k.between(path+".timeout", h.Timeout, time.Millisecond, 10*time.Minute)
	k.count(path+".healthy", h.Healthy, 1, 100)
	k.count(path+".unhealthy", h.Unhealthy, 1, 100)
}

func (o *Outliers) check(k *checker, path string) {
	k.count(path+".failures", o.Failures, 0, 1_000_000)
	k.between(path+".eject", o.Eject, 10*time.Millisecond, day)
	k.between(path+".max_eject", o.MaxEject, o.Eject, day)
	k.count(path+".max_ejected_percent", o.MaxEjectedPercent, 0, 100)
}

func (c *Cluster) checkTLS(k *checker, path string) {
	mode := c.TLS.Mode
	if mode == TLSNone {
		c.checkPlaintext(k, path)
		return
	}
	if len(c.TLS.Expect) == 0 {
		k.fail(path+".tls.expect", CodeNoExpect, "tls.mode "+string(mode)+" needs expect: any identity of the trust domain could answer",
			fmt.Sprintf("expect: [\"spiffe://%s/...\"]", k.config.TrustDomain.Name()))
	}
	if mode == TLSServer && k.source.has(path+".tls.identity") {
		k.fail(path+".tls.identity", CodeConflict, "with tls.mode server no identity is presented", "tls: {mode: mutual}")
	}
}

func (c *Cluster) checkPlaintext(k *checker, path string) {
	for _, key := range []string{".tls.identity", ".tls.expect", ".tls.min_version", ".tls.require_pq"} {
		if k.source.has(path+key) && (key != ".tls.require_pq" || c.TLS.RequirePQ) {
			k.fail(path+key, CodeConflict, "says nothing with tls.mode none", "tls: {mode: mutual}")
			return
		}
	}
	for i, endpoint := range c.Endpoints {
		at := index(path+".endpoints", i)
		switch {
		case endpoint.IsZero() || endpoint.Local() || k.bad[at]:
		case c.InsecurePlaintext:
			k.warn(path+".insecure_plaintext", WarnInsecure, endpoint.String()+" is on another machine and reached without TLS", "")
			return
		default:
			k.fail(at, CodePlaintext, endpoint.String()+" may be on another machine, and tls.mode is none", "tls: {mode: mutual, expect: [...]}, or insecure_plaintext: true")
		}
	}
}
