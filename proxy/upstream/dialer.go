package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// dialer opens connections to names. Each dial resolves anew and begins with the next of the addresses, so that they share the load;
// both families take turns, and the next address is tried when one has not answered within attemptDelay (RFC 8305).
type dialer struct {
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	one     func(ctx context.Context, network, address string) (net.Conn, error)
	turn    atomic.Uint32
}

// dial opens a connection to the address. The context bounds all of it.
func (d *dialer) dial(ctx context.Context, at Address) (net.Conn, error) {
	if at.Network != "tcp" {
		return d.one(ctx, at.Network, at.Target)
	}
	host, port, err := net.SplitHostPort(at.Target)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.one(ctx, at.Network, at.Target)
	}
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	targets := make([]string, 0, len(addrs))
	for _, addr := range alternate(addrs, int(d.turn.Add(1)%(1<<30))) {
		targets = append(targets, net.JoinHostPort(addr.String(), port))
	}
	return d.race(ctx, at.Network, targets)
}

// lookup returns the addresses of the name; at least one, each once.
func (d *dialer) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%q has no address", host)
	}
	unique := make([]netip.Addr, 0, len(addrs))
	for _, addr := range addrs {
		if addr = addr.Unmap(); !slices.Contains(unique, addr) {
			unique = append(unique, addr)
		}
	}
	return unique, nil
}

// alternate returns the addresses beginning at the turn within each family, the families in turns (RFC 8305, Section 4). The family
// of the first address, which the resolver prefers, is the first.
func alternate(addrs []netip.Addr, turn int) []netip.Addr {
	var families [2][]netip.Addr
	for _, addr := range addrs {
		i := 0
		if addr.Is4() != addrs[0].Is4() {
			i = 1
		}
		families[i] = append(families[i], addr)
	}
	order := make([]netip.Addr, 0, len(addrs))
	for n := 0; len(order) < len(addrs); n++ {
		for _, family := range families {
			if n < len(family) {
				order = append(order, family[(turn+n)%len(family)])
			}
		}
	}
	return order
}

// opened is the outcome of one attempt.
type opened struct {
	conn net.Conn
	err  error
}

// race tries the targets in their order, the next one as soon as one has failed or taken long, and returns the first connection.
// When it returns nothing of it runs any more.
func (d *dialer) race(ctx context.Context, network string, targets []string) (net.Conn, error) {
	if len(targets) == 1 {
		return d.one(ctx, network, targets[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan opened)
	running := 0
	start := func() {
		target := targets[0]
		targets = targets[1:]
		running++
		go func() {
			conn, err := d.one(ctx, network, target)
			results <- opened{conn, err}
		}()
	}
	delay := time.NewTicker(attemptDelay)
	defer delay.Stop()
	var won net.Conn
	var problems []error
	for start(); running > 0; {
		select {
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				problems = append(problems, r.err)
			case won == nil:
				won = r.conn
				cancel()
			default:
				_ = r.conn.Close()
			}
			if r.err == nil || len(targets) == 0 || won != nil || ctx.Err() != nil {
				continue
			}
		case <-delay.C:
			if len(targets) == 0 || won != nil || ctx.Err() != nil {
				continue
			}
		}
		delay.Reset(attemptDelay)
		start()
	}
	if won == nil {
		return nil, errors.Join(problems...)
	}
	return won, nil
}

// attemptDelay is the "Connection Attempt Delay" that RFC 8305, Section 5 recommends.
const attemptDelay = 250 * time.Millisecond

// newNetDialer returns the dialer of sockets: a peer that has vanished is noticed after 20 s, whether the connection is silent (8 s
// until the first probe, then 3 at 4 s) or has sent something that is not acknowledged (see control).
func newNetDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 8 * time.Second, Interval: 4 * time.Second, Count: 3},
		Control:         control,
	}
}
