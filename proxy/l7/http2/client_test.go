package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// upstream is a raw peer on the server's side of one ClientConn.
type upstream struct {
	*peer
	conn  *ClientConn
	room  chan struct{}
	ended chan observe.Reason
}

func dialUpstream(t *testing.T, options ClientOptions, settings ...foreign.Setting) *upstream {
	t.Helper()
	u := rawUpstream(t, options)
	u.handshake(settings...)
	return u
}

// rawUpstream has said nothing yet.
func rawUpstream(t *testing.T, options ClientOptions) *upstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{peer: newPeer(t, accepted.(*net.TCPConn)), room: make(chan struct{}, 1000), ended: make(chan observe.Reason, 2)}
	if options.Timeouts.Linger == 0 {
		options.Timeouts.Linger = 50 * time.Millisecond
	}
	u.conn = NewClient(options).NewConn(conn.(*net.TCPConn), ClientEvents{
		Room:  func() { u.room <- struct{}{} },
		Ended: func(reason observe.Reason) { u.ended <- reason },
	})
	t.Cleanup(func() {
		_ = u.conn.Close()
		select {
		case <-u.ended:
		case <-time.After(patienceOfTests):
			t.Error("Ended was not called")
		}
		if len(u.ended) > 0 {
			t.Error("Ended was called twice")
		}
	})
	return u
}

func (u *upstream) handshake(settings ...foreign.Setting) {
	u.t.Helper()
	buf := make([]byte, len(preface))
	_, err := io.ReadFull(u.peer.conn, buf)
	u.do(err)
	if string(buf) != preface {
		u.t.Fatalf("preface %q", buf)
	}
	u.do(u.framer.WriteSettings(settings...))
	for {
		if f := u.wantFrame0(foreign.FrameSettings).(*foreign.SettingsFrame); f.IsAck() {
			return
		} else if v, ok := f.Value(foreign.SettingEnablePush); !ok || v != 0 {
			u.t.Fatal("push is not refused")
		}
		u.do(u.framer.WriteSettingsAck())
	}
}

func (u *upstream) wantEnded(reason observe.Reason) {
	u.t.Helper()
	select {
	case got := <-u.ended:
		if got != reason {
			u.t.Errorf("ended for %q, want %q", got, reason)
		}
		u.ended <- got // for the cleanup
	case <-time.After(patienceOfTests):
		u.t.Fatal("did not end")
	}
}

func get(path string) *l7.Request {
	return &l7.Request{Method: "GET", Scheme: "http", Authority: "up.example", Path: path}
}

func post(body l7.Body, length int64) *l7.Request {
	return &l7.Request{Method: "POST", Scheme: "http", Authority: "up.example", Path: "/", Body: body, ContentLength: length}
}

// outcome is how a RoundTrip ended.
type outcome struct {
	resp  *l7.Response
	err   *l7.Error
	hints []string
}

// start begins a RoundTrip.
func (u *upstream) start(ctx context.Context, req *l7.Request) chan outcome {
	u.t.Helper()
	if !u.conn.Reserve() {
		u.t.Fatal("no place")
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		resp, err := u.conn.RoundTrip(ctx, req, func(status int, h *l7.Header) {
			o.hints = append(o.hints, fmt.Sprint(status, slices.Collect(h.Values("x"))))
		})
		o.resp = resp
		if err != nil {
			o.err = err.(*l7.Error) //nolint:errorlint // the contract is this type itself
		}
		done <- o
	}()
	return done
}

func (u *upstream) wait(done chan outcome) outcome {
	u.t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(patienceOfTests):
		u.t.Fatal("RoundTrip did not return")
		return outcome{}
	}
}

func (u *upstream) wantFailure(done chan outcome, reason observe.Reason, sent, responded bool) *l7.Error {
	u.t.Helper()
	o := u.wait(done)
	if o.err == nil {
		u.t.Fatalf("no error, but %d", o.resp.Status)
	}
	if o.err.Reason != reason || o.err.Sent != sent || o.err.Responded != responded || o.err.Status < 400 {
		u.t.Errorf("got %+v", o.err)
	}
	return o.err
}

// head reads up to the next HEADERS.
func (u *upstream) head() *foreign.MetaHeadersFrame {
	u.t.Helper()
	return u.wantFrame(foreign.FrameHeaders).(*foreign.MetaHeadersFrame)
}

func read(t *testing.T, resp *l7.Response) string {
	t.Helper()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestClientSendsTheHeadAndASmallBodyTogether(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	req := post(l7.NewStringBody("hello"), 5)
	req.RawQuery, req.AcceptsTrailers = "a=b", true
	req.Header.Add("x", "1")
	req.Header.Add("cookie", "a=b; c=d")
	req.Header.Add("connection", "close") // whoever put it there
	req.Header.Add("content-length", "7")
	done := u.start(t.Context(), req)
	head := u.head()
	var got []string
	for _, f := range head.Fields {
		got = append(got, f.Name+": "+f.Value)
		if f.Sensitive != (f.Name == "cookie") {
			t.Errorf("%v", f)
		}
	}
	want := []string{":method: POST", ":scheme: http", ":authority: up.example", ":path: /?a=b", "x: 1", "cookie: a=b; c=d", "content-length: 5", "te: trailers"}
	if !slices.Equal(got, want) || head.StreamEnded() {
		t.Errorf("got %q", got)
	}
	data := u.wantFrame(foreign.FrameData).(*foreign.DataFrame)
	if string(data.Data()) != "hello" || !data.StreamEnded() {
		t.Errorf("got %v %q", data, data.Data())
	}
	u.headers(1, false, ":status: 200", "content-length: 2", "x_y: 1")
	u.data(1, true, "ok")
	o := u.wait(done)
	if o.resp == nil || o.resp.Status != 200 || o.resp.ContentLength != 2 || o.resp.Protocol != l7.HTTP2 || read(t, o.resp) != "ok" {
		t.Fatalf("%+v", o)
	}
	if v, _ := o.resp.Header.Get("x_y"); v != "1" {
		t.Error("a field with an underscore is lost")
	}
	_ = o.resp.Body.Close()
	_ = o.resp.Body.Close()
	if n := u.conn.Streams(); n != 0 {
		t.Errorf("%d streams", n)
	}
}

func TestClientEndsRequestsWithoutContentInTheHead(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	for i, row := range []struct {
		req    *l7.Request
		length string
	}{
		{get("/"), ""}, {post(nil, 0), "0"}, {post(l7.NewStringBody(""), 0), "0"},
	} {
		id := uint32(2*i + 1)
		done := u.start(t.Context(), row.req)
		head := u.head()
		length := ""
		for _, f := range head.RegularFields() {
			if f.Name == "content-length" {
				length = f.Value
			}
		}
		if !head.StreamEnded() || length != row.length || head.StreamID != id {
			t.Errorf("%v, length %q", head, length)
		}
		u.headers(id, true, ":status: 204")
		o := u.wait(done)
		if o.resp.Status != 204 || read(t, o.resp) != "" {
			t.Errorf("%+v", o.resp)
		}
		_ = o.resp.Body.Close()
	}
}

func TestClientReadsResponses(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	id := uint32(1)
	for name, row := range map[string]struct {
		method string
		send   func()
		status int
		length int64
		body   string
	}{
		"sized":          {"GET", func() { u.headers(id, false, ":status: 200", "content-length: 2"); u.data(id, true, "ok") }, 200, 2, "ok"},
		"unsized":        {"GET", func() { u.headers(id, false, ":status: 200"); u.data(id, true, "ok") }, 200, -1, "ok"},
		"empty":          {"GET", func() { u.headers(id, true, ":status: 200") }, 200, 0, ""},
		"HEAD":           {"HEAD", func() { u.headers(id, true, ":status: 200", "content-length: 5") }, 200, 5, ""},
		"304":            {"GET", func() { u.headers(id, true, ":status: 304", "content-length: 5") }, 304, 5, ""},
		"204 and length": {"GET", func() { u.headers(id, true, ":status: 204", "content-length: 0") }, 204, -1, ""},
		"HEAD, late end": {"HEAD", func() { u.headers(id, false, ":status: 200"); u.data(id, true, "") }, 200, -1, ""},
		"trailers alone": {"GET", func() { u.headers(id, false, ":status: 200"); u.headers(id, true, "x: 1") }, 200, -1, ""},
	} {
		req := get("/")
		req.Method = row.method
		done := u.start(t.Context(), req)
		u.head()
		row.send()
		o := u.wait(done)
		if o.err != nil || o.resp.Status != row.status || o.resp.ContentLength != row.length || read(t, o.resp) != row.body {
			t.Errorf("%s: %+v %+v", name, o.err, o.resp)
		}
		_ = o.resp.Body.Close()
		id += 2
	}
}

func TestClientPassesInformationalResponsesOn(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	done := u.start(t.Context(), get("/"))
	u.head()
	u.headers(1, false, ":status: 103", "x: a")
	u.headers(1, false, ":status: 100")
	u.headers(1, false, ":status: 103", "x: b")
	u.headers(1, true, ":status: 200")
	o := u.wait(done)
	if !slices.Equal(o.hints, []string{"103 [a]", "103 [b]"}) || o.resp.Status != 200 {
		t.Errorf("%+v", o)
	}
	_ = o.resp.Body.Close()
}

func TestClientRefusesMalformedResponses(t *testing.T) {
	for name, send := range map[string]func(u *upstream){
		"no status":              func(u *upstream) { u.headers(1, true, "x: 1") },
		"two digits":             func(u *upstream) { u.headers(1, true, ":status: 20") },
		"no number":              func(u *upstream) { u.headers(1, true, ":status: 2x0") },
		"status 000":             func(u *upstream) { u.headers(1, true, ":status: 000") },
		"101":                    func(u *upstream) { u.headers(1, true, ":status: 101") },
		"repeated status":        func(u *upstream) { u.headers(1, true, ":status: 200", ":status: 200") },
		"path":                   func(u *upstream) { u.headers(1, true, ":status: 200", ":path: /") },
		"upper case":             func(u *upstream) { u.headers(1, true, ":status: 200", "X-Up: 1") },
		"space at an end":        func(u *upstream) { u.headers(1, true, ":status: 200", "x: guest ") },
		"CR LF":                  func(u *upstream) { u.headers(1, true, ":status: 200", "x: a\r\nset-cookie: b") },
		"connection":             func(u *upstream) { u.headers(1, true, ":status: 200", "connection: close") },
		"transfer-encoding":      func(u *upstream) { u.headers(1, true, ":status: 200", "transfer-encoding: chunked") },
		"two lengths":            func(u *upstream) { u.headers(1, true, ":status: 200", "content-length: 0", "content-length: 0") },
		"length without content": func(u *upstream) { u.headers(1, true, ":status: 200", "content-length: 5") },
		"204 with a length":      func(u *upstream) { u.headers(1, false, ":status: 204", "content-length: 5") },
		"1xx that ends":          func(u *upstream) { u.headers(1, true, ":status: 103") },
		"too many 1xx": func(u *upstream) {
			for range 9 {
				u.headers(1, false, ":status: 103")
			}
		},
		"DATA first": func(u *upstream) { u.data(1, false, "x") },
		"too large":  func(u *upstream) { u.headers(1, false, ":status: 200", "x: "+fill(15000), "y: "+fill(100)) },
		"too many": func(u *upstream) {
			u.headers(1, false, append([]string{":status: 200"}, slices.Repeat([]string{"x: 1"}, 101)...)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{Limits: Limits{MaxHead: 15000}})
			done := u.start(t.Context(), get("/"))
			u.head()
			send(u)
			responded := name == "too many 1xx"
			_ = u.wantFailure(done, observe.UpstreamProtocol, true, responded)
			u.wantReset(1, foreign.ErrCodeProtocol)
			done = u.start(t.Context(), get("/")) // the connection goes on
			u.head()
			u.headers(3, true, ":status: 200")
			_ = u.wait(done).resp.Body.Close()
		})
	}
}

func TestClientNeverTakesHalfAMessageForAWholeOne(t *testing.T) {
	for name, row := range map[string]struct {
		send   func(u *upstream)
		reason observe.Reason
	}{
		"reset":                 {func(u *upstream) { u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeInternal)) }, observe.UpstreamReset},
		"reset without error":   {func(u *upstream) { u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeNo)) }, observe.UpstreamReset},
		"end of the connection": {func(u *upstream) { _ = u.peer.conn.Close() }, observe.UpstreamReset},
		"orderly end":           {func(u *upstream) { _ = u.peer.conn.CloseWrite() }, observe.UpstreamReset},
		"GOAWAY with an error": {func(u *upstream) {
			u.do(u.framer.WriteGoAway(1, foreign.ErrCodeInternal, nil))
			_ = u.peer.conn.Close()
		}, observe.UpstreamReset},
		"too short":            {func(u *upstream) { u.data(1, true, "") }, observe.UpstreamProtocol},
		"too long":             {func(u *upstream) { u.data(1, true, "123456") }, observe.UpstreamProtocol},
		"malformed trailers":   {func(u *upstream) { u.headers(1, true, ":status: 200") }, observe.UpstreamProtocol},
		"framing in trailers":  {func(u *upstream) { u.data(1, false, "12345"); u.headers(1, true, "content-length: 5") }, observe.UpstreamProtocol},
		"trailers without end": {func(u *upstream) { u.headers(1, false, "x: 1") }, observe.UpstreamProtocol},
		"broken framing":       {func(u *upstream) { u.write("\xff\xff\xff\x00\x00\x00\x00\x00\x01") }, observe.UpstreamProtocol},
		"pushed": {func(u *upstream) {
			u.do(u.framer.WritePushPromise(foreign.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true}))
		}, observe.UpstreamProtocol},
		"compression": {func(u *upstream) { u.write("\x00\x00\x01\x01\x05\x00\x00\x00\x01\x80") }, observe.UpstreamProtocol},
		"silence":     {func(*upstream) {}, observe.UpstreamTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{Timeouts: Timeouts{Body: 150 * time.Millisecond}})
			done := u.start(t.Context(), get("/"))
			u.head()
			u.headers(1, false, ":status: 200", "content-length: 10")
			u.data(1, false, "12345")
			o := u.wait(done)
			if o.err != nil {
				t.Fatal(o.err)
			}
			row.send(u)
			_, err := io.ReadAll(o.resp.Body)
			if l7.ReasonOf(err, "") != row.reason {
				t.Errorf("the body ended with %v", err)
			}
			if e, ok := errors.AsType[*l7.Error](err); !ok || e.Side != l7.Upstream {
				t.Errorf("%+v", e)
			}
			if o.resp.Body.Trailer() != nil {
				t.Error("trailers of half a message")
			}
			_ = o.resp.Body.Close()
		})
	}
}

func TestClientSaysWhatMayBeTriedAgain(t *testing.T) {
	for name, row := range map[string]struct {
		req             *l7.Request
		send            func(u *upstream)
		sent, responded bool
	}{
		"refused":            {get("/"), func(u *upstream) { u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeRefusedStream)) }, false, false},
		"refused, body gone": {post(l7.NewStringBody("x"), 1), func(u *upstream) { u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeRefusedStream)) }, true, false},
		"reset":              {get("/"), func(u *upstream) { u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeInternal)) }, true, false},
		"reset after 103": {get("/"), func(u *upstream) {
			u.headers(1, false, ":status: 103")
			u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeInternal))
		}, true, true},
		"left out by GOAWAY":    {get("/"), func(u *upstream) { u.do(u.framer.WriteGoAway(0, foreign.ErrCodeNo, nil)) }, false, false},
		"end of the connection": {get("/"), func(u *upstream) { _ = u.peer.conn.Close() }, true, false},
		"GOAWAY and end":        {get("/"), func(u *upstream) { u.do(u.framer.WriteGoAway(1, foreign.ErrCodeNo, nil)); _ = u.peer.conn.Close() }, true, false},
		"refused after a response": {get("/"), func(u *upstream) {
			u.headers(1, false, ":status: 103")
			u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeRefusedStream))
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{})
			done := u.start(t.Context(), row.req)
			u.head()
			row.send(u)
			_ = u.wantFailure(done, observe.UpstreamReset, row.sent, row.responded)
			eventually(t, "the place", func() bool { return u.conn.Streams() == 0 })
		})
	}
}

func TestClientFinishesWhatGoAwayLeavesIn(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	first := u.start(t.Context(), get("/1"))
	u.head()
	second := u.start(t.Context(), get("/2"))
	u.head()
	u.do(u.framer.WriteGoAway(1, foreign.ErrCodeNo, nil))
	_ = u.wantFailure(second, observe.UpstreamReset, false, false)
	if u.conn.Reserve() {
		t.Error("a place after GOAWAY")
	}
	u.headers(1, false, ":status: 200")
	u.data(1, true, "ok")
	o := u.wait(first)
	if read(t, o.resp) != "ok" {
		t.Error("the content is lost")
	}
	_ = o.resp.Body.Close()
	u.wantEnded(observe.UpstreamClosed)
}

func TestClientKeepsWithinThePlacesOfItsPeer(t *testing.T) {
	u := dialUpstream(t, ClientOptions{}, foreign.Setting{ID: foreign.SettingMaxConcurrentStreams, Val: 2})
	eventually(t, "the limit", func() bool {
		u.conn.mu.Lock()
		defer u.conn.mu.Unlock()
		return u.conn.peer.maxStreams == 2
	})
	done := u.start(t.Context(), get("/"))
	if !u.conn.Reserve() || u.conn.Reserve() || u.conn.Streams() != 2 {
		t.Fatal("not two places")
	}
	for len(u.room) > 0 {
		<-u.room
	}
	u.conn.Unreserve()
	<-u.room
	u.head()
	u.headers(1, true, ":status: 200")
	_ = u.wait(done).resp.Body.Close()
	<-u.room
	u.do(u.framer.WriteSettings(foreign.Setting{ID: foreign.SettingMaxConcurrentStreams, Val: 3}))
	<-u.room
	places := 0
	for ; u.conn.Reserve(); places++ {
	}
	if places != 3 {
		t.Errorf("%d places", places)
	}
	for range places {
		u.conn.Unreserve()
	}
}

// RFC 9113, Section 5.1.2: "Endpoints MUST NOT exceed the limit set by their peer." Places may have been taken before that was known.
func TestClientBeginsNoStreamAbovePlacesThatItsPeerTakesBack(t *testing.T) {
	u := rawUpstream(t, ClientOptions{})
	for range 2 {
		if !u.conn.Reserve() {
			t.Fatal("no place")
		}
	}
	u.handshake(foreign.Setting{ID: foreign.SettingMaxConcurrentStreams, Val: 1})
	first := make(chan outcome, 1)
	go func() {
		resp, err := u.conn.RoundTrip(t.Context(), get("/first"), nil)
		if err != nil {
			t.Error(err)
		}
		first <- outcome{resp: resp}
	}()
	u.head()
	_, err := u.conn.RoundTrip(t.Context(), get("/second"), nil)
	if e, ok := errors.AsType[*l7.Error](err); !ok || e.Sent || e.Responded || e.Reason != observe.UpstreamReset {
		t.Errorf("a second stream: %v", err)
	}
	u.headers(1, true, ":status: 200")
	_ = u.wait(first).resp.Body.Close()
	third := u.start(t.Context(), get("/third"))
	u.head()
	u.headers(3, true, ":status: 200")
	_ = u.wait(third).resp.Body.Close()
}

func TestClientEndsWhenItsStreamIdentifiersAreUsedUp(t *testing.T) {
	u := dialUpstream(t, ClientOptions{Limits: Limits{MaxStreams: 2}})
	u.conn.mu.Lock()
	u.conn.lastOwn = maxStreamID - 6
	u.conn.mu.Unlock()
	if !u.conn.Reserve() { // the identifiers of both places are kept for them
		t.Fatal("no place")
	}
	done := u.start(t.Context(), get("/"))
	u.head()
	if u.conn.Unreserve(); u.conn.Reserve() {
		t.Error("a place without an identifier")
	}
	u.headers(maxStreamID-4, true, ":status: 200")
	_ = u.wait(done).resp.Body.Close()
	u.wantEnded(observe.Drained)
}

func TestClientDrainsAfterItsLastRequest(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	done := u.start(t.Context(), get("/"))
	u.head()
	u.conn.Drain()
	if u.conn.Reserve() {
		t.Error("a place while draining")
	}
	u.headers(1, true, ":status: 200")
	_ = u.wait(done).resp.Body.Close()
	u.wantGoAway(foreign.ErrCodeNo)
	u.wantEnded(observe.Drained)
	u = dialUpstream(t, ClientOptions{})
	u.conn.Drain()
	u.wantEnded(observe.Drained)
}

func TestClientEndsIdleConnections(t *testing.T) {
	u := dialUpstream(t, ClientOptions{Timeouts: Timeouts{Idle: 50 * time.Millisecond}})
	u.wantGoAway(foreign.ErrCodeNo)
	u.wantEnded(observe.IdleTimeout)
}

func TestClientCloseFailsWhatIsUnderWay(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	done := u.start(t.Context(), get("/"))
	u.head()
	_ = u.conn.Close()
	_ = u.wantFailure(done, observe.UpstreamReset, true, false)
	u.wantEnded(observe.Drained)
}

func TestClientNoticesAConnectionThatIsGone(t *testing.T) {
	u := dialUpstream(t, ClientOptions{Timeouts: Timeouts{Ping: 30 * time.Millisecond, PingAnswer: 60 * time.Millisecond}})
	done := u.start(t.Context(), get("/"))
	for range 3 { // answered: it waits on
		f := u.wantFrame0(foreign.FramePing).(*foreign.PingFrame)
		u.do(u.framer.WritePing(true, f.Data))
	}
	_ = u.wantFailure(done, observe.UpstreamTimeout, true, false) // not answered any more
	u.wantEnded(observe.UpstreamTimeout)
}

func TestClientDoesNotWaitForAResponseForever(t *testing.T) {
	u := dialUpstream(t, ClientOptions{Timeouts: Timeouts{Response: 50 * time.Millisecond}})
	done := u.start(t.Context(), get("/"))
	u.head()
	_ = u.wantFailure(done, observe.UpstreamTimeout, true, false)
	u.wantReset(1, foreign.ErrCodeCancel)
}

func TestClientCancelsOneStreamOnly(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	ctx, cancel := context.WithCancelCause(t.Context())
	first := u.start(ctx, get("/1"))
	u.head()
	second := u.start(t.Context(), get("/2"))
	u.head()
	third := u.start(ctx, get("/3"))
	u.head()
	u.headers(5, false, ":status: 200")
	o := u.wait(third)
	cancel(&l7.Error{Reason: observe.PolicyChanged})
	_ = u.wantFailure(first, observe.PolicyChanged, true, false)
	got := map[uint32]bool{}
	for range 2 {
		f := u.wantFrame(foreign.FrameRSTStream).(*foreign.RSTStreamFrame)
		got[f.StreamID] = f.ErrCode == foreign.ErrCodeCancel
	}
	if !got[1] || !got[5] {
		t.Errorf("%v", got)
	}
	if _, err := io.ReadAll(o.resp.Body); l7.ReasonOf(err, "") != observe.PolicyChanged {
		t.Errorf("the body ended with %v", err)
	}
	_ = o.resp.Body.Close()
	u.data(5, true, "crossed the reset")
	u.headers(1, true, ":status: 200")
	u.headers(3, true, ":status: 200")
	_ = u.wait(second).resp.Body.Close()
}

func TestClientHoldsABodyUntilItIsAskedFor(t *testing.T) {
	expecting := func(body l7.Body) *l7.Request {
		req := post(body, 4)
		req.ExpectContinue = true
		return req
	}
	t.Run("asked for", func(t *testing.T) {
		u := dialUpstream(t, ClientOptions{})
		done := u.start(t.Context(), expecting(l7.NewStringBody("body")))
		head := u.head()
		if !slices.ContainsFunc(head.Fields, func(f hpack.HeaderField) bool { return f.Name == "expect" && f.Value == "100-continue" }) {
			t.Errorf("%v", head.Fields)
		}
		u.ping()
		u.headers(1, false, ":status: 100")
		if f := u.wantFrame(foreign.FrameData).(*foreign.DataFrame); string(f.Data()) != "body" {
			t.Errorf("%q", f.Data())
		}
		u.headers(1, true, ":status: 200")
		_ = u.wait(done).resp.Body.Close()
	})
	t.Run("not in time", func(t *testing.T) {
		u := dialUpstream(t, ClientOptions{Timeouts: Timeouts{Continue: 30 * time.Millisecond}})
		done := u.start(t.Context(), expecting(l7.NewStringBody("body")))
		u.head()
		u.wantFrame(foreign.FrameData)
		u.headers(1, true, ":status: 200")
		_ = u.wait(done).resp.Body.Close()
	})
	t.Run("not wanted", func(t *testing.T) {
		u := dialUpstream(t, ClientOptions{})
		done := u.start(t.Context(), expecting(&readerBody{r: readerFunc(func([]byte) (int, error) { panic("read") })}))
		u.head()
		u.headers(1, true, ":status: 403")
		o := u.wait(done)
		if o.resp.Status != 403 {
			t.Errorf("%d", o.resp.Status)
		}
		_ = o.resp.Body.Close()
		u.wantReset(1, foreign.ErrCodeCancel)
	})
}

// blocked is a body that waits until it is closed.
func blocked() *readerBody {
	closed := make(chan struct{})
	return &readerBody{
		r:       readerFunc(func([]byte) (int, error) { <-closed; return 0, errBodyClosed }),
		onClose: func() { close(closed) },
	}
}

// RFC 9113, Section 8.1: "Clients MUST NOT discard responses as a result of receiving such a RST_STREAM".
func TestClientStopsTheUploadAfterAnEarlyResponse(t *testing.T) {
	for name, reset := range map[string]bool{"with a reset": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{})
			done := u.start(t.Context(), post(blocked(), -1))
			u.head()
			u.headers(1, false, ":status: 413")
			u.data(1, true, "too much")
			if reset {
				u.do(u.framer.WriteRSTStream(1, foreign.ErrCodeNo))
			}
			o := u.wait(done)
			if o.err != nil || read(t, o.resp) != "too much" {
				t.Fatalf("%+v", o)
			}
			_ = o.resp.Body.Close()
			if !reset {
				u.wantReset(1, foreign.ErrCodeCancel)
			}
			u.ping()
		})
	}
}

func TestClientBlamesTheBodyOfTheRequest(t *testing.T) {
	broken := &l7.Error{Reason: observe.RequestTimeout, Status: 408}
	for name, body := range map[string]l7.Body{
		"broken": &readerBody{r: io.MultiReader(strings.NewReader("half"), &failing{broken})},
		"short":  &readerBody{r: strings.NewReader("half")},
		"long":   l7.NewStringBody("12345678901"),
		"panics": &readerBody{r: &panicking{}},
	} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{})
			done := u.start(t.Context(), post(body, 10))
			o := u.wait(done)
			if o.err == nil || o.err.Side != l7.Downstream || !o.err.Sent {
				t.Fatalf("%+v", o.err)
			}
			if name == "broken" && o.err.Reason != observe.RequestTimeout {
				t.Errorf("%v", o.err)
			}
			u.head()
			u.wantReset(1, foreign.ErrCodeCancel)
		})
	}
}

func TestClientUploadsWithinTheWindows(t *testing.T) {
	u := dialUpstream(t, ClientOptions{}, foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 10})
	eventually(t, "the window", func() bool {
		u.conn.mu.Lock()
		defer u.conn.mu.Unlock()
		return u.conn.peer.initialWindow == 10
	})
	done := u.start(t.Context(), post(&readerBody{r: strings.NewReader(fill(100))}, 100))
	u.head()
	u.content(10)
	u.do(u.framer.WriteWindowUpdate(1, 90))
	u.content(90)
	u.headers(1, true, ":status: 200")
	_ = u.wait(done).resp.Body.Close()
}

func TestClientRefusesRequestsThatAreNotCanonical(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	for name, req := range map[string]*l7.Request{
		"path with a query": get("/a?b"),
		"space":             get("/a b"),
		"no path":           get(""),
		"CR LF":             get("/\r\nx"),
		"no authority":      {Method: "GET", Path: "/"},
		"CONNECT":           {Method: "CONNECT", Authority: "a", Path: "/"},
		"method":            {Method: "GE T", Authority: "a", Path: "/"},
	} {
		if !u.conn.Reserve() {
			t.Fatal("no place")
		}
		if _, err := u.conn.RoundTrip(t.Context(), req, nil); l7.ReasonOf(err, "") != observe.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	if u.conn.Streams() > 0 {
		t.Error("places are lost")
	}
}

func TestClientEndsALyingUpstream(t *testing.T) {
	for name, row := range map[string]struct {
		send func(u *upstream)
		code foreign.ErrCode
	}{
		"response to nothing": {func(u *upstream) { u.headers(7, true, ":status: 200") }, foreign.ErrCodeProtocol},
		"content of nothing":  {func(u *upstream) { u.data(7, true, "x") }, foreign.ErrCodeProtocol},
		"stream of a server":  {func(u *upstream) { u.headers(2, true, ":status: 200") }, foreign.ErrCodeProtocol},
		"second response":     {func(u *upstream) { u.headers(1, true, ":status: 200"); u.headers(1, true, ":status: 200") }, foreign.ErrCodeStreamClosed},
		"push enabled": {func(u *upstream) {
			u.do(u.framer.WriteSettings(foreign.Setting{ID: foreign.SettingEnablePush, Val: 1}))
		}, foreign.ErrCodeProtocol},
		"window too large": {func(u *upstream) { u.do(u.framer.WriteWindowUpdate(0, maxWindow)) }, foreign.ErrCodeFlowControl},
		"frame too large":  {func(u *upstream) { u.write("\x00\x40\x01\x00\x00\x00\x00\x00\x01") }, foreign.ErrCodeFrameSize},
		"PING flood": {func(u *upstream) {
			for range 2000 {
				if u.framer.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		}, foreign.ErrCodeEnhanceYourCalm},
	} {
		t.Run(name, func(t *testing.T) {
			u := dialUpstream(t, ClientOptions{})
			done := u.start(t.Context(), get("/"))
			u.head()
			row.send(u)
			u.wantGoAway(row.code)
			if o := u.wait(done); o.resp != nil {
				_ = o.resp.Body.Close()
			}
			reason := observe.ProtocolError
			if row.code == foreign.ErrCodeEnhanceYourCalm {
				reason = observe.Abuse
			}
			u.wantEnded(reason)
		})
	}
}

func TestClientEndsAnUpstreamThatGoesOnAfterItsResponse(t *testing.T) {
	u := dialUpstream(t, ClientOptions{})
	done := u.start(t.Context(), post(blocked(), -1))
	u.head()
	u.headers(1, true, ":status: 200")
	u.headers(1, true, "x: 1")
	u.wantGoAway(foreign.ErrCodeStreamClosed)
	_ = u.wait(done).resp.Body.Close()
	u.wantEnded(observe.ProtocolError)
}

func TestClientWaitsForSettingsNotForever(t *testing.T) {
	u := rawUpstream(t, ClientOptions{Timeouts: Timeouts{Head: 50 * time.Millisecond}})
	done := u.start(t.Context(), get("/"))
	_ = u.wantFailure(done, observe.UpstreamTimeout, true, false)
	u.wantEnded(observe.UpstreamTimeout)
}

func TestClientCarriesManyRequestsAtOnce(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo)})
	p := newProxy(t, s.address, ClientOptions{})
	var running sync.WaitGroup
	for i := range 50 {
		running.Go(func() {
			for j := range 10 {
				c, err := p.take()
				if err != nil {
					t.Error(err)
					return
				}
				content := fill(i * j * 131)
				resp, err := c.RoundTrip(t.Context(), post(&readerBody{r: strings.NewReader(content)}, int64(len(content))), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got := read(t, resp); got != "POST up.example / "+content {
					t.Errorf("%d bytes came back of %d", len(got), len(content))
				}
				_ = resp.Body.Close()
			}
		})
	}
	running.Wait()
	if p.dials != 1 {
		t.Errorf("%d connections", p.dials)
	}
}
