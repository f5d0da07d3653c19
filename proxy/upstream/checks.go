package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// checkHealth asks every endpoint again and again until the context ends. One goroutine keeps the time; no more than a few checks
// run at once, and none of an endpoint beside another of the same.
func (c *Cluster) checkHealth(ctx context.Context) {
	rule := &c.options.Health
	due := make([]time.Time, len(c.endpoints)) // far away while a check runs
	for i := range due {
		due[i] = time.Now().Add(rand.N(min(rule.Interval, time.Second))) // not all proxies, and not all endpoints, at once
	}
	done := make(chan int)
	running := 0
	var checks sync.WaitGroup
	defer checks.Wait()
	for {
		next := 0
		for i := range due {
			if due[i].Before(due[next]) {
				next = i
			}
		}
		timer := time.NewTimer(time.Until(due[next]))
		start := timer.C
		if running == parallel {
			start = nil
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case i := <-done:
			running--
			due[i] = time.Now().Add(jittered(rule.Interval))
		case <-start:
			due[next] = time.Now().Add(noBound)
			running++
			checks.Go(func() {
				c.endpoints[next].check(ctx)
				select {
				case done <- next:
				case <-ctx.Done():
				}
			})
		}
		timer.Stop()
	}
}

// jittered is the duration give or take a tenth.
func jittered(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// check asks the endpoint once and draws the conclusion.
func (e *endpoint) check(ctx context.Context) {
	c := e.cluster
	bounded, cancel := context.WithTimeout(ctx, c.options.Health.Timeout)
	defer cancel()
	failure := e.examine(bounded)
	if ctx.Err() != nil { // of Run: it was not the endpoint that ended it
		return
	}
	good, reason := failure == nil, observe.Reason("")
	if !good {
		reason = failure.Reason
	}
	c.metrics.checked(good)
	if good {
		e.reachable()
	}
	if e.health.checked(good, &c.options.Health, reason) {
		c.countAvailable()
	}
}

// examine opens a connection and, if there is a path to ask for, sends a request on it.
func (e *endpoint) examine(ctx context.Context) *l7.Error {
	e.open.Add(1)
	conn, failure := e.connectSafely(ctx, e.cluster.examination())
	if failure != nil {
		e.open.Add(-1)
		return failure
	}
	defer func() { _ = conn.Close() }()
	if conn.byteStream.Load() {
		conn.Finish(0, 0)
		return nil
	}
	return e.cluster.ask(ctx, conn)
}

// examination is what a check opens its connection for. The server may expect a PROXY header from whoever connects; this one says
// that the connection is the proxy's own.
func (c *Cluster) examination() purpose {
	preamble, err := (&DialOptions{}).preamble(c.options.ProxyProtocol)
	if err != nil { // Dial says so
		preamble = nil
	}
	return purpose{byteStream: c.options.Health.Path == "", preamble: preamble}
}

// ask sends the request of a check on a connection of its own.
func (c *Cluster) ask(ctx context.Context, conn *Conn) *l7.Error {
	rule := &c.options.Health
	req := &l7.Request{Protocol: l7.HTTP11, Method: "GET", Authority: rule.Host}
	req.Path, req.RawQuery, _ = strings.Cut(rule.Path, "?")
	if req.Authority == "" {
		req.Authority = conn.authority()
	}
	req.Host, _, _ = net.SplitHostPort(req.Authority)
	if req.Host == "" {
		req.Host = req.Authority
	}
	req.Header.Add("user-agent", "postern-health")
	if conn.multi != nil && !conn.multi.Reserve() {
		return c.failed(observe.UpstreamProtocol, errors.New("the server takes no request on a new connection"))
	}
	conn.requests.Add(1)
	resp, err := conn.roundTrip(ctx, req, &Call{})
	if err != nil {
		return conn.explain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if !rule.success(resp.Status) {
		return c.failed(observe.UpstreamProtocol, fmt.Errorf("the check was answered with status %d", resp.Status))
	}
	return nil
}

// authority is the endpoint's address as a request may name it.
func (c *Conn) authority() string {
	if c.endpoint.at.Network == "tcp" {
		return c.endpoint.at.Target
	}
	return "localhost"
}

func (h *Health) success(status int) bool {
	if len(h.Statuses) == 0 {
		return status >= 200 && status < 400
	}
	return slices.Contains(h.Statuses, status)
}
