package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
)

func TestCallersOverTheirBoundsAreToldSoAndOthersAreNotConcerned(t *testing.T) {
	w := newWorld(t)
	config := w.sidecar(w.app(ticking), "limits: {per_identity: {max_requests: 2, max_connections: 2}}")
	w.apply("%s", strings.Replace(config, `["spiffe://example.org/web"]`, `["spiffe://example.org/*"]`, 1))
	web, shop := w.http2As("/web"), w.http2As("/shop")
	w.follow(web, w.url("inbound", "/1"))
	w.follow(web, w.url("inbound", "/2"))
	if a := w.get(web, w.url("inbound", "/3")); a.status != 429 || !strings.Contains(a.body, observe.TooManyRequests.String()) {
		t.Errorf("a third request: %+v", a)
	}
	w.follow(shop, w.url("inbound", "/1"))

	// A reload forgets nobody.
	w.apply("%s", strings.Replace(config, `["spiffe://example.org/web"]`, `["spiffe://example.org/*"]`, 1))
	if a := w.get(web, w.url("inbound", "/3")); a.status != 429 {
		t.Errorf("after a reload: %+v", a)
	}

	second := w.http2As("/web")
	if a := w.get(second, w.url("inbound", "/x")); a.status != 429 {
		t.Errorf("on another connection of the same caller: %+v", a)
	}
	if a, err := w.do(w.http2As("/web"), "GET", w.url("inbound", "/x"), nil); err == nil {
		t.Errorf("on a third connection: %+v", a)
	}
	w.eventually("the connection over the bound is counted", func() bool {
		return w.metric("postern_connections_closed_total", "reason", observe.TooManyConnections.String()) > 0
	})
}

func TestRouteTakesTheFormsOfPathsThatItNamesAndNoOther(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", strings.Replace(w.open(w.app(nil), ""), "routes: [{match: {}, cluster: app}]",
		`routes: [{match: {path_prefix: /git}, cluster: app, relax: [encoded_slash]}, {match: {}, cluster: app}]`, 1))
	url := "http://" + w.Addr("open").String()
	if a := w.get(w.client(nil), url+"/git/a%2fb"); a.status != 200 || a.seen(t).URI != "/git/a%2Fb" {
		t.Errorf("on the route that takes it: %+v", a)
	}
	for _, path := range []string{"/a%2fb", "/git%2fa", "/git/a;b", "/git/..%2fa", "/git/%2e%2e%2fa"} {
		if a := w.get(w.client(nil), url+path); a.status != 400 || !strings.Contains(a.body, observe.AmbiguousPath.String()) {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

func TestProxyHeaderOfATrustedBalancerNamesTheClient(t *testing.T) {
	w := newWorld(t)
	w.apply("%s", w.open(w.app(nil), `  proxy_protocol: {trusted: [127.0.0.0/8]}`))
	conn := w.dialPlain("open")
	_, _ = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 5555 443\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answer, []byte(`"X-Forwarded-For":["192.0.2.7"]`)) {
		t.Errorf("%s, %v", answer, err)
	}
	w.eventually("the balancer in the flow", func() bool {
		line, ok := w.log.find("type", "flow", "source", "192.0.2.7:5555")
		return ok && line["via"] == conn.LocalAddr().String()
	})

	w.apply("%s", w.open(w.app(nil), `  proxy_protocol: {trusted: [198.51.100.0/24]}`))
	conn = w.dialPlain("open")
	_, _ = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 5555 443\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("who is not trusted was answered: %s", answer)
	}
	w.eventually("the refusal", func() bool { _, ok := w.log.find("type", "flow", "close", observe.ProxyProtocol); return ok })
}

func TestByteStreamsTellTheServiceForWhomTheyCome(t *testing.T) {
	w := newWorld(t)
	app := w.tcpService(func(conn *net.TCPConn) {
		first := make([]byte, 16)
		_, _ = io.ReadFull(conn, first)
		_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint16(first[14:])))
		_, _ = fmt.Fprintf(conn, "%x", first)
	})
	w.apply("%s", strings.Replace(w.tcpProxy(app, "{mode: mutual}", ""), "endpoints", "proxy_protocol: v2, endpoints", 1))
	got, err := io.ReadAll(w.dialTLS("stream", w.leaf("/web")))
	// Signature, version 2 PROXY, TCP over IPv4 (PROXY protocol, Section 2.2).
	if err != nil || !strings.HasPrefix(string(got), "0d0a0d0a000d0a515549540a2111") {
		t.Errorf("the service read %s, %v", got, err)
	}
}

func TestAnswersOfAFailingServiceAreTriedAgainWhereTheRouteSaysSo(t *testing.T) {
	w := newWorld(t)
	asked := 0
	app := w.app(func(rw http.ResponseWriter, _ *http.Request) {
		if asked++; asked%2 == 1 {
			rw.WriteHeader(503)
		}
	})
	w.apply("%s", strings.Replace(w.open(app, ""), "cluster: app}]", "cluster: app, retry_on: [503]}]", 1))
	url := "http://" + w.Addr("open").String() + "/"
	if a := w.get(w.client(nil), url); a.status != 200 || asked != 2 {
		t.Errorf("status %d after %d tries", a.status, asked)
	}
	if a, err := w.do(w.client(nil), "POST", url, nil); err != nil || a.status != 503 || asked != 3 {
		t.Errorf("a POST: %+v, %v, %d tries in all", a, err, asked)
	}
}
