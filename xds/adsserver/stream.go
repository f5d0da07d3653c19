package adsserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/internal/observe"
)

// stream is one client's delta stream. Its fields without a note are set once; one goroutine, serve, drives it.
type stream struct {
	server    *Server
	logger    *slog.Logger
	id        uint64
	client    string // the proven SPIFFE ID
	connected time.Time
	poked     chan struct{} // capacity 1: a pending poke says all that a second one would
	evicted   chan struct{}
	once      sync.Once

	mu            sync.Mutex
	claimed       string // what the client called itself
	subscriptions []*subscription
	nonces        uint64
}

// DeltaAggregatedResources serves one stream until its client goes, breaks the protocol or a limit, or is evicted.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	id, err := s.options.Authenticate(g.Context())
	if err != nil {
		return asStatus(err, codes.Unauthenticated)
	}
	if id.IsZero() {
		return status.Error(codes.Unauthenticated, "no identity")
	}
	st, err := s.admit(id.String())
	if err != nil {
		return err
	}
	defer s.release(st)
	st.logger.Info("node connected")
	err = st.serve(g)
	st.logger.Info("node disconnected", slog.String(observe.KeyReason, status.Code(err).String()))
	return err
}

// admit makes a stream for the client, or refuses it at a limit.
func (s *Server) admit(client string) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) >= s.limits.Streams {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d streams are open", s.limits.Streams)
	}
	if len(s.byNode[client]) >= s.limits.StreamsPerNode {
		return nil, status.Errorf(codes.ResourceExhausted, "%q has %d streams open", client, s.limits.StreamsPerNode)
	}
	s.nextID++
	st := &stream{
		server: s, logger: s.serving(client), id: s.nextID, client: client, connected: time.Now(),
		poked: make(chan struct{}, 1), evicted: make(chan struct{}),
	}
	for _, typeURL := range s.options.Types {
		st.subscriptions = append(st.subscriptions, newSubscription(s.tables[typeURL]))
	}
	s.streams[st] = struct{}{}
	if s.byNode[client] == nil {
		s.byNode[client] = map[*stream]struct{}{}
	}
	s.byNode[client][st] = struct{}{}
	return st, nil
}

func (s *Server) release(st *stream) {
	s.mu.Lock()
	delete(s.streams, st)
	delete(s.byNode[st.client], st)
	if len(s.byNode[st.client]) == 0 {
		delete(s.byNode, st.client)
	}
	s.mu.Unlock()
	s.progressed()
}

func (st *stream) poke() {
	select {
	case st.poked <- struct{}{}:
	default:
	}
}

func (st *stream) evict() { st.once.Do(func() { close(st.evicted) }) }

// serve is the loop of the stream. Reading and writing block, so each has a goroutine; both end when serve returns, because gRPC then
// ends the stream's context.
func (st *stream) serve(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx := g.Context()
	requests, failed := receive(ctx, g)
	responses, sent := send(ctx, g)
	defer close(responses)

	sending, waiting := false, false
	deadline := stoppedTimer()
	coalesce := stoppedTimer()
	defer deadline.Stop()
	defer coalesce.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-st.evicted:
			return status.Error(codes.PermissionDenied, "no longer welcome")
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case now := <-deadline.C:
			wait, overdue := st.patience(now)
			if overdue {
				return status.Errorf(codes.DeadlineExceeded, "a response was not answered within %s", st.server.limits.AnswerTimeout)
			}
			if waiting = wait > 0; waiting {
				deadline.Reset(wait)
			}
		case err := <-sent:
			if err != nil {
				return err
			}
			sending = false
		case req := <-requests:
			if err := st.handle(req); err != nil {
				return err
			}
		case <-st.poked:
			if window := st.server.options.Coalesce; window > 0 {
				coalesce.Reset(window)
				continue
			}
		case <-coalesce.C:
		}
		if sending {
			continue
		}
		next, err := st.next()
		if err != nil {
			return err
		}
		if next != nil {
			responses <- next
			sending = true
			if !waiting {
				waiting = true
				deadline.Reset(st.server.limits.AnswerTimeout)
			}
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// receive hands on what the client sends.
func receive(ctx context.Context, g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) (<-chan *discovery.DeltaDiscoveryRequest, <-chan error) {
	requests, failed := make(chan *discovery.DeltaDiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			req, err := g.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	return requests, failed
}

// send writes one response after the other. The caller hands over the next one only after the last was reported sent, and
// closes the channel at the end.
func send(ctx context.Context, g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) (chan<- *discovery.DeltaDiscoveryResponse, <-chan error) {
	responses, sent := make(chan *discovery.DeltaDiscoveryResponse, 1), make(chan error, 1)
	go func() {
		for r := range responses {
			err := g.Send(r)
			select {
			case sent <- err:
			case <-ctx.Done():
				return
			}
		}
	}()
	return responses, sent
}

// handle takes one request: an answer to the last response, a change of subscription, or both.
func (st *stream) handle(req *discovery.DeltaDiscoveryRequest) error {
	if err := st.introduce(req.GetNode().GetId()); err != nil {
		return err
	}
	s := st.subscription(req.GetTypeUrl())
	if s == nil {
		st.logger.Debug("request for a type that is not served", slog.String(observe.KeyType, clip(req.GetTypeUrl())))
		return nil
	}
	progressed, err := st.apply(s, req)
	if progressed {
		st.server.progressed()
	}
	return err
}

// introduce checks what the client calls itself in its first request. A name that is a SPIFFE ID must be its own; anything else is a label.
func (st *stream) introduce(claimed string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if claimed == "" || st.claimed != "" {
		return nil
	}
	if isSPIFFE(claimed) && claimed != st.client {
		st.server.metrics.forged.Inc()
		st.logger.Warn("client claims to be another one", slog.String(observe.KeyPeer, clip(claimed)))
		return status.Errorf(codes.PermissionDenied, "node.id is %q, the connection belongs to %q", clip(claimed), st.client)
	}
	st.claimed = clip(claimed)
	return nil
}

func (st *stream) subscription(typeURL string) *subscription {
	for _, s := range st.subscriptions {
		if s.table.typeURL == typeURL {
			return s
		}
	}
	return nil
}

// apply changes the subscription. It reports whether somebody who waits for acknowledgements should look again.
func (st *stream) apply(s *subscription, req *discovery.DeltaDiscoveryRequest) (bool, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	answered := false
	if req.GetResponseNonce() != "" {
		pending := s.pending
		if answered = s.answer(req, time.Now()); answered {
			st.server.metrics.answered(s.table.typeURL, pending, req.GetErrorDetail() != nil)
			st.logAnswer(s, req)
		}
	}
	s.subscribe(req)
	if st.names() > st.server.limits.Names || len(req.GetInitialResourceVersions()) > st.server.limits.Names {
		return answered, status.Errorf(codes.ResourceExhausted, "more than %d names on one stream", st.server.limits.Names)
	}
	return answered, nil
}

func (st *stream) logAnswer(s *subscription, req *discovery.DeltaDiscoveryRequest) {
	if req.GetErrorDetail() == nil {
		return
	}
	st.logger.Warn("node rejected resources", slog.String(observe.KeyType, s.table.typeURL), slog.String(observe.KeyError, s.lastNACK))
}

// names counts what the stream subscribes to by name. The lock is held.
func (st *stream) names() int {
	count := 0
	for _, s := range st.subscriptions {
		count += len(s.names) + len(s.asked)
	}
	return count
}

// next returns the response to send now, or nil. A type that waits for its client while more is to come holds up the types after it, so that trust
// arrives before what needs it.
func (st *stream) next() (*discovery.DeltaDiscoveryResponse, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	advanced := false
	defer func() {
		if advanced {
			st.server.progressed()
		}
	}()
	for _, s := range st.subscriptions {
		if !s.behind() {
			continue
		}
		if s.pending != nil {
			return nil, nil
		}
		out, pending, err := s.next(st.client, st.server.limits.ResponseBytes, time.Now())
		if err != nil {
			return nil, err
		}
		if out == nil {
			advanced = true
			continue
		}
		st.nonces++
		out.Nonce = strconv.FormatUint(st.nonces, 16)
		pending.nonce = out.GetNonce()
		s.pending = pending
		st.server.metrics.pushes.WithLabelValues(s.table.typeURL).Inc()
		return out, nil
	}
	return nil, nil
}

// patience is how long the oldest unanswered response may still take; zero when every one is answered. overdue says that it took too long.
func (st *stream) patience(now time.Time) (left time.Duration, overdue bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, s := range st.subscriptions {
		if s.pending == nil {
			continue
		}
		wait := s.pending.sent.Add(st.server.limits.AnswerTimeout).Sub(now)
		if wait <= 0 {
			return 0, true
		}
		if left == 0 || wait < left {
			left = wait
		}
	}
	return left, false
}

// accepted reports whether the stream does not subscribe to the type, or has accepted the generation.
func (st *stream) accepted(typeURL string, generation uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.subscription(typeURL)
	return s == nil || !s.opened || s.acked >= generation
}

// asStatus returns err as it is when it carries a gRPC status, otherwise with this code and without its text, which is for the operator.
func asStatus(err error, code codes.Code) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code, "not authenticated")
}
