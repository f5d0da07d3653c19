package enroll

import (
	"sync"
	"time"
)

// pace bounds how many things each node may do: burst at once, and rate per second from then on. A node that has its whole burst
// left is forgotten, so it holds only the ones that are active, and those are authenticated.
type pace struct {
	rate  float64
	burst float64
	now   func() time.Time

	mu      sync.Mutex
	buckets map[string]bucket
	swept   time.Time
}

type bucket struct {
	left float64
	at   time.Time
}

// sweepEvery is how often idle nodes are forgotten.
const sweepEvery = time.Minute

func newPace(rate, burst int, now func() time.Time) *pace {
	return &pace{rate: float64(rate), burst: float64(burst), now: now, buckets: map[string]bucket{}, swept: now()}
}

// take uses up to n, and returns how many were granted.
func (p *pace) take(node string, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.sweep(now)
	b, ok := p.buckets[node]
	if !ok {
		b = bucket{left: p.burst, at: now}
	}
	b = p.refill(b, now)
	granted := min(n, int(b.left))
	b.left -= float64(granted)
	p.buckets[node] = b
	return granted
}

func (p *pace) refill(b bucket, now time.Time) bucket {
	elapsed := max(0, now.Sub(b.at)).Seconds()
	return bucket{left: min(p.burst, b.left+elapsed*p.rate), at: now}
}

func (p *pace) sweep(now time.Time) {
	if now.Sub(p.swept) < sweepEvery {
		return
	}
	p.swept = now
	for node, b := range p.buckets {
		if p.refill(b, now).left >= p.burst {
			delete(p.buckets, node)
		}
	}
}
