package upstream

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// addresses is what a name resolved to.
type addresses struct {
	at   time.Time // when it was asked
	list []netip.Addr
}

// moved reports that the connection is to an address that the name of its endpoint no longer has. One that was opened since the
// name was last looked at knows better.
func (e *endpoint) moved(c *Conn) bool {
	known := e.known.Load()
	return known != nil && c.began.Before(known.at) && !slices.Contains(known.list, c.remote)
}

// named returns the endpoints that are host names.
func (c *Cluster) named() []*endpoint {
	var named []*endpoint
	for _, e := range c.endpoints {
		if _, err := netip.ParseAddr(e.host); err != nil && e.host != "" {
			named = append(named, e)
		}
	}
	return named
}

// followNames resolves the names again and again until the context ends.
func (c *Cluster) followNames(ctx context.Context, named []*endpoint) {
	for pause(ctx, c.options.DNSRefresh) {
		var lookups sync.WaitGroup
		places := make(chan struct{}, parallel)
		for _, e := range named {
			places <- struct{}{}
			lookups.Go(func() {
				e.look(ctx)
				<-places
			})
		}
		lookups.Wait()
	}
}

// look resolves the name and retires the connections to addresses that it no longer has: unused ones end, the others after their
// request. A lookup that fails, or finds nothing, changes nothing: that says more of the resolver than of the endpoint.
func (e *endpoint) look(ctx context.Context) {
	options := &e.cluster.options
	bounded, cancel := context.WithTimeout(ctx, options.ConnectTimeout)
	defer cancel()
	now := time.Now()
	list, err := e.cluster.dialer.lookup(bounded, e.host)
	if err != nil {
		return
	}
	e.known.Store(&addresses{at: now, list: list})
	e.mu.Lock()
	gone := e.takeUnused(e.moved)
	e.mu.Unlock()
	for _, conn := range gone {
		conn.close(observe.Drained)
	}
}

// parallel bounds the lookups, and the health checks, that a cluster does at once.
const parallel = 8
