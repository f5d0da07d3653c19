package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7/canonical"
	"github.com/postern-proxy/postern/proxy/listener"
	"github.com/postern-proxy/postern/proxy/mtls"
	"github.com/postern-proxy/postern/proxy/registry"
	"github.com/postern-proxy/postern/proxy/upstream"
)

// Options are what a Server needs from its process. All are required unless they say otherwise.
type Options struct {
	Logger  *slog.Logger
	Metrics *observe.Metrics
	// AccessLog may be nil.
	AccessLog *observe.AccessLog
	// Credentials returns what has the SVID of the ID; of the zero ID, the process's own. Nil for an ID that it will never have.
	Credentials func(id spiffeid.ID) *source.Holder
	// Revocations returns the current index; nil, or a nil index, revokes nothing.
	Revocations func() *revocation.Index
	// IDs makes the ids of decisions that no policy makes.
	IDs *authz.IDs
	// Decisions is how many of the latest decisions are kept for explanation; default 4096.
	Decisions int
	// Handshakes bounds how many TLS handshakes compute at once; default twice the processors.
	Handshakes int
	// Now is the wall clock for certificates and for rules that expire; nil means time.Now.
	Now func() time.Time
}

// Server runs the data plane of a process. Safe for concurrent use.
type Server struct {
	options   Options
	log       *slog.Logger
	sockets   *listener.Set
	registry  *registry.Registry
	gate      *mtls.Gate
	decisions *decisionRing
	streams   longStreams
	active    atomic.Pointer[active]

	changed  chan struct{}  // tells Run that ports have changed
	judging  chan struct{}  // tells Run that policies have changed
	conns    sync.WaitGroup // connections; counted up by the goroutines of ports only
	draining atomic.Bool    // set under mu

	mu    sync.Mutex
	ports map[listener.Address]*port // guarded by mu
	cut   context.CancelCauseFunc    // guarded by mu: ends every connection, those that still shake hands too; nil before Run
}

// active is the generation that serves, with what it is linked to. It is immutable.
type active struct {
	snapshot *Snapshot
	states   map[string]*listenerState
	clusters map[string]*cluster
	policies *policy.Table
}

// New returns a Server that has no listener yet. It starts nothing.
func New(options Options) *Server {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Revocations == nil {
		options.Revocations = func() *revocation.Index { return nil }
	}
	if options.Decisions <= 0 {
		options.Decisions = 4096
	}
	if options.Handshakes <= 0 {
		options.Handshakes = 2 * runtime.GOMAXPROCS(0)
	}
	s := &Server{
		options:   options,
		log:       options.Logger,
		sockets:   listener.NewSet(options.Logger),
		registry:  registry.New(registry.Options{Now: options.Now}),
		gate:      mtls.NewGate(options.Handshakes),
		decisions: newDecisionRing(options.Decisions),
		ports:     map[listener.Address]*port{},
		changed:   make(chan struct{}, 1), // one pending change says all there is to say
		judging:   make(chan struct{}, 1),
	}
	s.streams.open = map[*longStream]struct{}{}
	s.active.Store(&active{snapshot: &Snapshot{}, states: map[string]*listenerState{}, clusters: map[string]*cluster{}})
	return s
}

// Run accepts and serves until the context ends; then it cuts every connection, waits for all of its goroutines and closes the
// sockets. For an orderly end call Drain first. It runs once.
func (s *Server) Run(ctx context.Context) error {
	var background sync.WaitGroup
	background.Go(func() { _ = s.registry.Run(ctx) })
	background.Go(func() { s.judgeAtExpiry(ctx) })
	serving, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	s.mu.Lock()
	s.cut = cut
	s.mu.Unlock()
	for {
		s.mu.Lock()
		for _, p := range s.ports {
			if p.done == nil {
				done := make(chan struct{})
				p.done = done
				background.Go(func() { defer close(done); s.servePort(serving, p) })
			}
		}
		for _, c := range s.active.Load().clusters {
			c.startRun(ctx, &background)
		}
		s.mu.Unlock()
		select {
		case <-s.changed:
			continue
		case <-ctx.Done():
		}
		break
	}
	background.Wait()
	s.conns.Wait()
	s.release()
	return nil
}

// release gives back what the last generation held.
func (s *Server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		s.closePort(p)
	}
	for _, c := range s.active.Load().clusters {
		c.Close()
		s.registry.CloseOwner(c.Cluster, observe.Drained)
	}
}

// Drain stops accepting, asks every connection to end after what it is doing, and waits until all have; when the context ends
// before, the rest is cut and the context's error returned. Nothing can be applied afterwards.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	var accepting []chan struct{}
	for _, p := range s.ports {
		if p.done != nil {
			accepting = append(accepting, p.done)
		}
		s.closePort(p)
	}
	s.mu.Unlock()
	for _, ended := range accepting {
		<-ended // after this no connection is added
	}
	s.registry.DrainAll(registry.Accepted, observe.Drained)
	done := make(chan struct{})
	go func() { defer close(done); s.conns.Wait() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.registry.CloseAll(registry.Accepted, observe.Drained)
	s.cutRest()
	<-done
	return ctx.Err()
}

// cutRest ends what the registry did not know yet.
func (s *Server) cutRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut != nil {
		s.cut(cutFor(observe.Drained, "the server ends"))
	}
}

// SetPolicies replaces the policies. Requests that have begun keep the old ones; byte streams that the new ones deny are closed.
func (s *Server) SetPolicies(policies *policy.Table) {
	s.mu.Lock()
	next := *s.active.Load()
	next.policies = policies
	s.active.Store(&next)
	s.mu.Unlock()
	s.policiesChanged()
}

// Revoked closes the live connections, accepted and dialled, that the revocations concern, and returns how many there were. The
// index that Options.Revocations returns must have them already.
func (s *Server) Revoked(revocations []revocation.Revocation) int {
	subjects := make([]revocation.Subject, 0, len(revocations))
	for _, r := range revocations {
		subjects = append(subjects, r.Subject())
	}
	return s.registry.CloseSubjects(subjects, observe.Revoked)
}

// Generation is that of the snapshot that serves; zero before the first.
func (s *Server) Generation() uint64 { return s.active.Load().snapshot.generation }

// Policies is the table that serves; nil when there is none.
func (s *Server) Policies() *policy.Table { return s.active.Load().policies }

// Decision returns a recent decision with the canonical request that it answered; false when it was never made or is forgotten.
func (s *Server) Decision(id authz.ID) (DecisionRecord, bool) { return s.decisions.find(id) }

// Connections returns how many connections are registered.
func (s *Server) Connections(d registry.Direction) int { return s.registry.Count(d) }

// ListenerStatus is one listener of the snapshot that serves.
type ListenerStatus struct {
	Name     string
	Address  string // as bound
	Protocol string
	TLS      string
	Service  string
	// Identity is the SPIFFE ID that it presents; zero without TLS, or while there is no credential.
	Identity    spiffeid.ID
	Connections int
}

// Listeners describes the listeners in the order of the configuration.
func (s *Server) Listeners() []ListenerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.active.Load()
	var list []ListenerStatus
	for _, spec := range now.snapshot.listeners {
		l := &spec.declared
		status := ListenerStatus{Name: l.Name, Protocol: string(l.Protocol), TLS: string(l.TLS.Mode), Service: l.Service}
		if p := s.ports[spec.address]; p != nil {
			status.Address = p.socket.Bound().String()
			status.Connections = p.socket.Active()
		}
		if x := now.states[l.Name].credentials.Get(); x != nil && l.TLS.Mode != "none" {
			status.Identity = x.ID
		}
		list = append(list, status)
	}
	return list
}

// ClusterStatus is one cluster of the snapshot that serves.
type ClusterStatus struct {
	Name      string
	Protocol  string // as declared
	Endpoints []upstream.EndpointStatus
}

// Clusters describes the clusters in the order of the configuration.
func (s *Server) Clusters() []ClusterStatus {
	now := s.active.Load()
	var list []ClusterStatus
	for i := range now.snapshot.clusters {
		declared := &now.snapshot.clusters[i]
		list = append(list, ClusterStatus{Name: declared.Name, Protocol: string(declared.Protocol),
			Endpoints: now.clusters[declared.Name].Status()})
	}
	return list
}

// Relaxed is what the routes of the service's listeners take together of forms of a path that are refused elsewhere.
func (s *Server) Relaxed(service string) (forms canonical.Profile) {
	for _, spec := range s.active.Load().snapshot.listeners {
		if spec.declared.Service == service {
			forms |= spec.relax
		}
	}
	return forms
}

// Addr is where the listener of that name is bound; nil when there is none.
func (s *Server) Addr(name string) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if state := p.current.Load(); state != nil && state.spec.declared.Name == name {
			return p.socket.Bound()
		}
	}
	return nil
}

var errDraining = errors.New("the server is draining")
