package observe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-proxy/postern/internal/observe"
)

func dropped() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
}

func TestAccessLogWritesEachRecordAsOneLineOfJSON(t *testing.T) {
	log := observe.NewAccessLog(dropped())
	log.Request(&observe.Access{Started: time.Unix(1, 0).UTC(), Duration: time.Second, Method: "GET", Path: "/a\"\n{}", Status: 403,
		Effect: "deny", Decision: "0123456789abcdef", Reason: observe.Denied})
	log.Flow(&observe.Flow{Direction: observe.Accepted, Listener: "inbound", Close: observe.Revoked, TLS: observe.TLSFacts{Peer: "spiffe://example.org/a"}})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := log.Run(ctx, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("want 2 lines, have %q", lines)
	}
	var request, flow map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &request); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(lines[1]), &flow); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"type": "request", "path": "/a\"\n{}", "status": 403.0, "reason": "denied",
		"decision": "0123456789abcdef", "seconds": 1.0, "time": "1970-01-01T00:00:01Z"} {
		if request[key] != want {
			t.Errorf("request %s: have %v, want %v", key, request[key], want)
		}
	}
	if _, has := request["route"]; has {
		t.Error("an empty fact was written")
	}
	if flow["close"] != "revoked" || flow["peer"] != "spiffe://example.org/a" {
		t.Errorf("flow: %v", flow)
	}
}

// Callers choose how long their paths are: lines are counted in bytes too, and the room comes back when they are written.
func TestAccessLogBoundsTheBytesThatWait(t *testing.T) {
	counter := dropped()
	log := observe.NewAccessLog(counter)
	long := &observe.Access{Path: strings.Repeat("p", 1<<20)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for round := range 2 {
		for range 20 {
			log.Request(long)
		}
		var out bytes.Buffer
		if err := log.Run(ctx, &out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); got != 15 || testutil.ToFloat64(counter) != float64(5*(round+1)) {
			t.Fatalf("round %d: %d lines of 1 MiB were kept, %v dropped", round, got, testutil.ToFloat64(counter))
		}
	}
}

func TestAccessLogDropsAndCountsWhatItsQueueCannotHold(t *testing.T) {
	counter := dropped()
	log := observe.NewAccessLog(counter)
	const lines = 5000
	for range lines {
		log.Request(&observe.Access{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := log.Run(ctx, &out); err != nil {
		t.Fatal(err)
	}
	written := strings.Count(out.String(), "\n")
	if lost := int(testutil.ToFloat64(counter)); lost == 0 || written+lost != lines {
		t.Fatalf("%d written and %d counted as dropped of %d", written, lost, lines)
	}
}

func TestMetricsFollowThePrometheusConventions(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := observe.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	m.Connections.WithLabelValues(observe.Accepted, "inbound", "ok").Inc()
	m.RequestSeconds.WithLabelValues("inbound").Observe(0.01)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func BenchmarkAccessLogRequest(b *testing.B) {
	log := observe.NewAccessLog(dropped())
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = log.Run(ctx, discard{}) }()
	access := &observe.Access{RequestID: "0123456789abcdef", Listener: "inbound", Service: "orders", Principal: "spiffe://example.org/web",
		Method: "GET", Host: "orders", Path: "/v1/orders/1", Status: 200, Effect: "allow", Decision: "0123456789abcdef", Policy: "p", Rule: "allow[0]"}
	b.ReportAllocs()
	for b.Loop() {
		log.Request(access)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
