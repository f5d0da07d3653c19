package proxy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/l7/http2"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/upstream"
)

// cluster is a running cluster and the declaration that it runs. It outlives the generations that declare it alike.
type cluster struct {
	*upstream.Cluster
	declared clusterDeclaration
	stop     context.CancelFunc // guarded by Server.mu: ends Run; nil before it was started
}

// clusterDeclaration is the content by which a running cluster is found again.
type clusterDeclaration struct {
	config.Cluster
	bodyIdle   time.Duration
	streamIdle time.Duration
	limits     config.Limits
}

// declare adds what a cluster has from the sections of the whole configuration.
func (s *Snapshot) declare(c *config.Cluster) *clusterDeclaration {
	return &clusterDeclaration{Cluster: *c, bodyIdle: s.bodyIdle, streamIdle: s.streamIdle, limits: s.limits}
}

// startRun has the cluster check its endpoints until stopRun or the end of the context. The caller holds Server.mu.
func (c *cluster) startRun(ctx context.Context, running *sync.WaitGroup) {
	if c.stop != nil {
		return
	}
	ctx, c.stop = context.WithCancel(ctx)
	running.Go(func() { _ = c.Run(ctx) })
}

// stopRun ends what startRun has begun. The caller holds Server.mu.
func (c *cluster) stopRun() {
	if c.stop != nil {
		c.stop()
	}
}

func (s *Server) newCluster(c *clusterDeclaration) (*cluster, error) {
	options := upstream.Options{
		Name: c.Name, Protocol: upstreamProtocols[c.Protocol], ProxyProtocol: proxyProtocolVersions[c.ProxyProtocol],
		ConnectTimeout: c.ConnectTimeout, ResponseTimeout: c.ResponseTimeout, IdleTimeout: c.IdleTimeout, DNSRefresh: c.DNSRefresh,
		MaxIdle: orNone(c.MaxIdle), MaxConnections: c.MaxConnections, MaxWaiting: c.MaxWaiting, MaxRequests: c.MaxRequests,
		Retry: upstream.Retry{Attempts: orNone(c.Retries.Attempts), MinPerSecond: orNone(c.Retries.MinPerSecond),
			Budget: float64(orNone(c.Retries.BudgetPercent)) / 100},
		Outlier: upstream.Outlier{Failures: orNone(c.Outliers.Failures), Eject: c.Outliers.Eject, MaxEject: c.Outliers.MaxEject,
			MaxEjectedPercent: orNone(c.Outliers.MaxEjectedPercent)},
		Descriptors: s.sockets.Descriptors().Dialed(),
		Registry:    s.registry, Revocations: s.options.Revocations, Metrics: s.options.Metrics, AccessLog: s.options.AccessLog,
		HTTP: http1.ClientOptions{
			Limits:   http1.Limits{MaxHead: int(c.limits.MaxHead), MaxFields: c.limits.MaxFields},
			Timeouts: http1.Timeouts{Body: c.streamIdle, Write: c.bodyIdle},
		},
		HTTP2: http2.ClientOptions{
			Limits:   http2.Limits{MaxHead: int(c.limits.MaxHead), MaxFields: c.limits.MaxFields},
			Timeouts: http2.Timeouts{Body: c.streamIdle, StreamIdle: c.streamIdle, Write: c.bodyIdle},
		},
	}
	if h := c.HealthCheck; h != nil {
		options.Health = upstream.Health{Path: h.Path, Host: h.Host, Interval: h.Interval, Timeout: h.Timeout,
			Healthy: h.Healthy, Unhealthy: h.Unhealthy}
	}
	for _, at := range c.Endpoints {
		options.Endpoints = append(options.Endpoints, upstream.Address{Network: at.Network(), Target: at.Target()})
	}
	if err := s.originate(&options, c); err != nil {
		return nil, err
	}
	return &cluster{Cluster: upstream.New(options), declared: *c}, nil
}

// originate says how the cluster speaks TLS, if it does. Byte streams offer no protocol by ALPN: what they carry is not ours to name.
func (s *Server) originate(options *upstream.Options, c *clusterDeclaration) error {
	if c.TLS.Mode == config.TLSNone {
		return nil
	}
	holder := s.options.Credentials(c.TLS.Identity)
	if holder == nil {
		return fmt.Errorf("tls.identity: this process has no credential of %q", c.TLS.Identity.String())
	}
	client := mtls.ClientOptions{
		Credentials: holder, Mutual: c.TLS.Mode == config.TLSMutual, Expect: expectation(c.TLS.Expect), RequirePQ: c.TLS.RequirePQ,
		Revocations: s.options.Revocations, MinVersion: tlsVersion(c.TLS.MinVersion), Timeout: c.ConnectTimeout, Now: s.options.Now,
	}
	options.StreamTLS = mtls.NewClient(client)
	client.ALPN = upstreamALPN[c.Protocol]
	options.TLS = mtls.NewClient(client)
	return nil
}

// orNone turns a 0 that was declared, which means none, into a negative, since elsewhere 0 stands for a default.
func orNone(declared int) int {
	if declared == 0 {
		return -1
	}
	return declared
}

var (
	upstreamProtocols = map[config.UpstreamProtocol]upstream.Protocol{
		config.UpstreamAuto: upstream.Auto, config.UpstreamHTTP1: upstream.HTTP1, config.UpstreamH2: upstream.HTTP2, config.UpstreamH2C: upstream.HTTP2,
	}
	upstreamALPN = map[config.UpstreamProtocol][]string{
		config.UpstreamAuto: {alpnHTTP2, alpnHTTP1}, config.UpstreamHTTP1: {alpnHTTP1}, config.UpstreamH2: {alpnHTTP2},
	}
	proxyProtocolVersions = map[config.ProxyProtocolVersion]int{config.ProxyProtocolV1: 1, config.ProxyProtocolV2: 2}
)
