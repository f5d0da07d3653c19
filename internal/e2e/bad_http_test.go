package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/testkit"
)

// recorder is a backend that keeps every byte that reaches it, and every request that net/http could read in them.
type recorder struct {
	addr     string
	mu       sync.Mutex
	bytes    bytes.Buffer
	requests []recorded
	conns    int
}

type recorded struct {
	target   string // as it stood in the request line
	method   string
	header   http.Header
	body     string
	trailer  http.Header
	encoding []string
}

// startRecorder serves answer, or 200 with the target as body when it is nil.
func startRecorder(t *testing.T, answer http.HandlerFunc) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().String()}
	if answer == nil {
		answer = func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, req.RequestURI) }
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.mu.Lock()
		r.requests = append(r.requests, recorded{req.RequestURI, req.Method, req.Header.Clone(), string(body), req.Trailer.Clone(), req.TransferEncoding})
		r.mu.Unlock()
		answer(w, req)
	})}
	go func() { _ = server.Serve(teeListener{l, r}) }()
	t.Cleanup(func() { _ = server.Close() })
	return r
}

type teeListener struct {
	net.Listener
	r *recorder
}

func (l teeListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.r.mu.Lock()
	l.r.conns++
	l.r.mu.Unlock()
	return teeConn{conn, l.r}, nil
}

type teeConn struct {
	net.Conn
	r *recorder
}

func (c teeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.bytes.Write(p[:n])
	return n, err
}

// taken returns what has arrived since the last call.
func (r *recorder) taken() (string, []recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, requests := r.bytes.String(), r.requests
	r.bytes.Reset()
	r.requests = nil
	return text, requests
}

// rawConn is a client that writes what it likes.
type rawConn struct {
	net.Conn
	in *bufio.Reader
}

func dialRaw(t *testing.T, port int) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return newRawConn(conn)
}

func newRawConn(conn net.Conn) *rawConn { return &rawConn{conn, bufio.NewReader(conn)} }

func (c *rawConn) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// reply is the head of a response.
type reply struct {
	Status           string
	StatusCode       int
	Header           http.Header
	TransferEncoding []string
	Close            bool
}

// answer reads one response to a request of the method.
func (c *rawConn) answer(t *testing.T, method string) (head reply, body string) {
	t.Helper()
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.Status, resp.StatusCode, resp.Header, resp.TransferEncoding, resp.Close}, string(data)
}

// ends reads to the end of the connection, and wants it to come without a byte more.
func (c *rawConn) ends(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(c.in)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection is still open; after the answer came %q", rest)
	} else if len(rest) > 0 {
		t.Errorf("after the answer came %q", rest)
	}
}

// guardedGateway is a plaintext gateway whose policy denies /admin and allows the rest to everybody.
func guardedGateway(t *testing.T, app *recorder) (p *process, port int, log string) {
	t.Helper()
	dir := shortDir(t)
	port = ports(t, 1)[0]
	p = start(t, dir, "gateway", strings.Replace(gateway(port, app.addr, "/", "access_log: {path: access.log}\n"),
		"rules: [{allow: {from: [anonymous]}}]",
		`rules: [{allow: {from: [anonymous]}}, {deny: {http: {paths: ["/admin", "/admin/{rest...}"]}}}]`, 1))
	return p, port, filepath.Join(dir, "access.log")
}

// What two readers could read in two ways is refused, and the connection ends: nothing of it reaches the app, nor does what follows it.
func TestMalformedRequestsAreRefusedAndEndTheConnection(t *testing.T) {
	app := startRecorder(t, nil)
	p, port, log := guardedGateway(t, app)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n"
	tests := []struct {
		name, request, reason string
		status                []int
	}{
		{"Content-Length and chunked", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_request", []int{400}},
		{"chunked and Content-Length", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", "bad_request", []int{400}},
		{"two lengths that differ", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", "bad_request", []int{400}},
		{"the same length twice", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", "bad_request", []int{400}},
		{"a list of lengths", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0, 0\r\n\r\n", "bad_request", []int{400}},
		{"a signed length", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: +0\r\n\r\n", "bad_request", []int{400}},
		{"an empty length", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: \r\n\r\n", "bad_request", []int{400}},
		{"a length over 64 bits", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 18446744073709551616\r\n\r\n", "", []int{400, 413}},
		// RFC 9112, section 6.3: where chunked is not the last coding, the server MUST respond with 400 and close.
		{"an unknown coding", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "bad_request", []int{400}},
		{"chunked that is not the last", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "bad_request", []int{400}},
		// Section 6.1: a coding that the server does not understand SHOULD be answered with 501.
		{"a coding before chunked", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "not_implemented", []int{501}},
		{"chunked twice", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", []int{400, 501}},
		{"a folded line", "GET / HTTP/1.1\r\nHost: app\r\nX-A: 1\r\n 2\r\n\r\n", "bad_request", []int{400}},
		{"a folded coding", "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "bad_request", []int{400}},
		{"a bare LF after the request line", "GET / HTTP/1.1\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"a bare LF after a field", "GET / HTTP/1.1\r\nHost: app\nX-A: 1\r\n\r\n", "bad_request", []int{400}},
		{"a bare LF at the end", "GET / HTTP/1.1\r\nHost: app\r\n\n", "bad_request", []int{400}},
		{"a bare CR", "GET / HTTP/1.1\r\nHost: app\r\nX-A: 1\rX-B: 2\r\n\r\n", "bad_request", []int{400}},
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: app\r\nX-A: 1\x002\r\n\r\n", "bad_request", []int{400}},
		{"NUL in a name", "GET / HTTP/1.1\r\nHost: app\r\nX\x00A: 1\r\n\r\n", "bad_request", []int{400}},
		{"a space before the colon", "POST / HTTP/1.1\r\nHost: app\r\nContent-Length : 0\r\n\r\n", "bad_request", []int{400}},
		{"a line without colon", "GET / HTTP/1.1\r\nHost: app\r\nX-A\r\n\r\n", "bad_request", []int{400}},
		{"an empty name", "GET / HTTP/1.1\r\nHost: app\r\n: 1\r\n\r\n", "bad_request", []int{400}},
		{"no Host", "GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", "bad_request", []int{400}},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: app\r\nHost: other\r\n\r\n", "bad_request", []int{400}},
		{"the same Host twice", "GET / HTTP/1.1\r\nHost: app\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"a Host that is none", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_request", []int{400}},
		{"a target of another host than Host", "GET http://other/ HTTP/1.1\r\nHost: app\r\n\r\n", "", []int{400, 421}},
		{"a method that is no token", "G(T / HTTP/1.1\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"version 2.0", "GET / HTTP/2.0\r\nHost: app\r\n\r\n", "unsupported_version", []int{505}},
		{"version 3.0", "GET / HTTP/3.0\r\nHost: app\r\n\r\n", "unsupported_version", []int{505}},
		{"a version that is none", "GET / HTTP/1.1x\r\nHost: app\r\n\r\n", "", []int{400, 505}},
		{"no version", "GET /\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"a target without slash", "GET admin HTTP/1.1\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"a fragment", "GET /#x HTTP/1.1\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"a raw control character in the target", "GET /a\x01b HTTP/1.1\r\nHost: app\r\n\r\n", "bad_request", []int{400}},
		{"CONNECT", "CONNECT app:80 HTTP/1.1\r\nHost: app:80\r\n\r\n", "", []int{400, 403, 405, 501}},
		{"a head of 100 KiB", "GET / HTTP/1.1\r\nHost: app\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", "head_too_large", []int{431}},
		{"200 fields", "GET / HTTP/1.1\r\nHost: app\r\n" + strings.Repeat("X-A: 1\r\n", 200) + "\r\n", "head_too_large", []int{431}},
		{"a target of 100 KiB", "GET /" + strings.Repeat("a", 100<<10) + " HTTP/1.1\r\nHost: app\r\n\r\n", "", []int{414, 431}},
	}
	// All at once: each connection is kept for a moment after its answer, so that the answer is not destroyed by a reset.
	t.Run("each", func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				conn := dialRaw(t, port)
				source := conn.LocalAddr().String()
				_, _ = io.WriteString(conn, test.request+smuggled) // it may be refused before it is written
				resp, body := conn.answer(t, http.MethodGet)
				if !slices.Contains(test.status, resp.StatusCode) {
					t.Errorf("answered with %s, want one of %v", resp.Status, test.status)
				}
				if !resp.Close {
					t.Errorf("the answer does not say that the connection closes: %v", resp.Header)
				}
				conn.ends(t)
				_ = conn.Close()
				flow := p.record(log, "type", "flow", "source", source)
				if flow["direction"] != "accepted" {
					t.Errorf("flow %v", flow)
				}
				if test.reason != "" && (flow["close"] != test.reason || !strings.Contains(body, test.reason)) {
					t.Errorf("recorded as %v, answered with %q, want reason %s", flow, body, test.reason)
				}
			})
		}
	})
	if text, _ := app.taken(); text != "" {
		t.Errorf("the app was sent %q", text)
	}
	conn := dialRaw(t, port)
	conn.send(t, plainGet)
	if resp, body := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != "/" {
		t.Errorf("a good request afterwards: %s %q", resp.Status, body)
	}
}

// Who sent it is known before a byte of the request is read, and has to stand in its record.
func TestAMalformedRequestIsRecordedWithItsCaller(t *testing.T) {
	app := startRecorder(t, nil)
	_, port, log := guardedGateway(t, app)
	conn := dialRaw(t, port)
	conn.send(t, "GET / HTTP/1.1\r\nHost : app\r\n\r\n")
	resp, _ := conn.answer(t, http.MethodGet)
	var lines []map[string]any
	if err := soon(func() error {
		if lines = accessLines(t, log, "type", "request", "request_id", resp.Header.Get("X-Request-Id")); len(lines) == 0 {
			return errors.New("no line with the request id of the answer")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if lines[0]["source"] != conn.LocalAddr().String() || lines[0]["principal"] != "anonymous" || lines[0]["reason"] != "bad_request" {
		t.Errorf("recorded as %v, want source %s and principal anonymous", lines[0], conn.LocalAddr())
	}
}

// A method is told by its exact letters: get is not GET, for policy, for routes and for the app.
func TestAMethodInLowerCaseIsNoMethodAndEndsTheConnection(t *testing.T) {
	app := startRecorder(t, nil)
	_, port, _ := guardedGateway(t, app)
	conn := dialRaw(t, port)
	conn.send(t, "get / HTTP/1.1\r\nHost: app\r\n\r\n")
	resp, body := conn.answer(t, http.MethodGet)
	if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("answered with %s %q", resp.Status, body)
	}
	if text, _ := app.taken(); text != "" {
		t.Errorf("the app was sent %q", text)
	}
	if !resp.Close {
		t.Errorf("the answer %s %q does not say that the connection closes", resp.Status, body)
	}
	conn.ends(t)
}

func TestMalformedBodiesAreRefusedAndEndTheConnection(t *testing.T) {
	app := startRecorder(t, nil)
	_, port, _ := guardedGateway(t, app)
	const head = "POST /b HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{
		"a bare LF after a size":       "1\na\r\n0\r\n\r\n",
		"a size that is none":          "x\r\na\r\n0\r\n\r\n",
		"a signed size":                "+1\r\na\r\n0\r\n\r\n",
		"a size with 0x":               "0x1\r\na\r\n0\r\n\r\n",
		"a size over 64 bits":          "10000000000000001\r\na\r\n0\r\n\r\n",
		"a chunk longer than its size": "1\r\nab\r\n0\r\n\r\n",
		"a space before the size":      " 1\r\na\r\n0\r\n\r\n",
		"an extension with a bare LF":  "1;a\nb\r\na\r\n0\r\n\r\n",
		"a trailer of framing":         "1\r\na\r\n0\r\nContent Length: 3\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dialRaw(t, port)
			_, _ = io.WriteString(conn, head+body+"GET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n")
			resp, _ := conn.answer(t, http.MethodGet)
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("answered with %s", resp.Status)
			}
			conn.ends(t)
		})
	}
	t.Cleanup(func() { // after the parallel subtests
		if text, _ := app.taken(); strings.Contains(text, "smuggled") {
			t.Errorf("the app got %q", text)
		}
	})
}

// couldBeAdmin tells whether some reader could take the target for /admin: one that decodes once or more often, takes a backslash for a
// slash, drops parameters of a segment, ends at NUL, merges slashes, resolves dot segments, or any of these after another.
func couldBeAdmin(target string) bool {
	seen := map[string]bool{}
	var look func(string) bool
	look = func(s string) bool {
		if seen[s] || len(seen) > 500 {
			return false
		}
		seen[s] = true
		if s == "/admin" || strings.HasPrefix(s, "/admin/") || s == "admin" || strings.HasPrefix(s, "admin/") {
			return true
		}
		var next []string
		if decoded, err := url.PathUnescape(s); err == nil {
			next = append(next, decoded)
		}
		if before, _, found := strings.Cut(s, "\x00"); found {
			next = append(next, before)
		}
		var bare []string
		for segment := range strings.SplitSeq(s, "/") {
			segment, _, _ = strings.Cut(segment, ";")
			bare = append(bare, segment)
		}
		next = append(next, strings.ReplaceAll(s, `\`, "/"), path.Clean("/"+s), strings.Join(bare, "/"), strings.ToLower(s), strings.TrimRight(s, ". "))
		return slices.ContainsFunc(next, look)
	}
	before, _, _ := strings.Cut(target, "?")
	return look(before)
}

// What is authorized is what is forwarded (promise 2): no spelling of /admin passes a policy that denies it.
func TestNoSpellingOfADeniedPathReachesTheApp(t *testing.T) {
	app := startRecorder(t, nil)
	_, port, _ := guardedGateway(t, app)
	for target, status := range map[string][]int{
		"/admin":                     {403},
		"/admin/":                    {403},
		"/admin/users":               {403},
		"/admin?x=/public":           {403},
		"/public/../admin":           {400, 403},
		"//admin":                    {400, 403},
		"///admin":                   {400, 403},
		"/./admin":                   {400, 403},
		"/.//admin":                  {400, 403},
		"/public/..%2fadmin":         {400, 403},
		"/public%2f..%2fadmin":       {400, 403},
		"/public%2F..%2Fadmin":       {400, 403},
		"/%2fadmin":                  {400, 403},
		"/%2e%2e/admin":              {400, 403},
		"/public/%2e%2e/admin":       {400, 403},
		"/public/%2E%2E/admin":       {400, 403},
		"/public/.%2e/admin":         {400, 403},
		"/public/..;/admin":          {400, 403},
		"/public/..;a=b/admin":       {400, 403},
		"/admin;a=b":                 {400, 403},
		"/admin;/users":              {400, 403},
		"/;/admin":                   {400, 403},
		"/adm%69n":                   {400, 403},
		"/%61%64%6d%69%6e":           {400, 403},
		"/adm%2569n":                 {400, 403},
		"/admin%00":                  {400, 403},
		"/admin%00.html":             {400, 403},
		"/admin%ff":                  {400},
		"/%ff":                       {400},
		"/%c0%af../admin":            {400},
		"/%zz":                       {400},
		"/%":                         {400},
		"/%6":                        {400},
		`/\admin`:                    {400},
		`/public\..\admin`:           {400},
		"/public%5c..%5cadmin":       {400},
		"/public/..%5cadmin":         {400},
		"/admin%2fusers":             {400, 403},
		"/admin%20":                  {400, 403, 200},
		"/admin%09":                  {400, 403},
		"/admin%0d%0a":               {400, 403},
		"/admin.":                    {400, 403, 200},
		"/..":                        {200, 400}, // RFC 3986, section 5.2.4: the root's parent is the root
		"/../../admin":               {400, 403},
		"http://app/admin":           {403},
		"http://app/public/../admin": {400, 403},
		"http://app//admin":          {400, 403},
		"http://app":                 {200},
	} {
		t.Run(target, func(t *testing.T) {
			conn := dialRaw(t, port)
			conn.send(t, "GET "+target+" HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
			resp, body := conn.answer(t, http.MethodGet)
			if !slices.Contains(status, resp.StatusCode) {
				t.Errorf("answered with %s %q, want one of %v", resp.Status, body, status)
			}
			conn.ends(t)
			text, requests := app.taken()
			if (len(requests) > 0 || text != "") && resp.StatusCode != http.StatusOK {
				t.Errorf("refused with %s, and yet the app was sent %q", resp.Status, text)
			}
			for _, r := range requests {
				for _, exact := range []string{"/admin%20", "/admin."} {
					if target == exact && r.target == exact {
						return // the app's own matter, as long as it gets what was judged
					}
				}
				if couldBeAdmin(r.target) {
					t.Errorf("the app could take %q for /admin", r.target)
				}
			}
		})
	}
	for target, want := range map[string]string{
		"/public":             "/public",
		"/public/a%20b":       "/public/a%20b",
		"/public?x=..%2fa&y=": "/public?x=..%2fa&y=",
		"/administrator":      "/administrator",
		"/public/caf%C3%A9":   "/public/caf%C3%A9",
	} {
		conn := dialRaw(t, port)
		conn.send(t, "GET "+target+" HTTP/1.1\r\nHost: app\r\n\r\n")
		if resp, body := conn.answer(t, http.MethodGet); resp.StatusCode != http.StatusOK || body != want {
			t.Errorf("%s: %s %q, want %q", target, resp.Status, body, want)
		}
	}
}

// identityFields are the fields of a request that an app could take for X-Forwarded-Client-Cert.
func identityFields(header http.Header) map[string][]string {
	found := map[string][]string{}
	for name, values := range header {
		if strings.EqualFold(strings.NewReplacer("_", "-", ".", "-").Replace(name), "X-Forwarded-Client-Cert") {
			found[name] = values
		}
	}
	return found
}

func TestACallersClaimOfAnIdentityNeverReachesTheApp(t *testing.T) {
	app := startRecorder(t, nil)
	ca := testkit.NewCA(t, "example.org")
	dir, p := shortDir(t), ports(t, 2)
	start(t, dir, "both", fmt.Sprintf(`version: 1
trust_domain: example.org
%slisteners:
- {name: plain, address: "127.0.0.1:%d", service: app, caller: anonymous, tls: {mode: none}, routes: [{match: {}, cluster: app}]}
- {name: mutual, address: "127.0.0.1:%d", service: app, routes: [{match: {}, cluster: app}]}
clusters: [{name: app, endpoints: ["%s"]}]
policies: [{name: open, service: app, rules: [{allow: {from: [anonymous, "spiffe://example.org/web"]}}]}]
admin: {socket: both.sock}
`, credentialFiles(t, dir, "own", ca, leafOf(t, ca, "/orders")), p[0], p[1], app.addr))

	const claim = "By=spiffe://example.org/x;URI=spiffe://example.org/root"
	for name, fields := range map[string]string{
		"the header":                    "X-Forwarded-Client-Cert: " + claim + "\r\n",
		"in lower case":                 "x-forwarded-client-cert: " + claim + "\r\n",
		"with underscores":              "x_forwarded_client_cert: " + claim + "\r\n",
		"with one underscore":           "X-Forwarded_Client-Cert: " + claim + "\r\n",
		"twice":                         "X-Forwarded-Client-Cert: " + claim + "\r\nX-Forwarded-Client-Cert: URI=spiffe://example.org/web2\r\n",
		"named by Connection":           "Connection: x-forwarded-client-cert\r\n",
		"named by Connection and there": "Connection: keep-alive, X-Forwarded-Client-Cert\r\nX-Forwarded-Client-Cert: " + claim + "\r\n",
		"named by Connection after":     "X-Forwarded-Client-Cert: " + claim + "\r\nConnection: x-forwarded-client-cert, x_forwarded_client_cert\r\n",
	} {
		request := "GET / HTTP/1.1\r\nHost: app\r\n" + fields + "\r\n"
		t.Run("plaintext, "+name, func(t *testing.T) {
			conn := dialRaw(t, p[0])
			conn.send(t, request)
			resp, body := conn.answer(t, http.MethodGet)
			text, requests := app.taken()
			if resp.StatusCode == http.StatusBadRequest && text == "" {
				return // refused is as good
			}
			if resp.StatusCode != http.StatusOK || len(requests) != 1 {
				t.Fatalf("%s %q, %d requests", resp.Status, body, len(requests))
			}
			if found := identityFields(requests[0].header); len(found) > 0 {
				t.Errorf("the app got %v of a caller without identity", found)
			}
			if strings.Contains(text, "spiffe://") {
				t.Errorf("the app got the claim: %q", text)
			}
		})
		t.Run("mutual TLS, "+name, func(t *testing.T) {
			resp, _, err := call(t, p[1], asPeer(leafOf(t, ca, "/web")), request)
			if err != nil {
				t.Fatal(err)
			}
			text, requests := app.taken()
			if resp.StatusCode == http.StatusBadRequest && text == "" {
				return
			}
			if resp.StatusCode != http.StatusOK || len(requests) != 1 {
				t.Fatalf("%s, %d requests", resp.Status, len(requests))
			}
			found := identityFields(requests[0].header)
			values := found["X-Forwarded-Client-Cert"]
			if len(found) != 1 || len(values) != 1 || !strings.Contains(values[0], "URI=spiffe://example.org/web") ||
				strings.Contains(text, "/root") || strings.Contains(text, "web2") {
				t.Errorf("the app got %v", found)
			}
		})
	}
	// A trailer cannot bring it either.
	conn := dialRaw(t, p[0])
	conn.send(t, "POST / HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-Client-Cert\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-Client-Cert: "+claim+"\r\n\r\n")
	resp, _ := conn.answer(t, http.MethodPost)
	if text, _ := app.taken(); strings.Contains(text, "spiffe://") {
		t.Errorf("%s; as trailer the claim reached the app: %q", resp.Status, text)
	}
}
