package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestServerAnswersWithHeadAndBodyInOneWrite(t *testing.T) {
	p := echoServer(t).client()
	p.get(1, "/a?b=c")
	buf := make([]byte, 4096)
	p.wantFrame(foreign.FrameSettings) // the acknowledgement
	n, err := p.conn.Read(buf)
	p.do(err)
	got := buf[:n]
	var kinds []frameType
	for len(got) > 0 {
		f, need, err := parseFrame(got)
		if err != nil || need > 0 {
			t.Fatalf("%v, %d more bytes", err, need)
		}
		kinds = append(kinds, f.kind)
		if f.kind == frameData && (string(f.payload) != "GET a.example /a?b=c" || !f.has(flagEndStream)) {
			t.Errorf("%q with flags %x", f.payload, f.flags)
		}
		got = got[frameHead+len(f.payload):]
	}
	if !slices.Equal(kinds, []frameType{frameHeaders, frameData}) {
		t.Errorf("frames %v in the first write", kinds)
	}
}

func TestServerEndsResponsesWithoutContentInTheHead(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		resp := &l7.Response{Status: 200, ContentLength: 5, Body: l7.NewStringBody("hello")}
		switch ex.Request().Path {
		case "/204":
			resp.Status = 204
		case "/304":
			resp.Status = 304
		case "/empty":
			resp.ContentLength, resp.Body = 0, l7.NewStringBody("")
		case "/none":
			resp.Body = nil
		case "/unknown":
			resp.ContentLength, resp.Body = -1, l7.NewStringBody("")
		}
		if err := ex.WriteResponse(resp); err != nil {
			t.Error(err)
		}
	})})
	p := s.client()
	for i, row := range []struct{ method, path, status, length string }{
		{"HEAD", "/", "200", "5"},
		{"GET", "/204", "204", ""},
		{"GET", "/304", "304", "5"},
		{"GET", "/empty", "200", "0"},
		{"GET", "/none", "200", "0"},
		{"GET", "/unknown", "200", ""},
	} {
		id := uint32(2*i + 1)
		p.headers(id, true, request(row.method, row.path)...)
		got := p.want(id, row.status, "")
		if got.header["content-length"] != row.length || len(got.frames) != 1 || got.header["date"] == "" {
			t.Errorf("%s %s: %+v", row.method, row.path, got)
		}
	}
}

func TestServerNeverEndsAResponseThatIsNotWhole(t *testing.T) {
	broken := errors.New("the upstream is gone")
	for name, resp := range map[string]func() *l7.Response{
		"shorter than its length": func() *l7.Response {
			return &l7.Response{Status: 200, ContentLength: 10, Body: l7.NewStringBody("hello")}
		},
		"longer than its length": func() *l7.Response {
			return &l7.Response{Status: 200, ContentLength: 3, Body: l7.NewStringBody("hello")}
		},
		"broken": func() *l7.Response {
			return &l7.Response{Status: 200, ContentLength: -1, Body: &readerBody{r: io.MultiReader(strings.NewReader("hello"), &failing{broken})}}
		},
		"broken before the end of its length": func() *l7.Response {
			return &l7.Response{Status: 200, ContentLength: 10, Body: &readerBody{r: io.MultiReader(strings.NewReader("hello"), &failing{broken})}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				failed <- ex.WriteResponse(resp())
			})})
			p := s.client()
			p.get(1, "/")
			got := p.response(1)
			if got.reset == nil || *got.reset != foreign.ErrCodeInternal {
				t.Errorf("%+v", got)
			}
			if err, ok := errors.AsType[*l7.Error](<-failed); !ok || err.Side != l7.Upstream || err.Reason != observe.UpstreamReset {
				t.Errorf("%v", err)
			}
			p.get(3, "/") // the connection goes on
			p.response(3)
			if err := <-failed; err == nil {
				t.Error("no error")
			}
		})
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestServerStreamsTrailers(t *testing.T) {
	trailer := &l7.Header{}
	trailer.Add("grpc-status", "0")
	trailer.Add("content-length", "5") // may not stand there
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		if !ex.Request().AcceptsTrailers {
			t.Error("te: trailers was not seen")
		}
		content, err := io.ReadAll(ex.Request().Body)
		if err != nil {
			t.Error(err)
		}
		sum, _ := ex.Request().Body.Trailer().Get("x-sum")
		host := ex.Request().Body.Trailer().Count("authorization")
		text := fmt.Sprint(string(content), sum, " ", host)
		_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: &readerBody{r: strings.NewReader(text), trailer: trailer}})
	})})
	p := s.client()
	p.post(1, "/", "te: trailers")
	p.data(1, false, "content")
	p.headers(1, true, "x-sum: 7", "authorization: late")
	got := p.want(1, "200", "content7 0")
	if !maps.Equal(got.trailer, map[string]string{"grpc-status": "0"}) {
		t.Errorf("trailer %v", got.trailer)
	}
}

func TestServerRefusesMalformedTrailers(t *testing.T) {
	for name, lines := range map[string][]string{
		"pseudo field":   {":path: /x"},
		"content-length": {"content-length: 7"},
		"host":           {"host: b"},
		"upper case":     {"X-Sum: 1"},
		"connection":     {"connection: close"},
		"underscore":     {"x_sum: 1"},
		"too large":      {"x: " + fill(9000)},
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				_, err := io.ReadAll(ex.Request().Body)
				failed <- err
				ex.Abort()
			})})
			p := s.client()
			p.post(1, "/")
			p.data(1, false, "content")
			p.headers(1, true, lines...)
			p.wantReset(1, foreign.ErrCodeProtocol)
			if err := <-failed; err == nil {
				t.Error("the message was taken for whole")
			}
		})
	}
	t.Run("without the end of the stream", func(t *testing.T) {
		p := echoServer(t).client()
		p.post(1, "/")
		p.headers(1, false, "x: 1")
		p.wantReset(1, foreign.ErrCodeProtocol)
	})
}

// RFC 9113, Section 8.1.1: "A request or response that is defined as having content when it contains a Content-Length header field
// is malformed if the value of the Content-Length header field does not equal the sum of the DATA frame payload lengths".
func TestServerResetsContentThatIsNotOfItsLength(t *testing.T) {
	for name, send := range map[string]func(p *peer){
		"short":               func(p *peer) { p.data(1, true, "1234") },
		"long":                func(p *peer) { p.data(1, true, "123456") },
		"long, not at an end": func(p *peer) { p.data(1, false, "123456") },
		"short with trailers": func(p *peer) { p.data(1, false, "1234"); p.headers(1, true, "x: 1") },
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				_, err := io.ReadAll(ex.Request().Body)
				failed <- err
				ex.Abort()
			})})
			p := s.client()
			p.post(1, "/", "content-length: 5")
			send(p)
			p.wantReset(1, foreign.ErrCodeProtocol)
			if err := <-failed; l7.ReasonOf(err, "") != observe.BadRequest {
				t.Errorf("the handler got %v", err)
			}
		})
	}
}

// RFC 9113, Section 8.1.1: "An intermediary that processes an HTTP request or response [...] MUST NOT forward a malformed request".
// An upstream that counts bytes has the whole request with the last of them.
func TestServerKeepsTheLastByteOfALengthUntilTheEndOfTheStream(t *testing.T) {
	for name, row := range map[string]struct {
		send  func(p *peer)
		whole bool
	}{
		"end":                  {func(p *peer) { p.data(1, true, "") }, true},
		"trailers":             {func(p *peer) { p.headers(1, true, "x: 1") }, true},
		"more content":         {func(p *peer) { p.data(1, true, "6") }, false},
		"malformed trailers":   {func(p *peer) { p.headers(1, true, "X: 1") }, false},
		"trailers without end": {func(p *peer) { p.headers(1, false, "x: 1") }, false},
		"reset":                {func(p *peer) { p.do(p.framer.WriteRSTStream(1, foreign.ErrCodeCancel)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			first, ended := make(chan string, 1), make(chan error, 1)
			rest := ""
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				defer ex.Abort()
				body := ex.Request().Body
				buf := make([]byte, 100)
				n, err := io.ReadFull(body, buf[:4])
				if ready, whole := l7.ReadyOf(body); ready > 0 || whole {
					t.Errorf("%d bytes are ready, whole %v", ready, whole)
				}
				first <- fmt.Sprint(string(buf[:n]), err)
				left, err := io.ReadAll(body)
				rest = string(left)
				ended <- err
			})})
			p := s.client()
			p.post(1, "/", "content-length: 5")
			p.data(1, false, "12345")
			p.ping()
			if got := <-first; got != "1234<nil>" {
				t.Fatalf("before the end: %s", got)
			}
			row.send(p)
			err := <-ended
			if row.whole != (err == nil) || row.whole != (rest == "5") {
				t.Errorf("after it: %q, %v", rest, err)
			}
		})
	}
}

func TestServerHandlesARequestOfNoLengthWhenItsStreamHasEnded(t *testing.T) {
	handled := make(chan string, 10)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		if n, whole := l7.ReadyOf(ex.Request().Body); n != 0 || !whole {
			t.Errorf("%s: %d bytes are ready, whole %v", ex.Request().Path, n, whole)
		}
		handled <- ex.Request().Path
		echo(ctx, ex)
	})})
	p := s.client()
	for i, end := range []func(id uint32){
		func(id uint32) { p.data(id, true, "6"); p.wantReset(id, foreign.ErrCodeProtocol) },
		func(id uint32) { p.headers(id, true, "X: 1"); p.wantReset(id, foreign.ErrCodeProtocol) },
		func(id uint32) { p.do(p.framer.WriteRSTStream(id, foreign.ErrCodeCancel)); p.ping() },
	} {
		id := uint32(2*i + 1)
		p.post(id, "/broken", "content-length: 0")
		end(id)
	}
	p.post(11, "/end", "content-length: 0")
	p.ping()
	if len(handled) > 0 {
		t.Errorf("the handler saw %s", <-handled)
	}
	p.data(11, true, "")
	p.want(11, "200", "POST a.example /end ")
	p.post(13, "/trailers", "content-length: 0")
	p.headers(13, true, "x: 1")
	p.want(13, "200", "POST a.example /trailers  x=1")
}

// Proxies send the scheme that their clients had (RFC 9113, Section 8.3.1), over whatever connection they have themselves.
func TestServerJudgesRequestsByTheSchemeOfTheConnection(t *testing.T) {
	for _, own := range []string{"http", "https"} {
		s := startServer(t, ServerOptions{Scheme: own, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
			_ = ex.WriteResponse(stringResponse(200, ex.Request().Scheme))
		})})
		p := s.client()
		for i, said := range []string{"http", "https", "HTTPS"} {
			id := uint32(2*i + 1)
			p.headers(id, true, ":method: GET", ":scheme: "+said, ":authority: a", ":path: /")
			p.want(id, "200", own)
		}
		p.headers(7, true, ":method: GET", ":scheme: ftp", ":authority: a", ":path: /")
		p.want(7, "400", "")
	}
}

func TestServerRefusesMalformedRequests(t *testing.T) {
	good := func(lines ...string) []string { return request("GET", "/", lines...) }
	without := func(name string) []string {
		return slices.DeleteFunc(good(), func(line string) bool { return strings.HasPrefix(line, name+":") })
	}
	for name, lines := range map[string][]string{
		"no method":              without(":method"),
		"no scheme":              without(":scheme"),
		"no path":                without(":path"),
		"no authority":           without(":authority"),
		"empty path":             request("GET", ""),
		"path without slash":     request("GET", "a"),
		"asterisk of GET":        request("GET", "*"),
		"absolute path":          request("GET", "http://a.example/"),
		"space in path":          request("GET", "/a b"),
		"fragment":               request("GET", "/a#b"),
		"control in path":        request("GET", "/a\x01"),
		"byte above ASCII":       request("GET", "/\xc3\xa4"),
		"method no token":        request("GE T", "/"),
		"method too long":        request(fill(33), "/"),
		"repeated method":        append([]string{":method: GET"}, good()...),
		"repeated path":          good(":path: /b"),
		"pseudo after field":     append(without(":path"), "x: 1", ":path: /"),
		"unknown pseudo":         append([]string{":x: 1"}, good()...),
		"status in request":      append([]string{":status: 200"}, good()...),
		"protocol without":       append([]string{":protocol: websocket"}, good()...),
		"upper case":             good("X-Up: 1"),
		"empty name":             good(": 1")[:4],
		"space in name":          good("x y: 1"),
		"colon in name":          good("x:y: 1"),
		"CR in value":            good("x: a\rb"),
		"LF in value":            good("x: a\nb"),
		"NUL in value":           good("x: a\x00b"),
		"DEL in value":           good("x: a\x7fb"),
		"leading space":          good("x:  guest"),
		"trailing space":         good("x: guest "),
		"leading tab":            good("x: \tguest"),
		"trailing tab":           good("x: guest\t"),
		"connection":             good("connection: close"),
		"proxy-connection":       good("proxy-connection: close"),
		"keep-alive":             good("keep-alive: 1"),
		"transfer-encoding":      good("transfer-encoding: chunked"),
		"upgrade":                good("upgrade: websocket"),
		"te other":               good("te: gzip"),
		"te list":                good("te: trailers, gzip"),
		"host differs":           good("host: b.example"),
		"repeated host":          good("host: a.example", "host: a.example"),
		"user information":       append(without(":authority"), "host: u@a.example"),
		"authority with path":    append([]string{":authority: a.example/x"}, without(":authority")...),
		"authority with comma":   append([]string{":authority: a,b"}, without(":authority")...),
		"authority with space":   append([]string{":authority: a b"}, without(":authority")...),
		"length of no number":    good("content-length: x"),
		"signed length":          good("content-length: +0"),
		"list of lengths":        good("content-length: 0, 0"),
		"repeated length":        good("content-length: 0", "content-length: 0"),
		"huge length":            good("content-length: 9999999999999999999"),
		"length without content": good("content-length: 5"),
		"CONNECT with path":      {":method: CONNECT", ":authority: a:1", ":path: /"},
		"CONNECT with scheme":    {":method: CONNECT", ":authority: a:1", ":scheme: http"},
		"CONNECT without host":   {":method: CONNECT"},
		"protocol no token":      {":method: CONNECT", ":protocol: a b", ":scheme: http", ":path: /", ":authority: a"},
		"extended without path":  {":method: CONNECT", ":protocol: websocket", ":scheme: http", ":authority: a"},
		"extended with an end":   {":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /", ":authority: a"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "empty name" {
				lines = good()
			}
			told := make(chan *l7.Error, 1)
			s := startServer(t, ServerOptions{
				Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
					t.Errorf("the handler saw %+v", ex.Request())
					ex.Abort()
				}),
				Refused: func(_ context.Context, err *l7.Error) *l7.Response {
					told <- err
					return stringResponse(err.Status, "refused")
				},
			})
			p := s.client()
			block := p.fields(lines...)
			if name == "empty name" {
				block = append(block, 0, 0, 1, 'x')
			}
			p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true}))
			p.framer.ReadMetaHeaders.SetEmitFunc(nil)
			got := p.response(1)
			if got.status != "400" || got.reset == nil || *got.reset != foreign.ErrCodeProtocol {
				t.Errorf("%+v", got)
			}
			if err := <-told; err.Reason != observe.BadRequest {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestServerRefusesMalformedRequestsWithTheBareStatus(t *testing.T) {
	p := echoServer(t).client()
	p.headers(1, true, request("GET", "/", "connection: close")...)
	if got := p.response(1); got.status != "400" || got.reset == nil || *got.reset != foreign.ErrCodeProtocol {
		t.Errorf("%+v", got)
	}
}

// Each is a connection error of RFC 9113, which ends the connection with its code.
func TestServerEndsConnectionsThatBreakTheRulesOfFrames(t *testing.T) {
	open := func(p *peer) []byte {
		block := p.fields(request("GET", "/")...)
		p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: block[:5], EndStream: true}))
		return block[5:]
	}
	for name, row := range map[string]struct {
		send func(p *peer)
		code foreign.ErrCode
	}{
		"field block interrupted by DATA":      {func(p *peer) { open(p); p.data(1, true, "") }, foreign.ErrCodeProtocol},
		"field block interrupted by PING":      {func(p *peer) { open(p); p.do(p.framer.WritePing(false, [8]byte{})) }, foreign.ErrCodeProtocol},
		"field block of another stream":        {func(p *peer) { p.do(p.framer.WriteContinuation(3, true, open(p))) }, foreign.ErrCodeProtocol},
		"CONTINUATION alone":                   {func(p *peer) { p.do(p.framer.WriteContinuation(1, true, nil)) }, foreign.ErrCodeProtocol},
		"DATA on stream 0":                     {func(p *peer) { p.data(0, false, "x") }, foreign.ErrCodeProtocol},
		"DATA on an idle stream":               {func(p *peer) { p.data(1, false, "x") }, foreign.ErrCodeProtocol},
		"DATA after the end":                   {func(p *peer) { p.get(1, "/wait"); p.data(1, false, "x") }, foreign.ErrCodeStreamClosed},
		"HEADERS after the end":                {func(p *peer) { p.get(1, "/wait"); p.headers(1, true, "x: 1") }, foreign.ErrCodeStreamClosed},
		"HEADERS on a closed stream":           {func(p *peer) { p.get(1, "/"); p.response(1); p.get(1, "/") }, foreign.ErrCodeStreamClosed},
		"HEADERS on a stream that was skipped": {func(p *peer) { p.get(5, "/"); p.response(5); p.get(3, "/") }, foreign.ErrCodeProtocol},
		"HEADERS on stream 0":                  {func(p *peer) { p.get(0, "/") }, foreign.ErrCodeProtocol},
		"HEADERS on an even stream":            {func(p *peer) { p.get(2, "/") }, foreign.ErrCodeProtocol},
		"padding as long as the frame":         {func(p *peer) { p.post(1, "/"); p.write("\x00\x00\x02\x00\x08\x00\x00\x00\x01\x02x") }, foreign.ErrCodeProtocol},
		"padded frame without a length":        {func(p *peer) { p.post(1, "/"); p.write("\x00\x00\x00\x00\x08\x00\x00\x00\x01") }, foreign.ErrCodeFrameSize},
		"short priority":                       {func(p *peer) { p.write("\x00\x00\x01\x01\x25\x00\x00\x00\x01\x82") }, foreign.ErrCodeFrameSize},
		"block that cannot be decoded":         {func(p *peer) { p.write("\x00\x00\x01\x01\x05\x00\x00\x00\x01\x80") }, foreign.ErrCodeCompression},
		"block that is cut":                    {func(p *peer) { p.write("\x00\x00\x02\x01\x05\x00\x00\x00\x01\x00\x05") }, foreign.ErrCodeCompression},
		"table larger than announced":          {func(p *peer) { p.write("\x00\x00\x03\x01\x05\x00\x00\x00\x01\x3f\xe2\x1f") }, foreign.ErrCodeCompression},
		"frame larger than announced":          {func(p *peer) { p.write("\x00\x40\x01\x00\x00\x00\x00\x00\x01") }, foreign.ErrCodeFrameSize},
		"PRIORITY of 4 bytes":                  {func(p *peer) { p.write("\x00\x00\x04\x02\x00\x00\x00\x00\x01\x00\x00\x00\x00") }, foreign.ErrCodeFrameSize},
		"PRIORITY on stream 0":                 {func(p *peer) { p.do(p.framer.WritePriority(0, foreign.PriorityParam{StreamDep: 3})) }, foreign.ErrCodeProtocol},
		"RST_STREAM on an idle stream":         {func(p *peer) { p.do(p.framer.WriteRSTStream(1, foreign.ErrCodeNo)) }, foreign.ErrCodeProtocol},
		"RST_STREAM of 3 bytes":                {func(p *peer) { p.write("\x00\x00\x03\x03\x00\x00\x00\x00\x01\x00\x00\x00") }, foreign.ErrCodeFrameSize},
		"SETTINGS on a stream":                 {func(p *peer) { p.write("\x00\x00\x00\x04\x00\x00\x00\x00\x01") }, foreign.ErrCodeProtocol},
		"SETTINGS of 3 bytes":                  {func(p *peer) { p.write("\x00\x00\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00") }, foreign.ErrCodeFrameSize},
		"SETTINGS acknowledged with content":   {func(p *peer) { p.write("\x00\x00\x06\x04\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00") }, foreign.ErrCodeFrameSize},
		"push neither on nor off":              {func(p *peer) { p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingEnablePush, Val: 2})) }, foreign.ErrCodeProtocol},
		"initial window too large": {func(p *peer) {
			p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1 << 31}))
		}, foreign.ErrCodeFlowControl},
		"largest frame too small": {func(p *peer) {
			p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingMaxFrameSize, Val: 1000}))
		}, foreign.ErrCodeProtocol},
		"PUSH_PROMISE":                    {func(p *peer) { p.write("\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02") }, foreign.ErrCodeProtocol},
		"PING on a stream":                {func(p *peer) { p.write("\x00\x00\x08\x06\x00\x00\x00\x00\x0112345678") }, foreign.ErrCodeProtocol},
		"PING of 7 bytes":                 {func(p *peer) { p.write("\x00\x00\x07\x06\x00\x00\x00\x00\x001234567") }, foreign.ErrCodeFrameSize},
		"GOAWAY on a stream":              {func(p *peer) { p.write("\x00\x00\x08\x07\x00\x00\x00\x00\x0112345678") }, foreign.ErrCodeProtocol},
		"WINDOW_UPDATE of 0":              {func(p *peer) { p.do(p.framer.WriteWindowUpdate(0, 0)) }, foreign.ErrCodeProtocol},
		"WINDOW_UPDATE on an idle stream": {func(p *peer) { p.do(p.framer.WriteWindowUpdate(1, 1)) }, foreign.ErrCodeProtocol},
		"WINDOW_UPDATE of 3 bytes":        {func(p *peer) { p.write("\x00\x00\x03\x08\x00\x00\x00\x00\x00\x00\x00\x01") }, foreign.ErrCodeFrameSize},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
				if ex.Request().Path == "/wait" {
					<-ctx.Done()
				}
				echo(ctx, ex)
			})})
			p := s.client()
			row.send(p)
			p.wantGoAway(row.code)
			_ = p.conn.Close()
			s.wantReason(observe.ProtocolError)
		})
	}
	t.Run("another preface", func(t *testing.T) {
		s := echoServer(t)
		p := s.dial()
		p.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		p.wantGoAway(foreign.ErrCodeProtocol)
		p.wantEnd()
		s.wantReason(observe.ProtocolError)
	})
	t.Run("another frame before SETTINGS", func(t *testing.T) {
		s := echoServer(t)
		p := s.dial()
		p.write(preface)
		p.do(p.framer.WritePing(false, [8]byte{}))
		p.wantGoAway(foreign.ErrCodeProtocol)
		_ = p.conn.Close()
		s.wantReason(observe.ProtocolError)
	})
}

func TestServerAnswersWhatIsWellFormedAndNotAccepted(t *testing.T) {
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("x-%d: 1", i))
	}
	crumbs := slices.Repeat([]string{"cookie: a=b"}, 101)
	for name, row := range map[string]struct {
		status string
		lines  []string
	}{
		"underscore":            {"400", request("GET", "/", "x_y: 1")},
		"other scheme":          {"400", []string{":method: GET", ":scheme: ftp", ":authority: a", ":path: /"}},
		"long path":             {"414", request("GET", "/"+fill(17<<10))},
		"large head":            {"431", request("GET", "/", "x: "+fill(70<<10))},
		"too many fields":       {"431", request("GET", "/", many...)},
		"too many crumbs":       {"431", request("GET", "/", crumbs...)},
		"unknown expectation":   {"417", request("GET", "/", "expect: 200-maybe")},
		"repeated expectation":  {"417", request("GET", "/", "expect: 100-continue", "expect: 100-continue")},
		"many small with large": {"431", request("GET", "/", append(many[:90], "y: "+fill(64<<10))...)},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				if ex.Request().Path != "/good" {
					t.Errorf("the handler saw %q", ex.Request().Path)
				}
				echo(t.Context(), ex)
			})})
			p := s.client()
			block := p.fields(row.lines...)
			first := block[:min(len(block), 16384)]
			p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(first) == len(block), EndStream: true}))
			for block = block[len(first):]; len(block) > 0; {
				n := min(len(block), 16384)
				p.do(p.framer.WriteContinuation(1, n == len(block), block[:n]))
				block = block[n:]
			}
			p.want(1, row.status, "")
			p.get(3, "/good") // the decoder is in step
			p.want(3, "200", "GET a.example /good")
		})
	}
}

func TestServerReadsHeads(t *testing.T) {
	type seen struct {
		method, authority, path, query string
		fields                         []string
		length                         int64
		body, expects, trailers        bool
	}
	got := make(chan seen, 1)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		r := ex.Request()
		now := seen{r.Method, r.Authority, r.Path, r.RawQuery, nil, r.ContentLength, r.Body != nil, r.ExpectContinue, r.AcceptsTrailers}
		for name, value := range r.Header.All() {
			now.fields = append(now.fields, name+"="+value)
		}
		if r.Protocol != l7.HTTP2 || r.Scheme != "http" || r.Close || r.Upgrade != "" {
			t.Errorf("%+v", r)
		}
		got <- now
		ex.Abort()
	})})
	p := s.client()
	id := uint32(1)
	for name, row := range map[string]struct {
		end   bool
		lines []string
		want  seen
	}{
		"plain":                   {true, request("GET", "/a?b?c"), seen{method: "GET", authority: "a.example", path: "/a", query: "b?c"}},
		"host alone":              {true, []string{":method: GET", ":scheme: HTTP", ":path: /", "host: b"}, seen{method: "GET", authority: "b", path: "/"}},
		"host the same":           {true, request("GET", "/", "host: A.example"), seen{method: "GET", authority: "a.example", path: "/"}},
		"asterisk":                {true, request("OPTIONS", "*"), seen{method: "OPTIONS", authority: "a.example", path: "*"}},
		"one cookie from crumbs":  {true, request("GET", "/", "cookie: a=b", "x: 1", "cookie: c=d"), seen{method: "GET", authority: "a.example", path: "/", fields: []string{"x=1", "cookie=a=b; c=d"}}},
		"empty crumbs":            {true, request("GET", "/", "cookie: ", "cookie: a=b", "cookie: "), seen{method: "GET", authority: "a.example", path: "/", fields: []string{"cookie=a=b"}}},
		"fields repeat":           {true, request("GET", "/", "x: 1", "x: 2", "y: "), seen{method: "GET", authority: "a.example", path: "/", fields: []string{"x=1", "x=2", "y="}}},
		"trailers accepted":       {true, request("GET", "/", "te: trailers"), seen{method: "GET", authority: "a.example", path: "/", trailers: true}},
		"length of nothing":       {true, request("POST", "/", "content-length: 0"), seen{method: "POST", authority: "a.example", path: "/"}},
		"length":                  {false, request("POST", "/", "content-length: 7"), seen{method: "POST", authority: "a.example", path: "/", length: 7, body: true}},
		"no length":               {false, request("POST", "/"), seen{method: "POST", authority: "a.example", path: "/", length: -1, body: true}},
		"expectation":             {false, request("POST", "/", "expect: 100-Continue"), seen{method: "POST", authority: "a.example", path: "/", length: -1, body: true, expects: true}},
		"of one hop":              {true, request("GET", "/", "proxy-authorization: x", "http2-settings: x"), seen{method: "GET", authority: "a.example", path: "/"}},
		"CONNECT is passed on":    {false, []string{":method: CONNECT", ":authority: a:1"}, seen{method: "CONNECT", authority: "a:1", length: -1}},
		"method of another kind":  {true, request("PURGE", "/"), seen{method: "PURGE", authority: "a.example", path: "/"}},
		"obsolete text in values": {true, request("GET", "/", "x: \xe4"), seen{method: "GET", authority: "a.example", path: "/", fields: []string{"x=\xe4"}}},
	} {
		p.headers(id, row.end, row.lines...)
		now := <-got
		if fmt.Sprint(now) != fmt.Sprint(row.want) {
			t.Errorf("%s: got %+v, want %+v", name, now, row.want)
		}
		id += 2
	}
}

func TestServerAsksForABodyOnlyWhenItIsRead(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		if ex.Request().Path == "/no" {
			_ = ex.WriteResponse(stringResponse(403, "no"))
			return
		}
		echo(ctx, ex)
	})})
	p := s.client()
	p.post(1, "/no", "expect: 100-continue")
	p.want0(1, "403", "no")
	p.post(3, "/yes", "expect: 100-continue")
	f := p.wantFrame(foreign.FrameHeaders).(*foreign.MetaHeadersFrame)
	if f.PseudoValue("status") != "100" || f.StreamEnded() {
		t.Fatalf("got %v", f)
	}
	p.data(3, true, "body")
	p.want(3, "200", "POST a.example /yes body")
}

// want0 is want for a response after which the server wants no more of the request.
func (p *peer) want0(id uint32, status, body string) {
	p.t.Helper()
	got := p.response(id)
	if got.status != status || got.body != body {
		p.t.Fatalf("got %+v", got)
	}
	p.wantReset(id, foreign.ErrCodeNo)
}

func TestServerHandlesStreamsSideBySide(t *testing.T) {
	release := make(chan struct{})
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		if ex.Request().Path == "/slow" {
			<-release
		}
		echo(ctx, ex)
	})})
	p := s.client()
	p.get(1, "/slow")
	p.get(3, "/fast")
	p.want(3, "200", "GET a.example /fast")
	close(release)
	p.want(1, "200", "GET a.example /slow")
}

func TestServerKeepsThePlaceOfAResetStreamUntilItsHandlerIsDone(t *testing.T) {
	release := make(chan struct{})
	began := make(chan struct{}, 10)
	s := startServer(t, ServerOptions{Limits: Limits{MaxStreams: 2}, Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		if ex.Request().Path == "/slow" {
			began <- struct{}{}
			<-release
			ex.Abort()
			return
		}
		echo(ctx, ex)
	})})
	p := s.client()
	for _, id := range []uint32{1, 3} {
		p.get(id, "/slow")
		<-began
		p.do(p.framer.WriteRSTStream(id, foreign.ErrCodeCancel))
	}
	p.get(5, "/fast")
	p.wantReset(5, foreign.ErrCodeRefusedStream)
	close(release)
	c := <-s.conns
	eventually(t, "a place", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.active == 0
	})
	p.get(7, "/fast")
	p.want(7, "200", "GET a.example /fast")
}

func TestServerTellsHandlersOfResets(t *testing.T) {
	ended := make(chan error, 1)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		if err := ex.WriteResponse(stringResponse(200, "late")); err == nil {
			t.Error("a response on a stream that was reset")
		}
	})})
	p := s.client()
	p.get(1, "/")
	p.do(p.framer.WriteRSTStream(1, foreign.ErrCodeCancel))
	if err := <-ended; l7.ReasonOf(err, "") != observe.IOError {
		t.Errorf("%v", err)
	}
	p.ping()
}

func TestServerGivesHandlersTheValuesOfItsContext(t *testing.T) {
	type key struct{}
	got := make(chan any, 1)
	server := NewServer(ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		got <- ctx.Value(key{})
		echo(ctx, ex)
	})})
	address := listen(t, func(conn *net.TCPConn) {
		server.NewConn(conn).Serve(context.WithValue(t.Context(), key{}, "value"))
	}, nil)
	s := &testServer{t: t, address: address}
	p := s.client()
	p.get(1, "/")
	p.response(1)
	if v := <-got; v != "value" {
		t.Errorf("%v", v)
	}
	_ = p.conn.Close()
}

func TestServerCutsAnExchangeFromAnywhere(t *testing.T) {
	exchanges := make(chan l7.Exchange, 2)
	ended := make(chan error, 1)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		if ex.Request().Path != "/cut" {
			echo(ctx, ex)
			return
		}
		exchanges <- ex
		_, err := io.ReadAll(ex.Request().Body)
		ended <- errors.Join(err, context.Cause(ctx))
		ex.Abort()
	})})
	p := s.client()
	p.post(1, "/cut")
	(<-exchanges).Cut(&l7.Error{Reason: observe.PolicyChanged})
	p.wantReset(1, foreign.ErrCodeCancel)
	if err := <-ended; l7.ReasonOf(err, "") != observe.PolicyChanged {
		t.Errorf("%v", err)
	}
	p.get(3, "/")
	p.want(3, "200", "GET a.example /")
}

func TestServerSurvivesPanicsOfHandlers(t *testing.T) {
	var refused atomic.Int64
	s := startServer(t, ServerOptions{
		Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
			switch ex.Request().Path {
			case "/panic":
				panic("programmer's error")
			case "/twice":
				panic("and again in the refusal")
			case "/late":
				_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: &readerBody{r: &panicking{}}})
			case "/nothing":
			default:
				echo(ctx, ex)
			}
		}),
		Refused: func(_ context.Context, err *l7.Error) *l7.Response {
			refused.Add(1)
			if strings.Contains(err.Error(), "again") {
				panic(err)
			}
			return stringResponse(err.Status, err.Reason.String())
		},
	})
	p := s.client()
	p.get(1, "/panic")
	p.want(1, "500", "internal")
	p.get(3, "/nothing")
	p.want(3, "500", "internal")
	p.get(5, "/late")
	if got := p.response(5); got.reset == nil || *got.reset != foreign.ErrCodeInternal {
		t.Errorf("%+v", got)
	}
	p.get(7, "/twice")
	p.want(7, "500", "")
	p.get(9, "/")
	p.want(9, "200", "GET a.example /")
	if refused.Load() != 4 {
		t.Errorf("told of %d", refused.Load())
	}
}

type panicking struct{}

func (*panicking) Read([]byte) (int, error) { panic("programmer's error in a body") }

func TestServerDrainsWithoutLosingARequest(t *testing.T) {
	release := make(chan struct{})
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		switch ex.Request().Path {
		case "/slow":
			<-release
		case "/late":
			t.Error("a request above the last stream was served")
		}
		echo(ctx, ex)
	})})
	p := s.client()
	p.get(1, "/slow")
	p.ping()
	c := <-s.conns
	c.Drain()
	c.Drain()
	first := p.wantGoAway(foreign.ErrCodeNo)
	if first.LastStreamID != maxStreamID {
		t.Errorf("first GOAWAY names stream %d", first.LastStreamID)
	}
	p.get(3, "/crossed") // sent before the announcement could be known
	p.want(3, "200", "GET a.example /crossed")
	p.do(p.framer.WritePing(true, drainPing))
	last := p.wantGoAway(foreign.ErrCodeNo)
	if last.LastStreamID != 3 {
		t.Errorf("last GOAWAY names stream %d", last.LastStreamID)
	}
	p.get(5, "/late") // is above, and so sent elsewhere by the client
	p.ping()
	close(release)
	p.want(1, "200", "GET a.example /slow")
	p.wantEnd()
	s.wantReason(observe.Drained)
}

func TestServerDrainsAClientThatDoesNotAnswer(t *testing.T) {
	s := echoServer(t)
	p := s.client()
	p.ping()
	(<-s.conns).Drain()
	p.wantGoAway(foreign.ErrCodeNo)
	if last := p.wantGoAway(foreign.ErrCodeNo); last.LastStreamID != 0 {
		t.Errorf("last GOAWAY names stream %d", last.LastStreamID)
	}
	p.wantEnd()
	s.wantReason(observe.Drained)
}

func TestServerDrainedBeforeItServesAnswersWhatIsSent(t *testing.T) {
	server := NewServer(ServerOptions{Handler: l7.HandlerFunc(echo)})
	address := listen(t, func(conn *net.TCPConn) {
		c := server.NewConn(conn)
		c.Drain()
		c.Serve(t.Context())
	}, nil)
	p := (&testServer{t: t, address: address}).dial()
	p.write(preface)
	p.do(p.framer.WriteSettings())
	p.get(1, "/")
	p.wantGoAway(foreign.ErrCodeNo)
	p.want(1, "200", "GET a.example /")
}

func TestServerEndsAfterAResponseWhoseHandlerAsksForIt(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		ex.Request().Close = true
		echo(ctx, ex)
	})})
	p := s.client()
	p.get(1, "/")
	p.want(1, "200", "GET a.example /")
	p.wantGoAway(foreign.ErrCodeNo)
	p.do(p.framer.WritePing(true, drainPing))
	p.wantGoAway(foreign.ErrCodeNo)
	p.wantEnd()
	s.wantReason(observe.Drained)
}

func TestServerIsAbortedByItsContext(t *testing.T) {
	ended := make(chan error, 1)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		_, err := io.ReadAll(ex.Request().Body)
		ended <- errors.Join(context.Cause(ctx), err)
		ex.Abort()
	})})
	p := s.client()
	p.post(1, "/")
	p.ping()
	s.cancel(&l7.Error{Reason: observe.Revoked})
	if err := <-ended; l7.ReasonOf(err, "") != observe.Revoked {
		t.Errorf("%v", err)
	}
	p.wantEnd()
	s.wantReason(observe.Revoked)
}

func TestServerEndsConnectionsThatWaitTooLong(t *testing.T) {
	short := 50 * time.Millisecond
	for name, row := range map[string]struct {
		timeouts Timeouts
		client   func(s *testServer)
		reason   observe.Reason
	}{
		"nothing is sent":       {Timeouts{Head: short}, func(s *testServer) { s.dial().wantEnd() }, observe.IdleTimeout},
		"half a preface":        {Timeouts{Head: short}, func(s *testServer) { p := s.dial(); p.write(preface[:10]); p.wantEnd() }, observe.IdleTimeout},
		"no SETTINGS":           {Timeouts{Head: short}, func(s *testServer) { p := s.dial(); p.write(preface); p.wantEnd() }, observe.IdleTimeout},
		"nothing after it":      {Timeouts{Idle: short}, func(s *testServer) { p := s.client(); p.wantGoAway(foreign.ErrCodeNo); p.wantEnd() }, observe.IdleTimeout},
		"nothing after a reply": {Timeouts{Idle: short}, func(s *testServer) { p := s.client(); p.get(1, "/"); p.response(1); p.wantGoAway(foreign.ErrCodeNo) }, observe.IdleTimeout},
		"half a frame": {Timeouts{Head: short}, func(s *testServer) {
			p := s.client()
			p.write("\x00\x00\x08\x06\x00\x00\x00\x00\x00half")
			p.wantGoAway(foreign.ErrCodeEnhanceYourCalm)
		}, observe.RequestTimeout},
		"half a field block": {Timeouts{Head: short}, func(s *testServer) {
			p := s.client()
			p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(":method: GET")}))
			p.wantGoAway(foreign.ErrCodeEnhanceYourCalm)
		}, observe.RequestTimeout},
		"half a DATA frame": {Timeouts{Body: short}, func(s *testServer) {
			p := s.client()
			p.post(1, "/")
			p.write("\x00\x00\x08\x00\x00\x00\x00\x00\x01half")
			p.wantGoAway(foreign.ErrCodeEnhanceYourCalm)
		}, observe.RequestTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: row.timeouts})
			row.client(s)
			s.wantReason(row.reason)
		})
	}
}

func TestServerGivesUpOnBodiesThatDoNotCome(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Body: 50 * time.Millisecond, StreamIdle: 150 * time.Millisecond}})
	p := s.client()
	p.post(1, "/sized", "content-length: 5")
	p.post(3, "/stream")
	p.post(5, "/empty", "content-length: 0")
	p.post(7, "/endless", "content-length: 5")
	p.data(7, false, "12345")
	got := p.responses(4)
	for id, a := range got {
		if a.status != "408" || a.body != "request_timeout" && id != 5 {
			t.Errorf("%d: %+v", id, a)
		}
	}
}

func TestServerEndsWithItsClient(t *testing.T) {
	s := echoServer(t)
	p := s.client()
	p.ping()
	_ = p.conn.Close()
	s.wantReason(observe.PeerClosed)
	p = s.client()
	p.post(1, "/")
	p.ping()
	_ = p.conn.Close()
	s.wantReason(observe.IOError)
	p = s.client()
	p.do(p.framer.WriteGoAway(0, foreign.ErrCodeNo, nil))
	p.wantGoAway(foreign.ErrCodeNo)
	s.wantReason(observe.PeerClosed)
}

func TestServerKeepsNoBufferWhileItWaits(t *testing.T) {
	s := echoServer(t)
	p := s.client()
	p.get(1, "/")
	p.response(1)
	c := <-s.conns
	time.Sleep(grace + 50*time.Millisecond) // the one wait of this test that nothing else could end
	p.get(3, "/")
	p.response(3)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.pending != nil {
		t.Errorf("%d bytes of output are kept", cap(c.out.pending))
	}
}

func TestServerBoundsPlacesUnderManyClients(t *testing.T) {
	var running, worst atomic.Int64
	s := startServer(t, ServerOptions{Limits: Limits{MaxStreams: 8}, Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		n := running.Add(1)
		for old := worst.Load(); n > old && !worst.CompareAndSwap(old, n); old = worst.Load() {
		}
		echo(ctx, ex)
		running.Add(-1)
	})})
	var clients sync.WaitGroup
	for range 4 {
		p := s.client()
		clients.Go(func() {
			id := uint32(1)
			for range 50 {
				for range 8 {
					p.get(id, "/")
					id += 2
				}
				for _, a := range p.responses(8) {
					if a.status != "200" || a.reset != nil {
						t.Errorf("%+v", a)
					}
				}
			}
		})
	}
	clients.Wait()
	if worst.Load() > 4*16 {
		t.Errorf("%d handlers at once", worst.Load())
	}
}
