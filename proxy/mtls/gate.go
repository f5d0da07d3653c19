package mtls

import (
	"context"
	"errors"
)

// Gate bounds how many handshakes compute at once. A handshake that waits for its peer holds no place, so that thousands of
// half-done ones keep nobody out; they are bounded by the limit of connections and by the deadline.
type Gate struct {
	places chan struct{}
}

// NewGate returns a gate with that many places, at least one. Twice the processors is a good number: a handshake costs about
// 0.4 ms of CPU, and more of them at once only make each later.
func NewGate(places int) *Gate {
	return &Gate{places: make(chan struct{}, max(places, 1))}
}

// passage is one handshake's way through a gate: it holds a place whenever the handshake computes, and gives it back while the
// handshake waits to read. A nil passage takes none.
type passage struct {
	gate    *Gate
	given   <-chan struct{} // closed when the handshake's time is over
	holding bool
}

var errGateFull = errors.New("too many handshakes at once")

// enter begins a handshake; no gate lets everybody through.
func (g *Gate) enter(ctx context.Context) (*passage, error) {
	if g == nil {
		return nil, nil //nolint:nilnil // no passage is one that takes no place
	}
	p := &passage{gate: g, given: ctx.Done()}
	return p, p.take()
}

func (p *passage) take() error {
	if p == nil {
		return nil
	}
	select {
	case p.gate.places <- struct{}{}:
		p.holding = true
		return nil
	case <-p.given:
		return errGateFull
	}
}

func (p *passage) release() {
	if p != nil && p.holding {
		p.holding = false
		<-p.gate.places
	}
}
