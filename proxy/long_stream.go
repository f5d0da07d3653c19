package proxy

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l4"
	"github.com/postern-proxy/postern/proxy/l7"
)

// longStream is a byte stream that was judged once, as a whole: a TCP connection or an upgraded one. It keeps what is needed to
// judge it again.
type longStream struct {
	request authz.Request
	caller  callerKind
	judged  *policy.Table
	name    string // of its listener
	cancel  context.CancelCauseFunc
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

// judgeStreamsAgain closes the streams that the policies which serve now deny. A new policy may concern any of them, so all are
// asked; there are as many as open tunnels, and a decision costs about a microsecond.
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
	stream.cancel(&l7.Error{Reason: observe.PolicyChanged, Status: l7.StatusOf(observe.Denied), Err: errors.New("the policies changed")})
}

// splice runs a stream that was allowed until it ends, and says why it did. Both sides are closed then.
func (s *Server) splice(ctx context.Context, now *active, listener string, caller callerKind, j *judgement, down, up l4.Stream, options l4.Options) l4.Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := &longStream{request: keptRequest(&j.request, j.asked), caller: caller, judged: now.policies, name: listener, cancel: cancel}
	s.streams.add(stream)
	defer s.streams.remove(stream)
	if s.active.Load().policies != stream.judged { // they changed before it could be told
		s.judgeAgain(stream)
	}
	result := l4.Splice(ctx, down, up, options)
	if ctx.Err() != nil {
		result.Reason = l7.ReasonOf(context.Cause(ctx), observe.Drained)
	}
	return result
}
