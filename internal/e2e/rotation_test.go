package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Rotation is invisible (promise 4): SVIDs, the signing authority and the root change under traffic, and no request fails.
// POSTERN_ROTATION_FOR and POSTERN_ROTATION_RATE make it the long form.
func TestRotationUnderLoadFailsNoRequest(t *testing.T) {
	length := envDuration(t, "POSTERN_ROTATION_FOR", 12*time.Second)
	rate := envInt(t, "POSTERN_ROTATION_RATE", 200)
	metrics := ports(t, 2)
	m := startMesh(t, http.HandlerFunc(hello), func(name, yaml string) string {
		switch name {
		case "authority":
			return strings.Replace(yaml, "data_dir: state/authority", "data_dir: state/authority\n  svid_ttl: 20s", 1)
		case "orders":
			return yaml + fmt.Sprintf("metrics: {listen: \"127.0.0.1:%d\"}\n", metrics[0])
		default:
			return yaml + fmt.Sprintf("metrics: {listen: \"127.0.0.1:%d\"}\n", metrics[1])
		}
	})
	load := &load{url: m.url("/v1/orders/7")}
	stop := load.offer(rate)
	time.Sleep(length / 3) // the length of the load is the test's own
	m.authority.must("ca", "rotate", "signing")
	time.Sleep(length / 3)
	m.authority.must("ca", "rotate", "root")
	time.Sleep(length / 3)
	stop()

	total, failed := load.total.Load(), load.failed.Load()
	if failed > 0 || total < int64(rate)*int64(length/time.Second)/2 {
		t.Errorf("%d of %d requests failed; the first: %v", failed, total, load.first.Load())
	}
	renewals := map[string]string{}
	for name, port := range map[string]int{"orders": metrics[0], "web": metrics[1]} {
		renewals[name] = metric(t, port, `postern_svid_rotations_total`)
	}
	t.Logf("%d requests in %s (keep-alive and fresh connections), %d failed; rotations: %v", total, length, failed, renewals)
	for name, n := range renewals {
		if n == "" || n == "0" {
			t.Errorf("%s counted no rotation", name)
		}
	}
}

// load calls a URL at a rate, half of it on kept connections and half on fresh ones, without waiting for answers before the next call.
type load struct {
	url           string
	total, failed atomic.Int64
	first         atomic.Value // the first failure

	mu   sync.Mutex
	last time.Time     // guarded by mu: of the last good answer
	gap  time.Duration // guarded by mu: the longest between two
}

// worstGap is the longest time between two good answers.
func (l *load) worstGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

func (l *load) good() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.last.IsZero() {
		l.gap = max(l.gap, now.Sub(l.last))
	}
	l.last = now
}

// offer starts the load and returns what ends it and waits for what is under way.
func (l *load) offer(rate int) (stop func()) {
	kept := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	fresh := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	done := make(chan struct{})
	var calls sync.WaitGroup
	calls.Go(func() {
		const step = 5 * time.Millisecond
		tick := time.NewTicker(step)
		defer tick.Stop()
		began, sent := time.Now(), 0
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
				client := kept
				if sent%2 == 1 {
					client = fresh
				}
				calls.Go(func() { l.call(client) })
			}
		}
	})
	return func() {
		close(done)
		calls.Wait()
		kept.CloseIdleConnections()
	}
}

func (l *load) call(client *http.Client) {
	l.total.Add(1)
	resp, err := client.Get(l.url)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %s", resp.Status)
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, time.Now().Format(time.TimeOnly)+" "+err.Error())
		return
	}
	l.good()
}

// metric returns the value of the first sample whose name and labels begin with prefix.
func metric(t *testing.T, port int, prefix string) string {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, prefix) {
			fields := strings.Fields(line)
			return fields[len(fields)-1]
		}
	}
	return ""
}
