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
	logger      *slog.Logger
	descriptors *Descriptors
	warned      atomic.Int64 // when the last warning was logged, Unix nanoseconds

	mu      sync.Mutex
	sockets map[Address]*Socket // guarded by mu
}

// NewSet returns an empty Set. Its connections take their descriptors from an account within the limit of the process.
func NewSet(logger *slog.Logger) *Set {
	return &Set{logger: logger, descriptors: newDescriptors(processDescriptors), sockets: map[Address]*Socket{}}
}

// Descriptors is the account from which its connections take their descriptors. Others of the data path share it.
func (s *Set) Descriptors() *Descriptors { return s.descriptors }

// mayWarn allows one log line a second: what they tell of happens at the pace of the peers.
func (s *Set) mayWarn() bool {
	now, last := time.Now().UnixNano(), s.warned.Load()
	return now-last >= int64(time.Second) && s.warned.CompareAndSwap(last, now)
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
	policy atomic.Pointer[ProxyProtocol]
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
	// Refused is called for each connection that was closed because the socket is at its limit, or the descriptors at theirs.
	Refused func()
	// Failed is called for each failed accept.
	Failed func(error)
}

// Serve accepts until the context ends or the socket is released, and calls handle in the accepting goroutine: handle must start
// its own and return. One Serve at a time.
//
// Descriptors run out only if something else than connections takes them, or the limit of the process was lowered. Then accepting
// pauses for longer and longer, up to half a second: a moment's shortage passes with the connections in the queue. When it lasts,
// those that wait are accepted one by one with a descriptor held back for it, and reset: a client that is refused goes elsewhere,
// one in the queue would hang until it gives up, while checks that only connect find the process well.
func (s *Socket) Serve(ctx context.Context, handle func(*Conn), events Events) error {
	s.setDeadline(time.Time{}) // an earlier Serve may have been interrupted
	stop := context.AfterFunc(ctx, func() { s.setDeadline(time.Unix(1, 0)) })
	defer stop()
	spare := spares{want: 1}
	spare.fill()
	defer spare.drop()
	wait := backoff{}
	for {
		raw, err := s.bound.Accept()
		if err == nil {
			wait.pause = 0
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
		pause := wait.next()
		if s.set.mayWarn() {
			s.set.logger.Warn("accept failed, backing off", slog.String(observe.KeyAddress, s.at.String()),
				slog.String(observe.KeyError, err.Error()), slog.Duration(observe.KeyDuration, pause))
		}
		if exhausted(err) {
			s.set.descriptors.refresh()
			if pause >= shedAfter {
				s.shed(&spare, events)
			}
		}
		if !s.sleep(ctx, pause) {
			return nil
		}
	}
}

// hand hands a connection over, unless a limit is reached.
func (s *Socket) hand(raw net.Conn, handle func(*Conn), events Events) {
	if limit := s.limit.Load(); limit > 0 && s.active.Load() >= limit {
		refuseConn(raw, events)
		return
	}
	if !s.set.descriptors.accepted.Acquire() {
		refuseConn(raw, events)
		if s.set.mayWarn() {
			s.set.logger.Warn("connections are refused: the data path is at its limit of file descriptors",
				slog.String(observe.KeyAddress, s.at.String()), slog.Int("limit", s.set.descriptors.Limit()))
		}
		return
	}
	s.active.Add(1)
	handle(newConn(raw, s.policy.Load(), func() {
		s.active.Add(-1)
		s.set.descriptors.accepted.Release()
	}))
}

// shed resets the connections that wait, at most shedAtOnce.
func (s *Socket) shed(spare *spares, events Events) {
	for range shedAtOnce {
		spare.fill()
		if !pending(s.bound) || !spare.give() {
			return
		}
		raw, err := s.bound.Accept()
		if err != nil { // another was faster to take the descriptor
			return
		}
		refuseConn(raw, events)
	}
}

// refuseConn resets a connection: unlike an orderly end, that leaves nothing behind in the kernel, and no client takes it for an answer.
func refuseConn(raw net.Conn, events Events) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = raw.Close()
	if events.Refused != nil {
		events.Refused()
	}
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

// backoff doubles from 5 ms to half a second, so that accepting resumes within a second of descriptors being free again.
type backoff struct{ pause time.Duration }

func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, 5*time.Millisecond), 500*time.Millisecond)
	return b.pause
}

const (
	// shedAfter is the pause from which a shortage counts as one that lasts: there have been 155 ms of pauses before it.
	shedAfter = 160 * time.Millisecond
	// shedAtOnce bounds what a flood costs while descriptors are short: with the pauses, some hundredths of a processor.
	shedAtOnce = 256
)
