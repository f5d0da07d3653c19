package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// check holds the whole document together.
func (c *Config) check(k *checker) {
	if c.Version != Version1 && !k.bad["version"] {
		k.fail("version", CodeNotOffered, fmt.Sprintf("version %d is not known", c.Version), "write version: 1")
	}
	if c.Authority != nil {
		c.Authority.check(k, "authority")
	}
	c.Identity.check(k, "identity")
	c.checkNeedsIdentity(k)
	c.checkSockets(k)
	c.Timeouts.check(k, "timeouts")
	c.Limits.check(k, "limits")
	k.count("trusted_hops", c.TrustedHops, 0, maxTrustedHops)
	k.between("shutdown.drain_timeout", c.Shutdown.DrainTimeout, 0, day)
	c.Metrics.check(k, "metrics")

	names := map[string]string{}
	k.clusters, k.clustersUnclear = make(map[string]bool, len(c.Clusters)), k.bad["clusters"]
	for i := range c.Clusters {
		at := index("clusters", i)
		k.clusters[c.Clusters[i].Name] = true
		k.name(at+".name", c.Clusters[i].Name, names)
		k.clustersUnclear = k.clustersUnclear || k.bad[at+".name"]
		c.Clusters[i].check(k, at)
	}
	names = map[string]string{}
	for i := range c.Listeners {
		at := index("listeners", i)
		k.name(at+".name", c.Listeners[i].Name, names)
		c.Listeners[i].check(k, at)
	}
	c.checkUnused(k)
	c.checkPolicies(k)
	c.checkEntries(k)
}

// checkNeedsIdentity finds what presents an identity when nothing gives this process one.
func (c *Config) checkNeedsIdentity(k *checker) {
	if c.WorkloadAPI != nil && c.Identity.Source != SourceAuthority && !k.bad["identity.source"] {
		k.fail("workload_api", CodeConflict, "the Workload API serves what an authority issues, and identity.source is "+string(c.Identity.Source), "remove workload_api, or follow an authority")
	}
	none := c.Identity.Source == SourceAuthority && c.Authority == nil && c.Identity.Authority == nil
	if !none || k.anyBad("identity", "identity.source", "identity.authority", "authority") {
		return
	}
	need := c.needsIdentity()
	if need == "" {
		return
	}
	k.fail(need, CodeNoIdentity, "needs an identity, and nothing gives this process one", "add authority, or identity with the authority to follow, a Workload API or files")
}

// needsIdentity is the path of the first thing that presents an identity, or nothing.
func (c *Config) needsIdentity() string {
	if c.WorkloadAPI != nil {
		return "workload_api"
	}
	for i, l := range c.Listeners {
		if l.TLS.Mode != TLSNone {
			return index("listeners", i) + ".tls"
		}
		if l.Caller == CallerSelf {
			return index("listeners", i) + ".caller"
		}
	}
	for i, cluster := range c.Clusters {
		if cluster.TLS.Mode != TLSNone {
			return index("clusters", i) + ".tls"
		}
	}
	return ""
}

// boundSocket is one socket that the process opens.
type boundSocket struct {
	path string
	at   Address
}

func (c *Config) sockets() []boundSocket {
	var all []boundSocket
	if c.Authority != nil {
		all = append(all, boundSocket{"authority.listen", c.Authority.Listen}, boundSocket{"authority.public", c.Authority.Public})
	}
	if c.WorkloadAPI != nil {
		all = append(all, boundSocket{"workload_api.socket", c.WorkloadAPI.Socket.address()})
	}
	for i, l := range c.Listeners {
		all = append(all, boundSocket{index("listeners", i) + ".address", l.Address})
	}
	return append(all,
		boundSocket{"admin.socket", c.Admin.Socket.address()},
		boundSocket{"metrics.listen", c.Metrics.Listen})
}

// checkSockets wants IP addresses to listen on, each only once: what one socket binds, a second cannot.
func (c *Config) checkSockets(k *checker) {
	tcp, unix := map[uint16][]boundSocket{}, map[string]string{}
	for _, socket := range c.sockets() {
		switch socket.at.network {
		case "unix":
			if before, twice := unix[socket.at.path]; twice {
				k.fail(socket.path, CodeDuplicate, fmt.Sprintf("%s has the same socket %q", before, socket.at.path), "each needs its own")
			}
			unix[socket.at.path] = socket.path
		case "tcp":
			c.checkTCPSocket(k, socket, tcp)
		}
	}
}

func (c *Config) checkTCPSocket(k *checker, socket boundSocket, seen map[uint16][]boundSocket) {
	ip, err := netip.ParseAddr(socket.at.host)
	if err != nil {
		k.fail(socket.path, CodeFormat, fmt.Sprintf("%q is a name, and a socket listens on an IP address", socket.at.host), "write ip:port, or :port for every address of the machine")
		return
	}
	if socket.at.port == 0 {
		return
	}
	for _, before := range seen[socket.at.port] {
		other, _ := netip.ParseAddr(before.at.host)
		if ip == other || ip.IsUnspecified() || other.IsUnspecified() {
			k.fail(socket.path, CodeDuplicate, fmt.Sprintf("%s already listens on %s", before.path, before.at), "each needs its own address")
			return
		}
	}
	seen[socket.at.port] = append(seen[socket.at.port], socket)
}

// checkUnused warns of clusters that nothing leads to.
func (c *Config) checkUnused(k *checker) {
	used := map[string]bool{}
	for _, l := range c.Listeners {
		used[l.Cluster] = true
		for _, r := range l.Routes {
			used[r.Cluster] = true
		}
	}
	for i, cluster := range c.Clusters {
		if !used[cluster.Name] {
			k.warn(index("clusters", i), WarnUnused, fmt.Sprintf("nothing leads to the cluster %q", cluster.Name), "")
		}
	}
}

// clusterRef checks a reference to a cluster.
func (k *checker) clusterRef(path, name string) {
	if name == "" || k.clusters[name] || k.clustersUnclear || k.full() {
		return
	}
	hint := suggest(name, slices.Sorted(maps.Keys(k.clusters)))
	if len(k.clusters) == 0 {
		hint = "add clusters: [{name: " + name + ", endpoints: [...]}]"
	}
	k.fail(path, CodeUnknownRef, fmt.Sprintf("there is no cluster %q", abbreviate(name)), hint)
}

// checkPolicies checks each policy, and what listeners and policies say of each other's services.
func (c *Config) checkPolicies(k *checker) {
	services := c.services()
	allowed, names := map[string]bool{}, map[string]string{}
	for i := range c.Policies {
		at, p := index("policies", i), &c.Policies[i]
		k.name(at+".name", p.Name, names)
		p.check(k, at)
		protocols, known := services[p.Service]
		switch {
		case known:
			p.checkProtocols(k, at, protocols)
		case len(c.Listeners) > 0 && c.Authority == nil && p.Service != "" && len(k.warnings) <= maxErrors:
			k.warn(at+".service", WarnUnknownService, fmt.Sprintf("no listener of this file has the service %q", p.Service), suggest(p.Service, slices.Sorted(maps.Keys(services))))
		}
		if p.Mode == PolicyEnforce && p.allows() {
			allowed[p.Service] = true
		}
	}
	if c.Identity.Authority != nil && c.Identity.Source == SourceAuthority {
		return // that authority may have the policies
	}
	for i, l := range c.Listeners {
		if l.Service != "" && !allowed[l.Service] {
			k.warn(index("listeners", i)+".service", WarnNoPolicy, fmt.Sprintf("no policy in force allows anything on %q, so everything is denied", l.Service), "add a policy with an allow rule")
		}
	}
}

// serviceProtocols says which kinds of traffic the listeners of one service take.
type serviceProtocols struct{ http, tcp bool }

func (c *Config) services() map[string]serviceProtocols {
	services := map[string]serviceProtocols{}
	for _, l := range c.Listeners {
		if l.Service == "" {
			continue
		}
		p := services[l.Service]
		p.http = p.http || l.Protocol.HTTP()
		p.tcp = p.tcp || l.Protocol.TCP()
		services[l.Service] = p
	}
	return services
}

func (c *Config) checkEntries(k *checker) {
	if len(c.Entries) > 0 && c.Authority == nil && !k.bad["authority"] {
		k.fail("entries", CodeNoEffect, "entries are held by an authority, and this process is none", "declare them where the authority runs")
	}
	seen := map[string]int{}
	for i := range c.Entries {
		at, e := index("entries", i), &c.Entries[i]
		e.check(k, at)
		identity := e.SPIFFEID + "\n" + e.Node.String() + "\n" + strconv.Quote(fmt.Sprint(slices.Sorted(slices.Values(e.Selectors))))
		if first, twice := seen[identity]; twice && e.SPIFFEID != "" {
			k.fail(at, CodeDuplicate, fmt.Sprintf("entries[%d] says the same", first), "remove one of them")
			continue
		}
		seen[identity] = i
	}
}

// maxTrustedHops is more proxies than any chain in front of a service has.
const maxTrustedHops = 16
