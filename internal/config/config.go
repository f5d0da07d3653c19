package config

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config is one declared configuration, complete and checked when it comes from Parse. It is not changed after that and may be
// read concurrently.
type Config struct {
	// Version of this schema; 1.
	Version int `config:"version,required"`
	// TrustDomain is the SPIFFE trust domain whose identities this process holds, issues or both.
	TrustDomain spiffeid.TrustDomain `config:"trust_domain,required"`
	// Authority makes this process the authority of the trust domain. Leave it out on a pure proxy.
	Authority *Authority `config:"authority"`
	// Identity says where this process's credentials come from.
	Identity Identity `config:"identity"`
	// WorkloadAPI serves the SPIFFE Workload API to local processes.
	WorkloadAPI *WorkloadAPI `config:"workload_api"`
	// Listeners are the sockets on which connections are accepted.
	Listeners []Listener `config:"listeners"`
	// Clusters are the named groups of endpoints that routes lead to.
	Clusters []Cluster `config:"clusters"`
	// Policies say who may do what on a service. Nothing is allowed that no policy allows.
	Policies []Policy `config:"policies"`
	// Entries are registration entries that the authority of this process holds as declared here.
	Entries []Entry `config:"entries"`
	// Admin is the socket for the commands of an operator.
	Admin Admin `config:"admin"`
	// Metrics serves Prometheus metrics.
	Metrics Metrics `config:"metrics"`
	// AccessLog is the record of requests and connections.
	AccessLog AccessLog `config:"access_log"`
	// Timeouts are those of every listener that does not set its own.
	Timeouts Timeouts `config:"timeouts"`
	// Limits are those of every listener that does not set its own.
	Limits Limits `config:"limits"`
	// TrustedHops is that of every listener that does not set its own.
	TrustedHops int `config:"trusted_hops"`
	// Shutdown says how the process ends.
	Shutdown Shutdown `config:"shutdown"`

	source   *source // where each path stood in the document
	warnings Errors
}

// Version1 is the only version of the schema.
const Version1 = 1

func (c *Config) setDefaults() {
	c.Identity.setDefaults()
	c.AccessLog.setDefaults()
	c.Timeouts.setDefaults()
	c.Limits.setDefaults()
	c.Shutdown.setDefaults()
}

// Warnings returns what is valid and still deserves a look, in the order of the document. The caller does not change it.
func (c *Config) Warnings() Errors { return c.warnings }

// Cluster returns the cluster of that name, or nil.
func (c *Config) Cluster(name string) *Cluster {
	for i := range c.Clusters {
		if c.Clusters[i].Name == name {
			return &c.Clusters[i]
		}
	}
	return nil
}
