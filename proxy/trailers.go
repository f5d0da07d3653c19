package proxy

import (
	"strings"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Trailer implements l7.Body. Services may read trailers like header fields, and they come after the decision: what policies or
// routes look at is dropped from them.
func (b *limitedBody) Trailer() *l7.Header {
	trailer := b.Body.Trailer()
	if trailer.Len() == 0 {
		return nil
	}
	trailer.DelFunc(func(name, _ string) bool { return b.call.decides(name) })
	if trailer.Len() == 0 {
		return nil
	}
	return trailer
}

// decides reports that a route of the listener, or a rule of the policies that serve now, has a condition on the field: a long body
// may outlive the policies that it began under, and is then under their successors (see followMessage).
func (c *call) decides(name string) bool {
	_, routed := c.state.spec.asked[name]
	return routed || c.server.Policies().Asks(name)
}

// askedByRoutes are the names of the header fields, in lower case, on which the routes have conditions.
func askedByRoutes(routes []config.Route) map[string]struct{} {
	names := map[string]struct{}{}
	for i := range routes {
		for name := range routes[i].Match.Headers {
			names[strings.ToLower(name)] = struct{}{}
		}
	}
	return names
}
