package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy/l7/canonical"
	"github.com/postern-proxy/postern/proxy/listener"
	"github.com/postern-proxy/postern/proxy/route"
)

// Snapshot is a compiled configuration. It is immutable, owns nothing that has to be released, and may be applied or thrown away.
type Snapshot struct {
	generation uint64
	listeners  []*listenerSpec
	clusters   []config.Cluster
	bodyIdle   time.Duration
	streamIdle time.Duration
	limits     config.Limits
	drain      time.Duration
}

// Generation is the number given to Compile.
func (s *Snapshot) Generation() uint64 { return s.generation }

// listenerSpec is one compiled listener.
type listenerSpec struct {
	declared config.Listener
	address  listener.Address
	table    *route.Table
	routes   []routeSpec
	asked    map[string]struct{} // header fields that the routes look at
	relax    canonical.Profile   // of all routes together: which one is meant shows only in the canonical path
}

// routeSpec is what a matched route says.
type routeSpec struct {
	name      string
	cluster   string
	timeout   time.Duration
	websocket bool
	relax     canonical.Profile
	retryOn   []int // answers that are tried again
}

// Compile makes a Snapshot of a configuration that config.Parse found valid. It opens nothing and does not change cfg. The error
// names everything that cannot work together.
func Compile(cfg *config.Config, generation uint64) (*Snapshot, error) {
	s := &Snapshot{generation: generation, clusters: cfg.Clusters,
		bodyIdle: cfg.Timeouts.BodyIdle, streamIdle: cfg.Timeouts.StreamIdle, limits: cfg.Limits, drain: cfg.Shutdown.DrainTimeout}
	var problems []error
	clusters := map[string]bool{}
	for i := range cfg.Clusters {
		if clusters[cfg.Clusters[i].Name] {
			problems = append(problems, fmt.Errorf("clusters[%d]: name %q is used twice", i, cfg.Clusters[i].Name))
		}
		clusters[cfg.Clusters[i].Name] = true
	}
	names, addresses := map[string]bool{}, map[listener.Address]string{}
	for i := range cfg.Listeners {
		spec, errs := compileListener(&cfg.Listeners[i], clusters)
		for _, err := range errs {
			problems = append(problems, fmt.Errorf("listeners[%d]: %w", i, err))
		}
		if names[spec.declared.Name] {
			problems = append(problems, fmt.Errorf("listeners[%d]: name %q is used twice", i, spec.declared.Name))
		}
		names[spec.declared.Name] = true
		if other, taken := addresses[spec.address]; taken && !ephemeral(&spec.declared) {
			problems = append(problems, fmt.Errorf("listeners[%d]: listener %q has the same address %q", i, other, spec.address))
		}
		addresses[spec.address] = spec.declared.Name
		s.listeners = append(s.listeners, spec)
	}
	return s, errors.Join(problems...)
}

// ephemeral reports that the kernel chooses the port, so that equal addresses are different sockets.
func ephemeral(l *config.Listener) bool { return l.Address.Network() == "tcp" && l.Address.Port() == 0 }

func compileListener(l *config.Listener, clusters map[string]bool) (*listenerSpec, []error) {
	spec := &listenerSpec{
		declared: *l,
		address:  listener.Address{Network: l.Address.Network(), Address: l.Address.Target()},
		table:    route.Compile(l.Routes),
		asked:    askedByRoutes(l.Routes),
	}
	var problems []error
	if ephemeral(l) {
		spec.address.Name = l.Name
	}
	if l.Caller == config.CallerPeer && l.TLS.Mode != config.TLSMutual {
		problems = append(problems, errors.New("caller peer needs tls.mode mutual"))
	}
	if l.Caller == config.CallerSelf && !l.Address.Local() {
		problems = append(problems, errors.New("caller self is for loopback addresses and unix sockets: whoever connects speaks as this proxy"))
	}
	if l.TLS.Mode == config.TLSNone && !l.Address.Local() && !l.InsecurePlaintext {
		problems = append(problems, errors.New("other machines reach the address, and tls.mode is none"))
	}
	if l.Protocol.TCP() && l.Cluster != "" && !clusters[l.Cluster] {
		problems = append(problems, fmt.Errorf("cluster %q does not exist", l.Cluster))
	}
	for i := range l.Routes {
		r := &l.Routes[i]
		if !clusters[r.Cluster] {
			problems = append(problems, fmt.Errorf("routes[%d]: cluster %q does not exist", i, r.Cluster))
		}
		compiled, err := compileRoute(r)
		if err != nil {
			problems = append(problems, fmt.Errorf("routes[%d]: %w", i, err))
		}
		spec.routes = append(spec.routes, compiled)
		spec.relax |= compiled.relax
	}
	return spec, problems
}

func compileRoute(r *config.Route) (routeSpec, error) {
	spec := routeSpec{name: r.Name, cluster: r.Cluster, timeout: r.Timeout}
	for _, upgrade := range r.AllowUpgrade {
		spec.websocket = spec.websocket || upgrade == config.UpgradeWebSocket
	}
	for _, status := range r.RetryOn {
		code, err := strconv.Atoi(string(status))
		if err != nil {
			return spec, fmt.Errorf("retry_on: %w", err)
		}
		spec.retryOn = append(spec.retryOn, code)
	}
	forms := make([]string, 0, len(r.Relax))
	for _, form := range r.Relax {
		forms = append(forms, string(form))
	}
	var err error
	spec.relax, err = canonical.ParseProfile(forms)
	return spec, err
}

// tlsVersion is the number that crypto/tls has for a version.
func tlsVersion(v config.TLSVersion) uint16 {
	if v == config.TLS12 {
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}
