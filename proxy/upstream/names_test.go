package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/registry"
)

// zone answers lookups of one name.
type zone struct{ list atomic.Pointer[[]netip.Addr] }

func (z *zone) set(addresses ...string) {
	list := make([]netip.Addr, len(addresses))
	for i, a := range addresses {
		list[i] = netip.MustParseAddr(a)
	}
	z.list.Store(&list)
}

func (z *zone) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	list := z.list.Load()
	if host != "app.test" || list == nil {
		return nil, errors.New("no such name")
	}
	return *list, nil
}

// named returns the service's port at a name, and services on other addresses of the loopback network with the same port.
func named(t *testing.T, serve script, hosts ...string) (Address, map[string]*atomic.Int32) {
	t.Helper()
	accepted := map[string]*atomic.Int32{}
	port := "0"
	for _, host := range hosts {
		f := &flapper{t: t, conns: map[net.Conn]struct{}{}, address: Address{"tcp", net.JoinHostPort(host, port)}}
		n := &atomic.Int32{}
		accepted[host] = n
		f.serve = func(conn net.Conn, r *bufio.Reader) {
			n.Add(1)
			serve(conn, r)
		}
		f.up()
		t.Cleanup(func() { f.down(); f.tasks.Wait() })
		_, port, _ = net.SplitHostPort(f.address.Target)
	}
	return Address{"tcp", "app.test:" + port}, accepted
}

func TestDialsSpreadOverTheAddressesOfAName(t *testing.T) {
	at, accepted := named(t, answers("x"), "127.0.0.1", "127.0.0.2", "127.0.0.3")
	var z zone
	z.set("127.0.0.1", "127.0.0.2", "127.0.0.3")
	c := cluster(t, func(o *Options) { o.Resolve, o.MaxIdle = z.resolve, -1 }, at)
	for range 9 {
		if _, err := c.ask(t, get("GET")); err != nil {
			t.Fatal(err)
		}
	}
	for host, n := range accepted {
		if n.Load() != 3 {
			t.Errorf("%s got %d of 9 connections", host, n.Load())
		}
	}
}

func TestAddressThatRefusesIsPassedOver(t *testing.T) {
	at, accepted := named(t, answers("x"), "127.0.0.1")
	var z zone
	z.set("127.0.0.2", "127.0.0.3", "127.0.0.1")
	c := cluster(t, func(o *Options) { o.Resolve = z.resolve }, at)
	if got, err := c.ask(t, get("GET")); err != nil || got != "x" || accepted["127.0.0.1"].Load() != 1 {
		t.Errorf("%q, %v", got, err)
	}
}

// RFC 8305, Section 5: "the client starts the next connection attempt" when one has not answered in time.
func TestAddressThatSwallowsConnectionsCostsAMomentOnly(t *testing.T) {
	s := serve(t, answers("x"))
	var z zone
	z.set("2001:db8::1", "127.0.0.1")
	c := cluster(t, func(o *Options) {
		o.Resolve = z.resolve
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "[2001:db8::1]") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}, Address{"tcp", strings.Replace(s.address().Target, "127.0.0.1", "app.test", 1)})
	began := time.Now()
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < attemptDelay || took > 8*attemptDelay {
		t.Errorf("it took %v", took)
	}
}

// RFC 8305, Section 4: address families are interleaved.
func TestFamiliesTakeTurnsAndAddressesRotate(t *testing.T) {
	var addrs []netip.Addr
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	for turn, want := range []string{
		"[2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3]",
		"[2001:db8::2 192.0.2.2 2001:db8::3 192.0.2.1 2001:db8::1]",
	} {
		if got := fmt.Sprint(alternate(addrs, turn)); got != want {
			t.Errorf("turn %d: %s, want %s", turn, got, want)
		}
	}
}

func TestConnectionsToAddressesThatANameNoLongerHasAreRetired(t *testing.T) {
	turn := make(chan struct{})
	at, accepted := named(t, holds(turn), "127.0.0.1", "127.0.0.2")
	var z zone
	z.set("127.0.0.1")
	c := cluster(t, func(o *Options) { o.Resolve = z.resolve }, at)
	e := c.endpoints[0]
	ask := func() chan error {
		done := make(chan error, 1)
		go func() { _, err := c.ask(t, get("GET")); done <- err }()
		return done
	}
	first, second := ask(), ask()
	c.busy(t, 2)
	turn <- struct{}{}
	c.busy(t, 1) // one connection is unused now, the other in use

	z.list.Store(nil)
	e.look(t.Context()) // a lookup that fails says nothing
	if c.registry.Count(registry.Dialled) != 2 {
		t.Fatal("a failed lookup ends connections")
	}
	z.set("127.0.0.2")
	e.look(t.Context())
	if n := c.registry.Count(registry.Dialled); n != 1 {
		t.Fatalf("%d connections are left, want the one in use", n)
	}
	turn <- struct{}{}
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := c.registry.Count(registry.Dialled); n != 0 {
		t.Fatalf("%d connections to the old address are kept", n)
	}
	third := ask()
	go func() { turn <- struct{}{} }()
	if err := <-third; err != nil || accepted["127.0.0.2"].Load() != 1 {
		t.Errorf("the new address got %d connections, %v", accepted["127.0.0.2"].Load(), err)
	}
	e.look(t.Context())
	if c.registry.Count(registry.Dialled) != 1 {
		t.Error("a connection to an address that the name has is ended")
	}
}

func TestRunFollowsNames(t *testing.T) {
	at, _ := named(t, answers("x"), "127.0.0.1")
	var z zone
	z.set("127.0.0.1")
	c := cluster(t, func(o *Options) { o.Resolve, o.DNSRefresh = z.resolve, 5*time.Millisecond }, at)
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Fatal(err)
	}
	c.run(t)
	z.set("127.0.0.2")
	deadline := time.Now().Add(5 * time.Second)
	for c.registry.Count(registry.Dialled) != 0 {
		if time.Now().After(deadline) {
			t.Fatal("the connection stays")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNameThatDoesNotResolveIsAConnectFailure(t *testing.T) {
	var z zone
	c := cluster(t, func(o *Options) { o.Resolve, o.ConnectTimeout = z.resolve, 50*time.Millisecond }, Address{"tcp", "app.test:80"})
	if _, err := c.ask(t, get("GET")); err == nil || !strings.Contains(err.Error(), "no such name") {
		t.Errorf("%v", err)
	}
	z.set()
	if _, err := c.ask(t, get("GET")); err == nil || !strings.Contains(err.Error(), `"app.test" has no address`) {
		t.Errorf("%v", err)
	}
}

// readAll reads to the end.
func readAll(r io.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}
