package proxy

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/listener"
)

// port is a bound socket and the state that its next connection gets. It lives as long as some generation has its address.
type port struct {
	socket  *listener.Socket
	current atomic.Pointer[listenerState] // nil when no generation wants it any more
	done    chan struct{}                 // guarded by Server.mu: closed when its goroutine has ended; nil before it was started
	closed  bool                          // guarded by Server.mu
}

// servePort accepts on one socket until it is released or the context ends.
func (s *Server) servePort(ctx context.Context, p *port) {
	events := listener.Events{
		Refused: func() {
			if state := p.current.Load(); state != nil {
				state.metrics.began(observe.TooManyConnections)
			}
		},
		Failed: func(error) {
			if state := p.current.Load(); state != nil {
				state.metrics.began(observe.IOError)
			}
		},
	}
	err := p.socket.Serve(ctx, func(raw *listener.Conn) {
		state := p.current.Load()
		if state == nil {
			_ = raw.Close()
			return
		}
		s.conns.Go(func() { s.serveConn(ctx, state, raw) })
	}, events)
	if err != nil {
		s.log.Error("listener stopped", slog.String(observe.KeyAddress, p.socket.Address().String()), slog.String(observe.KeyError, err.Error()))
	}
}

// closePort gives the socket back. The caller holds mu.
func (s *Server) closePort(p *port) {
	if p.closed {
		return
	}
	p.closed = true
	p.current.Store(nil)
	delete(s.ports, p.socket.Address())
	if err := p.socket.Release(); err != nil {
		s.log.Warn("closing a socket failed", slog.String(observe.KeyAddress, p.socket.Address().String()), slog.String(observe.KeyError, err.Error()))
	}
}
