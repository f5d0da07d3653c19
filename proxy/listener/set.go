package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
)

// Set holds the open sockets of a process by address. Safe for concurrent use.
type Set struct {
	logger *slog.Logger

	mu      sync.Mutex
	sockets map[Address]*Socket // guarded by mu
}

// NewSet returns an empty Set.
func NewSet(logger *slog.Logger) *Set {
	return &Set{logger: logger, sockets: map[Address]*Socket{}}
}

// Acquire returns the socket at the address, bound now if nobody holds it. Each Acquire wants one Release. With port 0 later
// Acquires of an equal Address share what the first one was given.
func (s *Set) Acquire(ctx context.Context, at Address) (*Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.sockets[at]; ok {
		held.holders++
		return held, nil
	}
	bound, err := bind(ctx, at) // under mu: binding is local, and two binds of one address must not race
	if err != nil {
		return nil, err
	}
	socket := &Socket{set: s, at: at, bound: bound, holders: 1, released: make(chan struct{})}
	s.sockets[at] = socket
	return socket, nil
}

// Socket is one bound address.
type Socket struct {
	set      *Set
	at       Address
	bound    net.Listener
	holders  int // guarded by set.mu
	released chan struct{}

	limit  atomic.Int64
	active atomic.Int64
}

// Address is the address it was acquired by.
func (s *Socket) Address() Address { return s.at }

// Bound is the address that the kernel gave, which differs from Address for port 0.
func (s *Socket) Bound() net.Addr { return s.bound.Addr() }

// Active is the number of accepted connections that are not closed yet.
func (s *Socket) Active() int { return int(s.active.Load()) }

// SetLimit sets the largest number of open connections; zero or less means no limit. It may be called while serving.
func (s *Socket) SetLimit(connections int) { s.limit.Store(int64(connections)) }

// Release gives the socket back; the last release closes it and ends Serve.
func (s *Socket) Release() error {
	s.set.mu.Lock()
	s.holders--
	last := s.holders == 0
	if last {
		delete(s.set.sockets, s.at)
	}
	s.set.mu.Unlock()
	if !last {
		return nil
	}
	close(s.released)
	if err := s.bound.Close(); err != nil {
		return fmt.Errorf("close %q: %w", s.at, err)
	}
	return nil
}

// Events tells the caller of Serve what happened besides accepted connections. Both may be nil; they must not block.
type Events struct {
	// Refused is called for each connection that was closed because the socket is at its limit.
	Refused func()
	// Failed is called for each failed accept.
	Failed func(error)
}

// Serve accepts until the context ends or the socket is released, and calls handle in the accepting goroutine: handle must start
// its own and return. One Serve at a time.
func (s *Socket) Serve(ctx context.Context, handle func(*Conn), events Events) error {
	s.setDeadline(time.Time{}) // an earlier Serve may have been interrupted
	stop := context.AfterFunc(ctx, func() { s.setDeadline(time.Unix(1, 0)) })
	defer stop()
	wait := backoff{}
	for {
		raw, err := s.bound.Accept()
		if err == nil {
			wait.reset()
			s.hand(raw, handle, events)
			continue
		}
		if s.done(ctx) {
			return nil
		}
		if events.Failed != nil {
			events.Failed(err)
		}
		if permanent(err) {
			return fmt.Errorf("accept on %q: %w", s.at, err)
		}
		// Out of descriptors or memory: the connection stays in the accept queue, and asking again at once would only burn CPU.
		pause := wait.next()
		if wait.shouldLog(time.Now()) {
			s.set.logger.Warn("accept failed, backing off", slog.String(observe.KeyAddress, s.at.String()),
				slog.String(observe.KeyError, err.Error()), slog.Duration(observe.KeyDuration, pause))
		}
		if !s.sleep(ctx, pause) {
			return nil
		}
	}
}

func (s *Socket) hand(raw net.Conn, handle func(*Conn), events Events) {
	if limit := s.limit.Load(); limit > 0 && s.active.Load() >= limit {
		_ = raw.Close()
		if events.Refused != nil {
			events.Refused()
		}
		return
	}
	s.active.Add(1)
	handle(newConn(raw, func() { s.active.Add(-1) }))
}

// setDeadline bounds Accept; one in the past makes a blocked Accept return without closing the socket.
func (s *Socket) setDeadline(at time.Time) {
	if d, ok := s.bound.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(at)
	}
}

func (s *Socket) done(ctx context.Context) bool {
	select {
	case <-s.released:
		return true
	default:
		return ctx.Err() != nil
	}
}

func (s *Socket) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.released:
		return false
	case <-ctx.Done():
		return false
	}
}

// permanent reports an accept error that waiting does not heal.
func permanent(err error) bool { return errors.Is(err, net.ErrClosed) }

// backoff doubles from 5 ms to half a second, so that accepting resumes within a second of descriptors being free again, and lets
// one log line through per second.
type backoff struct {
	pause  time.Duration
	logged time.Time
}

func (b *backoff) reset() { b.pause = 0 }

func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, 5*time.Millisecond), 500*time.Millisecond)
	return b.pause
}

func (b *backoff) shouldLog(now time.Time) bool {
	if now.Sub(b.logged) < time.Second {
		return false
	}
	b.logged = now
	return true
}
