package proxy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l4"
	"github.com/postern-proxy/postern/proxy/l7"
)

// longStream is what was judged once, as a whole, and goes on: a TCP connection, an upgraded one, a message whose end is not in sight.
// It keeps what is needed to judge it again.
type longStream struct {
	request authz.Request // see wholeRequest
	caller  callerKind
	judged  *policy.Table
	name    string // of its listener
	cut     func(cause *l7.Error)

	mu   sync.Mutex
	gone bool // guarded by mu, which is held while cut is called: it must not be any more once the stream has left
}

// end cuts the stream, unless it has left.
func (s *longStream) end(cause *l7.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.cut(cause)
	}
}

// leave waits for a cut that is under way, and prevents one that comes later.
func (s *longStream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// wholeRequest is a copy of a request that outlives its message, with all header fields: the next policies may ask for others than
// these did.
func wholeRequest(r *authz.Request, header *l7.Header) authz.Request {
	kept := keptRequest(r, nil)
	all := header.Clone()
	kept.Header = all.Values
	return kept
}

// longStreams are those that are open. Safe for concurrent use.
type longStreams struct {
	mu   sync.Mutex
	open map[*longStream]struct{} // guarded by mu
}

func (l *longStreams) add(s *longStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[s] = struct{}{}
}

func (l *longStreams) remove(s *longStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, s)
}

func (l *longStreams) all() []*longStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*longStream, 0, len(l.open))
	for s := range l.open {
		list = append(list, s)
	}
	return list
}

// policiesChanged is called after every change of the policies.
func (s *Server) policiesChanged() {
	s.judgeStreamsAgain()
	select {
	case s.judging <- struct{}{}:
	default: // Run will look at the latest anyway
	}
}

// judgeAtExpiry judges again whenever a rule expires, until the context ends.
func (s *Server) judgeAtExpiry(ctx context.Context) {
	for {
		var due <-chan time.Time
		now := s.options.Now()
		at, expires := s.Policies().NextExpiry(now)
		if expires {
			due = time.After(min(at.Sub(now), clockCheck))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.judging:
		case <-due:
		}
		if expires && !s.options.Now().Before(at) {
			s.judgeStreamsAgain()
		}
	}
}

// clockCheck is how late an expiry may be noticed after the wall clock jumped.
const clockCheck = 10 * time.Second

// judgeStreamsAgain closes the streams that the policies which serve now deny. A new policy may concern any of them, so all are
// asked; there are as many as open tunnels and long messages, and a decision costs about a microsecond.
func (s *Server) judgeStreamsAgain() {
	for _, stream := range s.streams.all() {
		s.judgeAgain(stream)
	}
}

func (s *Server) judgeAgain(stream *longStream) {
	now := s.active.Load()
	j := s.judge(now, stream.caller, stream.request, stream.request.Header)
	if j.decision.Effect == authz.Allow {
		return
	}
	s.record(&j, stream.name, "")
	s.log.Debug("a stream is denied by new policies", slog.String(observe.KeyListener, stream.name),
		slog.String(observe.KeyDecision, j.decision.ID.String()), slog.String(observe.KeyPolicy, j.decision.Policy))
	cause := cutFor(observe.PolicyChanged, "the policies changed")
	cause.Status = l7.StatusOf(observe.Denied)
	stream.end(cause)
}

// long is the message or tunnel that the call may become.
func (c *call) long(j *judgement) *longStream {
	l := &c.state.spec.declared
	return &longStream{request: wholeRequest(&j.request, &c.req.Header), caller: callerOf(l), judged: c.now.policies, name: l.Name, cut: c.ex.Cut}
}

// followMessage puts a message whose end is not in sight under the policies that come.
func (c *call) followMessage(j *judgement, body l7.Body) (leave func()) {
	if _, whole := l7.ReadyOf(body); whole {
		return func() {}
	}
	return c.server.follow(c.long(j))
}

// follow puts a stream under the policies that come, until the returned function is called.
func (s *Server) follow(stream *longStream) (leave func()) {
	s.streams.add(stream)
	// The policies may have changed, or a rule expired, between the decision and this moment.
	at, expires := stream.judged.NextExpiry(stream.request.Time)
	if s.Policies() != stream.judged || expires && !s.options.Now().Before(at) {
		s.judgeAgain(stream)
	}
	return func() {
		s.streams.remove(stream)
		stream.leave()
	}
}

// splice runs a stream that was allowed until it ends, and says why it did. Both sides are closed then.
func (s *Server) splice(ctx context.Context, stream *longStream, down, up l4.Stream, options l4.Options) l4.Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream.cut = func(cause *l7.Error) { cancel(cause) }
	defer s.follow(stream)()
	result := l4.Splice(ctx, down, up, options)
	if ctx.Err() != nil {
		result.Reason = l7.ReasonOf(context.Cause(ctx), observe.Drained)
	}
	return result
}

// cutFor is the cause with which a context ends what is under way.
func cutFor(reason observe.Reason, text string) *l7.Error {
	return &l7.Error{Reason: reason, Status: l7.StatusOf(reason), Err: errors.New(text)}
}
