package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

var hopByHopRequests = []refusal{
	{"Connection nominates Host", head(getLine, hostLine, "Connection: close, Host"), 400},
	{"Connection nominates the length", head(getLine, hostLine, "Content-Length: 1", "Connection: Content-Length"), 400},
	{"Connection nominates an identity", head(getLine, hostLine, "Connection: x-forwarded-client-cert"), 400},
	{"Connection nominates an identity with underscores", head(getLine, hostLine, "Connection: X_Forwarded_For"), 400},
	{"Connection nominates an identity in lower case", head(getLine, hostLine, "connection: X-Forwarded-For"), 400},
	{"Connection nominates the transfer coding", head(getLine, hostLine, "Transfer-Encoding: chunked", "Connection: Transfer-Encoding"), 400},
	{"Connection nominates Cookie in its second field", head(getLine, hostLine, "Connection: close", "Connection: x, Cookie"), 400},
	{"Connection is very long", head(getLine, hostLine, "Connection: "+strings.Repeat("a", 1025)), 400},
	{"Connection nominates Authorization", head(getLine, hostLine, "Connection: Authorization"), 400},
	{"Connection is no list of tokens", head(getLine, hostLine, "Connection: a b"), 400},
	{"Connection nominates without end", head(getLine, hostLine, "Connection: "+strings.Repeat("a,", 17)), 400},
}

var hopByHopResponses = []refusal{
	{"Connection nominates Set-Cookie", head(okLine, "Connection: set-cookie"), 502},
	{"Connection nominates the length", head(okLine, "Content-Length: 1", "Connection: content-length"), 502},
	{"Connection nominates the transfer coding", head(okLine, "Transfer-Encoding: chunked", "Connection: transfer-encoding"), 502},
	{"Connection is no list of tokens", head(okLine, "Connection: a b"), 502},
	{"Connection nominates without end", head(okLine, "Connection: "+strings.Repeat("a,", 17)), 502},
}

// RFC 9110, Section 7.6.1: "intermediaries MUST ... remove any connection options" and the fields they nominate, both ways.
func TestFieldsOfOneHopDoNotPass(t *testing.T) {
	var mu sync.Mutex
	var seen http.Header
	_, url, _ := proxied(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = r.Header
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, head(okLine, "Content-Length: 0", "Connection: x-up, keep-alive, X-Two", "X-Up: 1", "x-two: 2", "Keep-Alive: timeout=5",
			"Proxy-Authenticate: Basic", "Upgrade: h2c", "X-Stays: yes"))
		_ = conn.Close()
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, head(getLine, hostLine, "Connection: X-Down, Upgrade, HTTP2-Settings", "connection: x-second", "X-Down: 1", "x-second: 2", "Keep-Alive: 1",
		"Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "TE: gzip", "X-Stays: yes"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	mu.Lock()
	defer mu.Unlock()
	for side, h := range map[string]http.Header{"upstream": seen, "client": resp.Header} {
		for _, name := range []string{"X-Down", "X-Second", "X-Up", "X-Two", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Upgrade",
			"Http2-Settings", "Te", "Connection"} {
			if values, found := h[name]; found {
				t.Errorf("the %s sees %s: %q", side, name, values)
			}
		}
		if h.Get("X-Stays") != "yes" {
			t.Errorf("the %s does not see a field of the message: %v", side, h)
		}
	}
}
