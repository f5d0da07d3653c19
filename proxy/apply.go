package proxy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/listener"
)

// Apply makes the snapshot the one that serves, with the policies; nil keeps those that serve now. It binds what is new first: when
// that fails, nothing has changed and the old generation goes on. What is not changed lives on: listeners with their connections,
// clusters with their pools and health. Listeners that are gone drain.
func (s *Server) Apply(ctx context.Context, snapshot *Snapshot, policies *policy.Table) error {
	if err := s.apply(ctx, snapshot, policies); err != nil {
		return err
	}
	s.policiesChanged()
	return nil
}

func (s *Server) apply(ctx context.Context, snapshot *Snapshot, policies *policy.Table) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return errDraining
	}
	old := s.active.Load()
	next, err := s.link(snapshot, old)
	if err != nil {
		return err
	}
	next.policies = old.policies
	if policies != nil {
		next.policies = policies
	}
	bound, err := s.bind(ctx, snapshot)
	if err != nil {
		return err
	}

	// From here on nothing fails.
	for at, p := range bound {
		s.ports[at] = p
	}
	s.active.Store(next)
	s.options.Metrics.Generation.Set(float64(snapshot.generation))
	s.turn(snapshot, old, next)
	select {
	case s.changed <- struct{}{}:
	default: // Run will look at everything anyway
	}
	return nil
}

// link finds or makes everything that the snapshot names, without touching what serves.
func (s *Server) link(snapshot *Snapshot, old *active) (*active, error) {
	next := &active{snapshot: snapshot, states: map[string]*listenerState{}, clusters: map[string]*cluster{}}
	var problems []error
	for i := range snapshot.clusters {
		declared := snapshot.declare(&snapshot.clusters[i])
		if have := old.clusters[declared.Name]; have != nil && reflect.DeepEqual(have.declared, *declared) {
			next.clusters[declared.Name] = have
			continue
		}
		made, err := s.newCluster(declared)
		if err != nil {
			problems = append(problems, fmt.Errorf("cluster %q: %w", declared.Name, err))
			continue
		}
		next.clusters[declared.Name] = made
	}
	for _, spec := range snapshot.listeners {
		state, err := s.newListenerState(spec, old.states[spec.declared.Name])
		if err != nil {
			problems = append(problems, fmt.Errorf("listener %q: %w", spec.declared.Name, err))
			continue
		}
		next.states[spec.declared.Name] = state
	}
	return next, errors.Join(problems...)
}

// bind opens the sockets that are not open yet; when one fails, those opened before it are closed again.
func (s *Server) bind(ctx context.Context, snapshot *Snapshot) (map[listener.Address]*port, error) {
	bound := map[listener.Address]*port{}
	var problems []error
	for _, spec := range snapshot.listeners {
		if s.ports[spec.address] != nil {
			continue
		}
		socket, err := s.sockets.Acquire(ctx, spec.address)
		if err != nil {
			problems = append(problems, fmt.Errorf("listener %q: %w", spec.declared.Name, err))
			continue
		}
		bound[spec.address] = &port{socket: socket}
	}
	if len(problems) == 0 {
		return bound, nil
	}
	for _, p := range bound {
		_ = p.socket.Release()
	}
	return nil, errors.Join(problems...)
}

// turn points the sockets to their new states and lets go of what the new generation does not have.
func (s *Server) turn(snapshot *Snapshot, old, next *active) {
	wanted := map[listener.Address]bool{}
	for _, spec := range snapshot.listeners {
		wanted[spec.address] = true
		p := s.ports[spec.address]
		p.socket.SetLimit(spec.declared.Limits.MaxConnections)
		state := next.states[spec.declared.Name]
		state.limiter.Set(state.bounds)
		p.socket.SetProxyProtocol(state.proxyProtocol())
		p.current.Store(state)
	}
	for at, p := range s.ports {
		if !wanted[at] {
			s.closePort(p)
		}
	}
	for name, state := range old.states {
		if now := next.states[name]; now == nil || now.lineage != state.lineage {
			s.registry.DrainOwner(state.lineage, observe.Drained)
			// What has no end of its own, such as a tunnel, is cut when a shutdown would cut it too.
			time.AfterFunc(snapshot.drain, func() { s.registry.CloseOwner(state.lineage, observe.Drained) })
		}
	}
	for name, c := range old.clusters {
		if next.clusters[name] != c {
			c.stopRun()
			c.Close() // requests under way end on their connections
			time.AfterFunc(snapshot.drain, func() { s.registry.CloseOwner(c.Cluster, observe.Drained) })
		}
	}
}
