package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// ports are where the parts of the demonstration listen, all on loopback.
type ports struct {
	authority, public int
	inbound           int // the sidecar of orders, mutual TLS
	outbound          int // the sidecar of web, plain, for web alone
	metrics           int
}

// freePorts asks the system for ports that nobody uses. They are asked for together, so they differ.
func freePorts(ctx context.Context) (p ports, err error) {
	for _, port := range []*int{&p.authority, &p.public, &p.inbound, &p.outbound, &p.metrics} {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return p, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

const authorityYAML = `version: 1
trust_domain: demo.internal
authority:
  data_dir: authority
  listen: 127.0.0.1:%d
  public: 127.0.0.1:%d
  svid_ttl: 1m
policies:
- name: orders
  service: orders
  owner: team-orders
  rules:
  - allow: {from: ["spiffe://demo.internal/web"], http: {methods: [GET], paths: ["/v1/orders/{id}", "/v1/feed"]}}
admin: {socket: authority.sock}
`

const sidecarYAML = `version: 1
trust_domain: demo.internal
identity:
  authority: {address: "127.0.0.1:%d", public: "127.0.0.1:%d", join_token_file: %s.token, data_dir: %s}
admin: {socket: %s.sock}
access_log: {path: %s.log}
`

const ordersYAML = `listeners:
- name: inbound
  address: 127.0.0.1:%d
  service: orders
  routes: [{match: {path_prefix: /}, cluster: app}]
clusters:
- name: app
  endpoints: ["%s"]
metrics: {listen: "127.0.0.1:%d"}
`

const webYAML = `listeners:
- name: outbound
  address: 127.0.0.1:%d
  caller: self
  tls: {mode: none}
  routes: [{match: {path_prefix: /}, cluster: orders}]
clusters:
- name: orders
  endpoints: ["127.0.0.1:%d"]
  tls: {mode: mutual, expect: ["spiffe://demo.internal/orders"]}
`

// writeFiles writes the three configurations; app is the address of the orders service.
func writeFiles(dir string, p ports, app string) error {
	sidecar := func(name string) string {
		return fmt.Sprintf(sidecarYAML, p.authority, p.public, name, name, name, name)
	}
	for name, text := range map[string]string{
		"authority": fmt.Sprintf(authorityYAML, p.authority, p.public),
		"orders":    sidecar("orders") + fmt.Sprintf(ordersYAML, p.inbound, app, p.metrics),
		"web":       sidecar("web") + fmt.Sprintf(webYAML, p.outbound, p.inbound),
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}
