package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Reloads and rotations are invisible (promise 4): while the configuration changes again and again and SVIDs are renewed every few
// seconds, no request fails, no pause is long, and nothing grows. POSTERN_CHANGES_FOR, POSTERN_CHANGES_RATE and POSTERN_RELOADS
// make it the long form.
func TestReloadsAndRotationsUnderLoadFailNoRequestAndLeaveNothing(t *testing.T) {
	length := envDuration(t, "POSTERN_CHANGES_FOR", 8*time.Second)
	rate := envInt(t, "POSTERN_CHANGES_RATE", 200)
	reloads := envInt(t, "POSTERN_RELOADS", 40)
	metrics := ports(t, 2)
	files := map[string]string{}
	m := startMesh(t, http.HandlerFunc(hello), func(name, yaml string) string {
		switch name {
		case "authority":
			yaml = strings.Replace(yaml, "data_dir: state/authority", "data_dir: state/authority\n  svid_ttl: 10s", 1)
		case "orders":
			yaml += fmt.Sprintf("metrics: {listen: \"127.0.0.1:%d\"}\n", metrics[0])
		default:
			yaml += fmt.Sprintf("metrics: {listen: \"127.0.0.1:%d\"}\n", metrics[1])
		}
		files[name] = yaml
		return yaml
	})
	load := &load{url: m.url("/v1/orders/7")}
	stop := load.offer(rate)
	time.Sleep(2 * time.Second) // the length of the load is the test's own
	before := map[*process]usage{m.orders: m.orders.usage(), m.web: m.web.usage()}
	goroutines := metric(t, metrics[0], "go_goroutines")

	var changes sync.WaitGroup
	for name, p := range map[string]*process{"orders": m.orders, "web": m.web} {
		changes.Go(func() {
			pause := length / time.Duration(reloads)
			for i := range reloads {
				// Every other time something that the listener and its clusters depend on is another.
				yaml := files[name]
				if i%2 == 0 {
					yaml += fmt.Sprintf("limits: {max_connections: %d}\n", 9000+i)
				}
				write(t, filepath.Join(m.dir, name+".yaml"), yaml)
				if out, code := p.postern("reload"); code != 0 {
					t.Errorf("reload %d of %s: %s", i, name, out)
				}
				time.Sleep(pause)
			}
		})
	}
	changes.Wait()
	stop()
	time.Sleep(time.Second) // the load's connections end
	after := map[*process]usage{m.orders: m.orders.usage(), m.web: m.web.usage()}

	total, failed := load.total.Load(), load.failed.Load()
	if failed > 0 {
		t.Errorf("%d of %d requests failed; the first: %v", failed, total, load.first.Load())
	}
	if gap := load.worstGap(); gap > 250*time.Millisecond*time.Duration(1+raceFactor()) {
		t.Errorf("the longest time without a good answer was %v", gap)
	}
	rotations := metric(t, metrics[0], "postern_svid_rotations_total") + " and " + metric(t, metrics[1], "postern_svid_rotations_total")
	t.Logf("%d requests, %d failed; worst gap %v; %d reloads of each, rotations %s; goroutines of orders %s before, %s after", total, failed,
		load.worstGap(), reloads, rotations, goroutines, metric(t, metrics[0], "go_goroutines"))
	for p, was := range before {
		now := after[p]
		t.Logf("%s: %d KiB before, %d KiB after; %d descriptors before, %d after", filepath.Base(p.socket), was.rss>>10, now.rss>>10, was.fds, now.fds)
		if now.rss > was.rss*12/10+memorySlack || now.fds > was.fds+was.fds/2+20 {
			t.Errorf("%s grew from %+v to %+v", filepath.Base(p.socket), was, now)
		}
	}
}

// raceFactor gives a machine with few processors more time for the same.
func raceFactor() int {
	if runtime.NumCPU() < 4 {
		return 1
	}
	return 0
}

// An upstream that dies and comes back each second is no reason for an idempotent request to fail, nor one for sending any other
// twice. POSTERN_FLAP_FOR makes it the long form.
func TestFlappingUpstreamFailsNoIdempotentRequestAndRepeatsNoOther(t *testing.T) {
	length := envDuration(t, "POSTERN_FLAP_FOR", 8*time.Second)
	app := newFlapping(t)
	dir, port := shortDir(t), ports(t, 1)[0]
	p := start(t, dir, "gateway", gateway(port, app.address, "/", ""))
	reads := &load{url: fmt.Sprintf("http://127.0.0.1:%d/", port)}
	stop := reads.offer(200)
	posts := &http.Client{Timeout: 10 * time.Second}
	sent, answered := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		sent++
		resp, err := posts.Post(fmt.Sprintf("http://127.0.0.1:%d/", port), "text/plain", strings.NewReader(strconv.Itoa(sent)))
		if err == nil {
			if resp.StatusCode == http.StatusOK {
				answered++
			}
			_ = resp.Body.Close()
		}
	}
	stop()
	total, failed := reads.total.Load(), reads.failed.Load()
	retries, _ := p.postern("status")
	t.Logf("%d restarts; %d GETs, %d failed; %d POSTs, %d answered, %d seen twice", app.restarts.Load(), total, failed, sent, answered, app.twice())
	if failed*1000 > total {
		t.Errorf("%d of %d GETs failed; the first: %v\n%s", failed, total, reads.first.Load(), retries)
	}
	if n := app.twice(); n > 0 {
		t.Errorf("%d POSTs came twice", n)
	}
}
