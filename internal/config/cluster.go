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
	// Protocol is what the endpoints speak: http1. It says nothing for TCP connections.
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
}

// UpstreamProtocol is what endpoints speak.
type UpstreamProtocol string

// UpstreamHTTP1 is HTTP/1.1.
const UpstreamHTTP1 UpstreamProtocol = "http1"

func (UpstreamProtocol) values() []string { return []string{string(UpstreamHTTP1)} }

func (UpstreamProtocol) notOffered() map[string]string {
	const why = " is not offered by this version; http1 is"
	return map[string]string{"h2": "HTTP/2" + why, "h2c": "HTTP/2 without TLS" + why, "auto": "choosing the protocol by ALPN" + why}
}

func (c *Cluster) setDefaults() {
	c.Protocol = UpstreamHTTP1
	c.TLS.setDefaults()
	c.ConnectTimeout = 5 * time.Second
	c.IdleTimeout = time.Minute
	c.MaxIdle = 256
	c.MaxConnections = 1024
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
	for _, key := range []string{".tls.identity", ".tls.expect", ".tls.min_version"} {
		if k.source.has(path + key) {
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
