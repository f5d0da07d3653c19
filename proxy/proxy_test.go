package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/authz"
	"github.com/postern-proxy/postern/certs/source"
	"github.com/postern-proxy/postern/internal/observe"
)

func TestAllowedRequestReachesTheServiceWithTheCallersIdentity(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	certificate := w.leaf("/web")
	a := w.get(w.client(&certificate), w.url("inbound", "/v1/%7Eorders/./7?q=%2F"),
		"X-Forwarded-Client-Cert", "URI=spiffe://example.org/admin", "X_Forwarded_Client_Cert", "URI=spiffe://example.org/admin",
		"X-Postern-Peer", "admin", "X-Forwarded-For", "1.2.3.4", "X-Request-Id", "abc-1", "X-Custom", "kept")
	if a.status != 400 { // underscores in names are refused by the engine
		t.Fatalf("status %d for a name with underscores", a.status)
	}
	a = w.get(w.client(&certificate), w.url("inbound", "/v1/%7Eorders/./7?q=%2F"),
		"X-Forwarded-Client-Cert", "URI=spiffe://example.org/admin", "X-Postern-Peer", "admin", "X-Forwarded-For", "1.2.3.4",
		"X-Request-Id", "abc-1", "X-Custom", "kept", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	s := a.seen(t)
	if s.URI != "/v1/~orders/7?q=%2F" {
		t.Errorf("the service saw %q, which is not the canonical form that was judged", s.URI)
	}
	xfcc := s.Header.Values("X-Forwarded-Client-Cert")
	if len(xfcc) != 1 || !strings.HasPrefix(xfcc[0], "By=spiffe://example.org/orders;Hash=") || !strings.HasSuffix(xfcc[0], ";URI=spiffe://example.org/web") {
		t.Errorf("X-Forwarded-Client-Cert %q", xfcc)
	}
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Request-Id": "abc-1", "X-Custom": "kept", "X-Postern-Peer": ""} {
		if got := s.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	parent := s.Header.Get("Traceparent")
	if !strings.HasPrefix(parent, "00-0af7651916cd43dd8448eb211c80319c-") || strings.Contains(parent, "b7ad6b7169203331") || !strings.HasSuffix(parent, "-01") {
		t.Errorf("traceparent %q is no child of the client's", parent)
	}
	if a.header.Get("X-Request-Id") != "abc-1" {
		t.Errorf("the response has request id %q", a.header.Get("X-Request-Id"))
	}
	w.eventually("an access log line", func() bool {
		line, ok := w.log.find("type", "request", "request_id", "abc-1")
		return ok && line["principal"] == "spiffe://example.org/web" && line["path"] == "/v1/~orders/7" && line["effect"] == "allow" &&
			line["policy"] == "orders-read" && line["rule"] == "allow[0]" && line["route"] == "route-0" && line["status"] == 200.0 &&
			line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
	})
}

func TestDeniedRequestGetsItsDecisionAndNoReason(t *testing.T) {
	w := newWorld(t)
	asked := 0
	w.apply("%s", w.sidecar(w.app(func(http.ResponseWriter, *http.Request) { asked++ }), ""))
	for _, test := range []struct{ name, caller, method, path, rule string }{
		{"default", "/stranger", "GET", "/v1", ""},
		{"a method that no rule allows", "/web", "DELETE", "/v1", ""},
		{"deny rule", "/web", "GET", "/admin/users", "deny[1]"},
		{"deny rule, spelled otherwise", "/web", "GET", "/v1/..//%61dmin/users", "deny[1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := w.do(w.as(test.caller), test.method, w.url("inbound", test.path), nil)
			if err != nil || a.status != 403 {
				t.Fatalf("status %d, %v", a.status, err)
			}
			var body map[string]string
			if err := json.Unmarshal([]byte(a.body), &body); err != nil {
				t.Fatal(err)
			}
			if body["error"] != "denied" || body["decision"] == "" || body["request_id"] != a.header.Get("X-Request-Id") || len(body) != 3 {
				t.Errorf("body %v", body)
			}
			if a.header.Get("X-Postern-Decision") != body["decision"] {
				t.Errorf("header %q, body %q", a.header.Get("X-Postern-Decision"), body["decision"])
			}
			id, err := authz.ParseID(body["decision"])
			if err != nil {
				t.Fatal(err)
			}
			record, ok := w.Decision(id)
			if !ok || record.Decision.Rule != test.rule || record.Request.Principal.ID.Path() != test.caller || record.Request.Method != test.method {
				t.Fatalf("record %+v, %v", record, ok)
			}
			again := w.Policies().Explain(&record.Request)
			if again.Decision.Effect != authz.Deny || again.Decision.Rule != test.rule {
				t.Errorf("explained as %+v", again.Decision)
			}
		})
	}
	if asked != 0 {
		t.Errorf("the service was asked %d times", asked)
	}
	if n := w.metric("postern_authz_decisions_total", "effect", "deny", "service", "orders"); n != 4 {
		t.Errorf("%v denials counted", n)
	}
	if n := w.metric("postern_requests_refused_total", "reason", "denied"); n != 4 {
		t.Errorf("%v refusals counted", n)
	}
}

func TestEachBadCertificateIsRefusedWithItsReasonInLogAndMetric(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	want := map[observe.Reason]float64{}
	for _, bad := range w.ca.BadLeaves(t) {
		want[bad.Reason]++
		if _, err := w.do(w.client(&bad.Certificate), "GET", w.url("inbound", "/"), nil); err == nil {
			t.Errorf("%s: was served", bad.Name)
		}
	}
	want[observe.PeerNoCertificate]++
	if _, err := w.do(w.client(nil), "GET", w.url("inbound", "/"), nil); err == nil {
		t.Error("a client without certificate was served")
	}
	for reason, n := range want {
		w.eventually(fmt.Sprintf("%v handshakes refused as %s", n, reason), func() bool {
			_, logged := w.log.find("type", "flow", "close", reason)
			return logged && w.metric("postern_tls_handshake_failures_total", "reason", reason.String(), "name", "inbound") == n
		})
	}
}

func TestListenerWithoutCredentialRefusesAndRecovers(t *testing.T) {
	w := newWorld(t)
	empty := &source.Holder{}
	w.holders.Store(w.own, empty)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	if _, err := w.do(w.as("/web"), "GET", w.url("inbound", "/"), nil); err == nil {
		t.Fatal("was served without a credential")
	}
	w.eventually("the reason", func() bool {
		return w.metric("postern_tls_handshake_failures_total", "reason", "no_credential") == 1
	})
	empty.Set(w.credential(w.leaf(w.own), 1))
	if a := w.get(w.as("/web"), w.url("inbound", "/")); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
}

func TestRequestsThatNoRouteOrEngineTakesAreRefused(t *testing.T) {
	w := newWorld(t)
	w.apply(`
listeners:
- name: inbound
  address: 127.0.0.1:0
  tls: {mode: none}
  service: orders
  limits: {max_body: 10B}
  routes:
  - {match: {path_prefix: /v1}, cluster: app}
clusters: [{name: app, endpoints: ["%s"]}]
policies: [{name: p, service: orders, rules: [{allow: {from: [anonymous]}}]}]
`, w.app(nil))
	base := "http://" + w.Addr("inbound").String()
	for _, test := range []struct {
		name, method, path, body string
		chunked                  bool
		status                   int
		reason                   observe.Reason
	}{
		{"no route", "GET", "/v2", "", false, 404, observe.NoRoute},
		{"two readings of a path", "GET", "/v1/a%2fb", "", false, 400, observe.AmbiguousPath},
		{"body of a known length", "POST", "/v1", "12345678901", false, 413, observe.BodyTooLarge},
		{"body of an unknown length", "POST", "/v1", strings.Repeat("x", 100), true, 413, observe.BodyTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), test.method, base+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if test.chunked {
				req.ContentLength = -1
			}
			resp, err := w.client(nil).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != test.status {
				t.Errorf("status %d, want %d", resp.StatusCode, test.status)
			}
			w.eventually("the reason in the log", func() bool {
				_, ok := w.log.find("type", "request", "reason", test.reason, "status", test.status)
				return ok
			})
		})
	}
}

// Whoever refuses a malformed request, the engine or the canonical form, the client sees the same answer and then the end, and the
// operator sees whose request it was.
func TestMalformedRequestsGetOneAnswerAndTheEnd(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	for _, test := range []struct {
		name, request string
		status        int
		reason        observe.Reason
	}{
		{"two lengths", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, observe.BadRequest},
		{"a coding before chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, observe.NotImplemented},
		{"a method in lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, observe.BadRequest},
		{"two readings of a path", "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, observe.AmbiguousPath},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := w.dialTLS("inbound", w.leaf("/web"))
			_, _ = io.WriteString(conn, test.request)
			reader := bufio.NewReader(conn)
			resp, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			var body map[string]string
			err = json.NewDecoder(resp.Body).Decode(&body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			id := resp.Header.Get("X-Request-Id")
			if resp.StatusCode != test.status || !resp.Close || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("status %d, closes %v, %v", resp.StatusCode, resp.Close, resp.Header)
			}
			if body["error"] != test.reason.String() || body["request_id"] != id || id == "" || len(body) != 2 {
				t.Errorf("body %v, request id %q", body, id)
			}
			if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
				t.Errorf("after the answer: %q, %v", rest, err)
			}
			w.eventually("its record", func() bool {
				line, ok := w.log.find("type", "request", "request_id", id, "reason", test.reason)
				return ok && line["source"] == conn.LocalAddr().String() && line["principal"] == "spiffe://example.org/web"
			})
		})
	}
}

func TestServiceCannotSpeakForTheProxyBeforeItsResponse(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("X-Postern-Decision", "forged")
		rw.Header().Set("Link", "</a>; rel=preload")
		rw.WriteHeader(http.StatusEarlyHints)
	}), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusEarlyHints || resp.Header.Get("Link") == "" || resp.Header.Get("X-Postern-Decision") != "" {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
}

func TestClientThatLeavesWithoutCloseNotifyHasClosed(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.sidecar(w.app(nil), ""))
	conn := w.dialTLS("inbound", w.leaf("/web"))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	source := conn.LocalAddr().String()
	_ = conn.NetConn().Close()
	w.eventually("the flow", func() bool {
		line, ok := w.log.find("type", "flow", "direction", "accepted", "source", source)
		return ok && line["close"] == observe.PeerClosed.String() && line["cause"] == nil
	})
}

func TestUpstreamFailuresAreToldApart(t *testing.T) {
	w := newWorld(t)
	broken := w.app(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(rw).Hijack()
		_ = conn.Close()
	})
	w.apply(`
listeners:
- name: inbound
  address: 127.0.0.1:0
  tls: {mode: none}
  service: orders
  routes:
  - {match: {path: /dead}, cluster: dead}
  - {match: {path: /broken}, cluster: broken}
clusters:
- {name: dead, endpoints: ["127.0.0.1:1"]}
- {name: broken, endpoints: ["%s"]}
policies: [{name: p, service: orders, rules: [{allow: {from: [anonymous]}}]}]
`, broken)
	base := "http://" + w.Addr("inbound").String()
	if a := w.get(w.client(nil), base+"/dead"); a.status != 503 || !strings.Contains(a.body, "upstream_connect") || strings.Contains(a.body, "127.0.0.1") {
		t.Errorf("dead: %d %s", a.status, a.body)
	}
	if a := w.get(w.client(nil), base+"/broken"); a.status != 502 || !strings.Contains(a.body, "upstream_reset") {
		t.Errorf("broken: %d %s", a.status, a.body)
	}
}

// TestLocalCallerSpeaksAsTheProxy is design section 8: the outbound listener of one sidecar leads to the inbound one of another.
func TestLocalCallerSpeaksAsTheProxy(t *testing.T) {
	callee := newWorld(t)
	callee.apply("%s", callee.sidecar(callee.app(nil), ""))
	w := newWorld(t)
	w.ca, w.own = callee.ca, "/web"
	w.apply(`
listeners:
- name: outbound
  address: 127.0.0.1:0
  tls: {mode: none}
  caller: self
  routes: [{match: {path_prefix: /v1}, cluster: orders}, {match: {path_prefix: /wrong}, cluster: wrong}]
clusters:
- {name: orders, endpoints: ["%[1]s"], tls: {mode: mutual, expect: ["spiffe://example.org/orders"]}}
- {name: wrong, endpoints: ["%[1]s"], tls: {mode: mutual, expect: ["spiffe://example.org/payments"]}}
`, callee.Addr("inbound"))
	base := "http://" + w.Addr("outbound").String()
	a := w.get(w.client(nil), base+"/v1/x", "X-Forwarded-Client-Cert", "URI=spiffe://example.org/admin")
	if a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	if xfcc := a.seen(t).Header.Values("X-Forwarded-Client-Cert"); len(xfcc) != 1 || !strings.HasSuffix(xfcc[0], "URI=spiffe://example.org/web") {
		t.Errorf("the service saw %q", xfcc)
	}
	if a := w.get(w.client(nil), base+"/v2"); a.status != 404 {
		t.Errorf("a route that is not there: status %d", a.status)
	}
	if a := w.get(w.client(nil), base+"/wrong"); a.status != 503 || !strings.Contains(a.body, "upstream_tls") {
		t.Errorf("a server that is not expected: %d %s", a.status, a.body)
	}
	w.eventually("the handshake's reason in the cause, once", func() bool {
		line, ok := w.log.find("type", "request", "reason", observe.UpstreamTLS)
		if !ok {
			return false
		}
		cause := line["cause"].(string)
		return strings.Contains(cause, "TLS handshake: peer_unexpected_id: ") && strings.Count(cause, "TLS handshake") == 1
	})
	if n := w.metric("postern_tls_handshake_failures_total", "direction", "dialled", "reason", "peer_unexpected_id"); n != 1 {
		t.Errorf("%v counted", n)
	}
	w.holder("/web").Set(nil)
	if a := w.get(w.client(nil), base+"/v1/x"); a.status != 403 {
		t.Errorf("without an identity of its own: status %d", a.status)
	}
}
