package upstream

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// errResponseTimeout is the cause that the engine takes its reason from.
var errResponseTimeout = &l7.Error{Reason: observe.UpstreamTimeout, Status: 504, Side: l7.Upstream, Err: errors.New("no response in time")}

// patience ends an exchange whose response does not come. Its time begins when the request has been read to its end.
type patience struct {
	timeout time.Duration
	cancel  context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	over  bool        // guarded by mu
}

func newPatience(timeout time.Duration, cancel context.CancelCauseFunc) *patience {
	return &patience{timeout: timeout, cancel: cancel}
}

func (p *patience) watch(body l7.Body) l7.Body {
	if body == nil {
		p.start()
		return nil
	}
	return &watchedBody{Body: body, patience: p}
}

func (p *patience) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer == nil && !p.over {
		p.timer = time.AfterFunc(p.timeout, func() { p.cancel(errResponseTimeout) })
	}
}

func (p *patience) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// watchedBody tells when a request's body has been read to its end.
type watchedBody struct {
	l7.Body
	patience *patience
}

// Read implements l7.Body.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if errors.Is(err, io.EOF) {
		b.patience.start()
	}
	return n, err
}

// Start implements l7.Starter.
func (b *watchedBody) Start() error { return l7.Start(b.Body) }

// Ready implements l7.Ready.
func (b *watchedBody) Ready() (int, bool) { return l7.ReadyOf(b.Body) }
