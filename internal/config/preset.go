package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Names of the sockets in the folder that Default is given.
const (
	WorkloadSocketName = "workload.sock"
	AdminSocketName    = "admin.sock"
)

// Default is what postern run does without a file: an authority for local.internal with its data in stateDir and no network
// listener, and the Workload API and the admin socket in runDir. Both folders are absolute. Each executable that the user uid runs
// has an identity of its own; a negative uid declares none.
func Default(stateDir, runDir string, uid int) (*Config, error) {
	return finish("defaults", preset(stateDir, runDir, uid))
}

func preset(stateDir, runDir string, uid int) *Config {
	c := &Config{
		Version:     Version1,
		TrustDomain: spiffeid.RequireTrustDomainFromString("local.internal"),
		Authority:   &Authority{DataDir: stateDir},
		WorkloadAPI: &WorkloadAPI{Socket: Socket(filepath.Join(runDir, WorkloadSocketName))},
		Admin:       Admin{Socket: Socket(filepath.Join(runDir, AdminSocketName))},
	}
	if uid >= 0 {
		c.Entries = []Entry{{
			SPIFFEID:  "spiffe://local.internal/uid/{unix.uid}/exe/{unix.path}",
			Selectors: []string{fmt.Sprintf("unix:uid:%d", uid)},
			Purpose:   "each executable of the user who started postern",
		}}
	}
	return c
}

// Sidecar is what the flags of postern run say in place of a file.
type Sidecar struct {
	// Listen is where mutual TLS is accepted.
	Listen string
	// To is the endpoint behind it, reached without TLS.
	To string
	// Allow are patterns of SPIFFE IDs that may send any request. Empty: nobody may.
	Allow []string
	// Protocol of the listener; empty means http.
	Protocol Protocol
	// StateDir, RunDir and UID are those of Default.
	StateDir, RunDir string
	UID              int
}

// OneLiner is Default with one listener, one cluster and one policy, as a file would declare them. An error is of type Errors; its
// paths begin with the flag in question.
func OneLiner(s Sidecar) (*Config, error) {
	c := preset(s.StateDir, s.RunDir, s.UID)
	var errs Errors
	flag := func(name, value string, err error) {
		if err != nil {
			errs = append(errs, Error{Path: name, Code: CodeFormat, Message: withText(value, err)})
		}
	}
	for name, value := range map[string]string{"--listen": s.Listen, "--to": s.To} {
		if value == "" {
			errs = append(errs, Error{Path: name, Code: CodeMissing, Message: "is missing: --listen and --to go together"})
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	listen, err := ParseAddress(s.Listen)
	flag("--listen", s.Listen, err)
	to, err := ParseAddress(s.To)
	flag("--to", s.To, err)
	var from []PrincipalPattern
	for _, text := range s.Allow {
		pattern, err := ParsePrincipalPattern(text)
		flag("--allow", text, err)
		from = append(from, pattern)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	c.declare(s.Protocol, listen, to, from)
	return finish("flags", c)
}

// declare adds the listener "inbound" for the service "app".
func (c *Config) declare(protocol Protocol, listen, to Address, from []PrincipalPattern) {
	const app = "app"
	var listener Listener
	listener.setDefaults()
	listener.Name, listener.Address, listener.Service = "inbound", listen, app
	if protocol != "" {
		listener.Protocol = protocol
	}
	if listener.Protocol.HTTP() {
		listener.Routes = []Route{{Cluster: app}}
	}
	if listener.Protocol.TCP() {
		listener.Cluster = app
	}
	var cluster Cluster
	cluster.setDefaults()
	cluster.Name, cluster.Endpoints = app, []Address{to}
	cluster.complete()
	c.Listeners, c.Clusters = []Listener{listener}, []Cluster{cluster}
	if len(from) > 0 {
		c.Policies = []Policy{{Name: "allow", Service: app, Mode: PolicyEnforce, Reason: "postern run --allow", Rules: []Rule{{Allow: &Clause{From: from}}}}}
	}
}

// finish gives a configuration that was built in the program the same way as one from a file: it is written out and parsed.
func finish(name string, c *Config) (*Config, error) {
	document := appendJSON(nil, encoder{}.section(reflect.ValueOf(c).Elem()))
	parsed, err := parse(name, "", document)
	var errs Errors
	if errors.As(err, &errs) {
		for i := range errs { // lines of a document that nobody wrote say nothing
			errs[i].Line, errs[i].Column = 0, 0
		}
		return nil, errs
	}
	if err != nil {
		return nil, fmt.Errorf("build configuration: %w", err)
	}
	parsed.source.places = nil
	return parsed, nil
}
