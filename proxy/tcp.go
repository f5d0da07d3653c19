package proxy

import (
	"context"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l4"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/proxyproto"
	"github.com/postern-proxy/postern/proxy/upstream"
)

// serveTCP judges the connection as a whole, dials and splices. It says why the connection ended.
func (c *connection) serveTCP(ctx context.Context) observe.Reason {
	if c.late { // a byte stream that began now would have no end of its own
		return observe.Drained
	}
	now := c.server.active.Load()
	state := c.current(now)
	l := &state.spec.declared
	if l.Cluster == "" {
		return observe.NoRoute
	}
	request := authz.Request{Service: l.Service, Principal: c.principal(), Protocol: authz.TCP, Sniffed: c.guessed, Source: c.raw.Source()}
	j := c.server.judge(now, callerOf(l), request, nil)
	c.server.record(&j, l.Name, "")
	c.records.cluster, c.records.decision = l.Cluster, j.decision.ID.String()
	permit, allowed := j.decision.Permit()
	if !allowed {
		return j.decision.Reason
	}
	cluster := now.clusters[l.Cluster]
	if cluster == nil {
		return observe.NoRoute
	}
	up, err := cluster.Dial(ctx, permit, upstream.DialOptions{Source: c.raw.Source(), Destination: c.raw.Local(), TLVs: c.proxyFacts()})
	if err != nil {
		c.records.cause = err.Error()
		return l7.ReasonOf(err, observe.UpstreamConnect)
	}
	c.raw.AllowStall()
	stream := &longStream{judged: now.policies, name: l.Name, caller: callerOf(l), request: j.request}
	result := c.server.splice(ctx, stream, c.stream, up, c.server.streamOptions(l))
	c.stream.in.Add(result.Sent)
	c.stream.out.Add(result.Received)
	up.Finish(result.Received, result.Sent)
	if result.Err != nil {
		c.records.cause = result.Err.Error()
	}
	if why := up.Ended(); why == observe.Revoked || why == observe.CredentialExpired {
		return why
	}
	return result.Reason
}

// proxyFacts are what a PROXY header says of the client beside its address: the name it asked for and who it is.
func (c *connection) proxyFacts() (facts []proxyproto.TLV) {
	if c.tls == nil {
		return nil
	}
	if name := c.tls.ServerName(); name != "" {
		facts = append(facts, proxyproto.TLV{Type: proxyproto.TypeAuthority, Value: []byte(name)})
	}
	if p := c.principal(); !p.Anonymous() {
		facts = append(facts, proxyproto.TLV{Type: proxyproto.TypeSPIFFEID, Value: []byte(p.String())})
	}
	return facts
}

// streamOptions bound the byte streams of a listener.
func (s *Server) streamOptions(l *config.Listener) l4.Options {
	return l4.Options{Idle: l.Timeouts.StreamIdle, MaxTime: l.Timeouts.MaxConnection, Pipes: s.sockets.Descriptors().Pipes()}
}

// current is the listener of the generation that serves, as long as the connection could have been accepted by it; otherwise the
// one that did accept it, whose routes the connection drains with.
func (c *connection) current(now *active) *listenerState {
	if state := now.states[c.state.spec.declared.Name]; state != nil && state.lineage == c.state.lineage {
		return state
	}
	return c.state
}

// callerOf says what decides for the callers of a listener.
func callerOf(l *config.Listener) callerKind {
	if l.Caller == config.CallerSelf && l.Service == "" {
		return ownRoutes
	}
	return byPolicy
}
