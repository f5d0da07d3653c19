package config

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Listener is one socket on which connections are accepted, and what is done with them.
type Listener struct {
	// Name is unique among the listeners: in logs, metrics and status.
	Name string `config:"name,required"`
	// Address is ip:port, :port for every address of the machine, or unix:// and a path.
	Address Address `config:"address,required"`
	// Protocol is http, tcp, or auto: the first bytes tell which of the two a connection speaks. With auto, only an allow rule that
	// names tcp allows what is not HTTP, since the client chooses its first bytes.
	Protocol Protocol `config:"protocol"`
	// TLS says how the connection is secured.
	TLS ListenerTLS `config:"tls"`
	// ProxyProtocol takes the client's address from the PROXY header that a load balancer in front sends. Left out: none is read.
	ProxyProtocol *ProxyProtocol `config:"proxy_protocol"`
	// Service is the name that policies give to what stands behind this listener. Required unless caller is self.
	Service string `config:"service"`
	// Caller says as whom a connection is judged: peer (the SVID it presented), self (a local caller speaks as this proxy's
	// identity, and the routes are what it may reach) or anonymous. Default: peer with tls.mode mutual, anonymous otherwise.
	Caller Caller `config:"caller,unset"`
	// Routes lead HTTP requests to clusters. Of those that match the most specific is taken: by host, then path, then methods, then
	// headers; the first of equals.
	Routes []Route `config:"routes"`
	// Cluster is where connections of protocol tcp go, and those of auto that are not HTTP.
	Cluster string `config:"cluster"`
	// InsecurePlaintext allows tls.mode none on an address that other machines reach.
	InsecurePlaintext bool `config:"insecure_plaintext"`
	// TrustedHops is how many proxies in front of this one are believed in X-Forwarded-For; with 0 the header is dropped. Left
	// out, it is the top-level trusted_hops.
	TrustedHops int `config:"trusted_hops"`
	// Limits bound what a peer can make this listener hold. A key left out is that of the top-level limits.
	Limits Limits `config:"limits"`
	// Timeouts bound how long a peer can make this listener wait. A key left out is that of the top-level timeouts.
	Timeouts Timeouts `config:"timeouts"`
}

// ListenerTLS is the downstream side's TLS.
type ListenerTLS struct {
	// Mode is mutual (both sides present an SVID), server (only we do) or none.
	Mode TLSMode `config:"mode"`
	// Identity is the SPIFFE ID to present. Default: this process's own.
	Identity spiffeid.ID `config:"identity,unset"`
	// MinVersion is the lowest TLS version spoken. It says nothing with mode none.
	MinVersion TLSVersion `config:"min_version"`
	// RequirePQ refuses clients whose key exchange would not withstand a quantum computer. X25519MLKEM768 is preferred in any case.
	RequirePQ bool `config:"require_pq"`
}

// ProxyProtocol is the header of the PROXY protocol, versions 1 and 2, with which a load balancer says for whom it connects.
type ProxyProtocol struct {
	// Trusted are the networks of the load balancers. Nobody else is believed: with optional false others are refused, with true
	// they are served under their own address, and refused when they send a header.
	Trusted []netip.Prefix `config:"trusted,required"`
	// Optional lets connections without a header in.
	Optional bool `config:"optional"`
}

// Protocol is what a listener speaks.
type Protocol string

// Protocols of a listener.
const (
	ProtocolHTTP Protocol = "http"
	ProtocolTCP  Protocol = "tcp"
	ProtocolAuto Protocol = "auto"
)

func (Protocol) values() []string {
	return []string{string(ProtocolHTTP), string(ProtocolTCP), string(ProtocolAuto)}
}

// HTTP reports that connections may carry HTTP.
func (p Protocol) HTTP() bool { return p == ProtocolHTTP || p == ProtocolAuto }

// TCP reports that connections may be plain byte streams.
func (p Protocol) TCP() bool { return p == ProtocolTCP || p == ProtocolAuto }

// TLSMode says who presents a certificate.
type TLSMode string

// TLS modes.
const (
	TLSNone   TLSMode = "none"
	TLSServer TLSMode = "server"
	TLSMutual TLSMode = "mutual"
)

func (TLSMode) values() []string {
	return []string{string(TLSMutual), string(TLSServer), string(TLSNone)}
}

// TLSVersion is a version of TLS.
type TLSVersion string

// TLS versions. Nothing below 1.2 is spoken.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

func (TLSVersion) values() []string { return []string{string(TLS13), string(TLS12)} }

// Caller says as whom a connection of a listener is judged.
type Caller string

// Callers.
const (
	CallerPeer      Caller = "peer"
	CallerSelf      Caller = "self"
	CallerAnonymous Caller = "anonymous"
)

func (Caller) values() []string {
	return []string{string(CallerPeer), string(CallerSelf), string(CallerAnonymous)}
}

func (Caller) notOffered() map[string]string {
	return map[string]string{"attested": "attested callers are not offered by this version; self speaks as this proxy's identity"}
}

func (l *Listener) setDefaults() {
	l.Protocol = ProtocolHTTP
	l.TLS.setDefaults()
}

func (t *ListenerTLS) setDefaults() { *t = ListenerTLS{Mode: TLSMutual, MinVersion: TLS13} }

func (l *Listener) complete() {
	for i := range l.Routes {
		if l.Routes[i].Name == "" {
			l.Routes[i].Name = "route-" + strconv.Itoa(i)
		}
	}
	if l.TLS.Mode == TLSNone {
		l.TLS.MinVersion = ""
	}
	if l.Caller != "" {
		return
	}
	l.Caller = CallerAnonymous
	if l.TLS.Mode == TLSMutual {
		l.Caller = CallerPeer
	}
}

func (l *Listener) check(k *checker, path string) {
	l.checkTLS(k, path)
	l.checkCaller(k, path)
	l.checkTargets(k, path)
	if l.Service != "" && !isName(l.Service) {
		k.fail(path+".service", CodeFormat, fmt.Sprintf("%q is not a name", abbreviate(l.Service)), "a name has up to 63 letters, digits, -, _ and .")
	}
	if l.Service == "" && l.Caller != CallerSelf && !k.anyBad(path+".service", path+".caller") {
		k.fail(path+".service", CodeMissing, "the key \"service\" is missing", "the name that policies give to what stands behind this listener")
	}
	if l.ProxyProtocol != nil {
		l.ProxyProtocol.check(k, path+".proxy_protocol")
	}
	k.count(path+".trusted_hops", l.TrustedHops, 0, maxTrustedHops)
	if k.source.has(path + ".limits") {
		l.Limits.check(k, path+".limits")
	}
	if k.source.has(path + ".timeouts") {
		l.Timeouts.check(k, path+".timeouts")
	}
}

func (l *Listener) checkTLS(k *checker, path string) {
	k.own(path+".tls.identity", l.TLS.Identity)
	checkPQ(k, path, l.TLS.RequirePQ, l.TLS.MinVersion)
	if l.TLS.Mode != TLSNone || k.anyBad(path+".tls", path+".tls.mode") {
		return
	}
	for _, key := range []string{".tls.identity", ".tls.min_version", ".tls.require_pq"} {
		if k.source.has(path+key) && (key != ".tls.require_pq" || l.TLS.RequirePQ) {
			k.fail(path+key, CodeConflict, "says nothing with tls.mode none", "remove it, or choose tls.mode mutual")
		}
	}
	if l.Address.IsZero() || l.Address.Local() {
		return
	}
	if !l.InsecurePlaintext {
		k.fail(path+".tls.mode", CodePlaintext, "other machines reach "+l.Address.String()+", and tls.mode is none",
			"tls: {mode: mutual}, a loopback or unix address, or insecure_plaintext: true")
		return
	}
	k.warn(path+".insecure_plaintext", WarnInsecure, "other machines reach "+l.Address.String()+" without TLS", "")
}

// checkPQ: TLS 1.2 has no hybrid key exchange.
func checkPQ(k *checker, path string, required bool, least TLSVersion) {
	if required && least == TLS12 && !k.anyBad(path+".tls.min_version", path+".tls.require_pq") {
		k.fail(path+".tls.require_pq", CodeConflict, "the hybrid key exchange is TLS 1.3's, and min_version is 1.2", "remove min_version")
	}
}

func (p *ProxyProtocol) check(k *checker, path string) {
	unique(k, path+".trusted", p.Trusted)
	for i, network := range p.Trusted {
		at := index(path+".trusted", i)
		if network.IsValid() && network != network.Masked() {
			k.fail(at, CodeFormat, fmt.Sprintf("%q has bits behind its length", network), network.Masked().String())
		}
	}
}

func (l *Listener) checkCaller(k *checker, path string) {
	if k.anyBad(path+".caller", path+".tls", path+".tls.mode", path+".address") {
		return
	}
	mutual := l.TLS.Mode == TLSMutual
	switch {
	case l.Caller == CallerPeer && !mutual:
		k.fail(path+".caller", CodeCaller, "a peer presents its SVID with tls.mode mutual only, and tls.mode is "+string(l.TLS.Mode), "tls: {mode: mutual}, or another caller")
	case l.Caller != CallerPeer && mutual:
		k.fail(path+".caller", CodeCaller, "with tls.mode mutual the peer's SVID says who calls, and caller is "+string(l.Caller), "leave caller out, or choose another tls.mode")
	case l.Caller == CallerSelf && !l.Address.Local() && !l.InsecurePlaintext:
		k.fail(path+".caller", CodeCaller, "other machines reach "+l.Address.String()+", and whoever does would speak as this proxy", "a loopback or unix address, or tls.mode mutual")
	}
}

// checkTargets wants routes where there is HTTP and a cluster where there are plain connections.
func (l *Listener) checkTargets(k *checker, path string) {
	if !k.bad[path+".protocol"] {
		l.checkProtocol(k, path)
	}
	k.clusterRef(path+".cluster", l.Cluster)
	l.checkClusterProtocols(k, path)
	names, matches := map[string]string{}, map[string]int{}
	for i := range l.Routes {
		at, r := index(path+".routes", i), &l.Routes[i]
		k.name(at+".name", r.Name, names)
		r.check(k, at)
		if first, twice := matches[r.Match.key()]; twice {
			k.warn(at, WarnUnused, fmt.Sprintf("routes[%d] matches the same requests and is taken", first), "")
			continue
		}
		matches[r.Match.key()] = i
	}
}

// checkClusterProtocols: a PROXY header says for whom one connection was made, and requests of many clients share connections.
func (l *Listener) checkClusterProtocols(k *checker, path string) {
	for i, r := range l.Routes {
		if c := k.config.Cluster(r.Cluster); c != nil && c.ProxyProtocol != ProxyProtocolNone {
			k.fail(index(path+".routes", i)+".cluster", CodeProtocol, fmt.Sprintf("cluster %q sends PROXY headers, which HTTP requests cannot share", r.Cluster),
				"services learn the client from X-Forwarded-For; proxy_protocol is for TCP")
		}
	}
}

func (l *Listener) checkProtocol(k *checker, path string) {
	protocol := string(l.Protocol)
	switch {
	case l.Protocol.HTTP() && len(l.Routes) == 0:
		k.fail(path+".routes", CodeMissing, "protocol "+protocol+" needs routes, and there are none", "routes: [{match: {}, cluster: ...}]")
	case !l.Protocol.HTTP() && len(l.Routes) > 0:
		k.fail(path+".routes", CodeProtocol, "routes match HTTP requests, and protocol is "+protocol, "write cluster instead, or protocol: http")
	}
	switch {
	case l.Protocol.TCP() && l.Cluster == "":
		k.fail(path+".cluster", CodeMissing, "protocol "+protocol+" needs a cluster for connections that are not HTTP", "")
	case !l.Protocol.TCP() && l.Cluster != "":
		k.fail(path+".cluster", CodeProtocol, "cluster is for TCP connections, and protocol is "+protocol, "write routes: [{match: {}, cluster: "+l.Cluster+"}]")
	}
}
