package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/proxyproto"
)

func TestRequestsUnderWayAreLimited(t *testing.T) {
	turn := make(chan struct{})
	s := serve(t, holds(turn))
	c := cluster(t, func(o *Options) { o.MaxRequests = 2 }, s.address())
	var requests sync.WaitGroup
	for n := range int64(2) {
		requests.Go(func() {
			if _, err := c.ask(t, get("GET")); err != nil {
				t.Error(err)
			}
		})
		c.busy(t, n+1)
	}
	_, err := c.ask(t, get("GET"))
	wantReason(t, err, observe.UpstreamOverloaded)
	if n := testutil.ToFloat64(c.metrics.overloaded); n != 1 {
		t.Errorf("%v refusals counted", n)
	}
	close(turn)
	requests.Wait()
	if _, err := c.ask(t, get("GET")); err != nil {
		t.Errorf("with nothing under way: %v", err)
	}
	if n := c.underWay.Load(); n != 0 {
		t.Errorf("%d are said to be under way", n)
	}
}

func TestByteStreamsAreLimited(t *testing.T) {
	s := serve(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	c := cluster(t, func(o *Options) { o.MaxConnections = 1 }, s.address())
	conn, err := c.Dial(t.Context(), permit(t), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Dial(t.Context(), permit(t), DialOptions{})
	wantReason(t, err, observe.UpstreamOverloaded)
	conn.Finish(0, 0)
}

func TestByteStreamsBeginWithThePROXYHeader(t *testing.T) {
	source, destination := netip.MustParseAddrPort("192.0.2.7:4711"), netip.MustParseAddrPort("198.51.100.1:443")
	for _, test := range []struct {
		name    string
		version int
		options DialOptions
		local   bool
	}{
		{"version 1", 1, DialOptions{Source: source, Destination: destination}, false},
		{"version 2", 2, DialOptions{Source: source, Destination: destination, TLVs: []proxyproto.TLV{{Type: proxyproto.TypeAuthority, Value: []byte("app.test")}}}, false},
		{"addresses unknown", 2, DialOptions{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan proxyproto.Header, 1)
			rest := make(chan string, 1)
			s := serve(t, func(conn net.Conn, _ *bufio.Reader) {
				h, _, err := proxyproto.Read(conn, 0)
				if err != nil {
					t.Error(err)
				}
				got <- h
				rest <- readAll(conn)
			})
			c := cluster(t, func(o *Options) { o.ProxyProtocol = test.version }, s.address())
			conn, err := c.Dial(t.Context(), permit(t), test.options)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "hello")
			conn.Finish(0, 0)
			h := <-got
			if h.Version != test.version || h.Local != test.local || h.Source != test.options.Source || h.Destination != test.options.Destination {
				t.Errorf("header %+v", h)
			}
			if name, ok := h.Value(proxyproto.TypeAuthority); ok != (len(test.options.TLVs) > 0) || ok && string(name) != "app.test" {
				t.Errorf("authority %q, %v", name, ok)
			}
			if text := <-rest; text != "hello" {
				t.Errorf("after the header %q", text)
			}
		})
	}
}

func TestAnUnknownVersionOfThePROXYProtocolIsRefused(t *testing.T) {
	c := cluster(t, func(o *Options) { o.ProxyProtocol = 3 }, nowhere(1)...)
	_, err := c.Dial(t.Context(), permit(t), DialOptions{})
	wantReason(t, err, observe.Internal)
}

func TestARequestThatRunsOutOfTimeWhileItWaitsSaysSo(t *testing.T) {
	c := cluster(t, func(o *Options) {
		o.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		o.ConnectTimeout = 200 * time.Millisecond
	}, nowhere(1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.RoundTrip(ctx, permit(t), get("GET"), Call{})
	wantReason(t, err, observe.UpstreamTimeout)
}
