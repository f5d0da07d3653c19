package http2

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// pipe is one end of an in-memory connection as an l7.Stream.
type pipe struct{ net.Conn }

func (p *pipe) CloseWrite() error { return nil }

// conversation builds what a client sends after its preface.
func conversation(build func(f *foreign.Framer, block func(lines ...string) []byte)) []byte {
	var out bytes.Buffer
	framer := foreign.NewFramer(&out, nil)
	framer.AllowIllegalWrites = true
	var fields bytes.Buffer
	encoder := hpack.NewEncoder(&fields)
	_ = framer.WriteSettings()
	build(framer, func(lines ...string) []byte {
		fields.Reset()
		for _, line := range lines {
			i := strings.Index(line[1:], ": ") + 1
			_ = encoder.WriteField(hpack.HeaderField{Name: line[:i], Value: line[i+2:]})
		}
		return bytes.Clone(fields.Bytes())
	})
	return out.Bytes()
}

func clientConversations() [][]byte {
	type blocks = func(...string) []byte
	headers := func(f *foreign.Framer, id uint32, end bool, block []byte) {
		_ = f.WriteHeaders(foreign.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: end})
	}
	return [][]byte{
		conversation(func(f *foreign.Framer, b blocks) { headers(f, 1, true, b(request("GET", "/", "x: 1")...)) }),
		conversation(func(f *foreign.Framer, b blocks) {
			headers(f, 1, false, b(request("POST", "/", "content-length: 5")...))
			_ = f.WriteDataPadded(1, false, []byte("12345"), make([]byte, 3))
			headers(f, 1, true, b("x-sum: 1"))
			headers(f, 3, false, b(extended("websocket")...))
			_ = f.WriteData(3, false, []byte("hello"))
			_ = f.WriteWindowUpdate(3, 10)
			_ = f.WriteRSTStream(3, foreign.ErrCodeCancel)
		}),
		conversation(func(f *foreign.Framer, b blocks) {
			_ = f.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1}, foreign.Setting{ID: foreign.SettingMaxFrameSize, Val: 1 << 15})
			_ = f.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: b(":method: GET", ":scheme: http"), EndStream: true, PadLength: 2, Priority: foreign.PriorityParam{StreamDep: 3}})
			_ = f.WriteContinuation(1, true, b(":path: /", ":authority: a", "cookie: a", "cookie: b", "te: trailers"))
			_ = f.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 100})
			_ = f.WritePing(false, [8]byte{1})
			_ = f.WritePriority(1, foreign.PriorityParam{StreamDep: 5})
			_ = f.WriteWindowUpdate(0, 100)
			_ = f.WriteGoAway(0, foreign.ErrCodeNo, []byte("bye"))
			_ = f.WriteRawFrame(0x20, 0xff, 9, []byte("unknown"))
		}),
	}
}

// FuzzServerConn feeds bytes to a whole connection: it must end, for a reason, and a handler must never see a whole message that
// is not of its length.
func FuzzServerConn(f *testing.F) {
	for _, seed := range clientConversations() {
		f.Add(seed)
	}
	server := NewServer(ServerOptions{
		Handler:  l7.HandlerFunc(readAll),
		Timeouts: Timeouts{Head: time.Second, Idle: time.Second, Body: time.Second, StreamIdle: time.Second, Write: time.Second, Linger: time.Millisecond},
	})
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := net.Pipe()
		reasons := make(chan observe.Reason, 1)
		go func() { reasons <- server.NewConn(&pipe{ours}).Serve(t.Context()) }()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_ = theirs.SetWriteDeadline(time.Now().Add(patienceOfTests))
		_, _ = io.WriteString(theirs, preface)
		_, _ = theirs.Write(raw)
		_ = theirs.Close()
		select {
		case reason := <-reasons:
			if reason == "" || reason == observe.Internal {
				t.Errorf("ended for %q", reason)
			}
		case <-time.After(patienceOfTests):
			t.Fatal("the connection did not end")
		}
	})
}

// readAll panics, which fails the fuzz test as a refused request does not, when a body that ended is not of its length.
func readAll(_ context.Context, ex l7.Exchange) {
	req := ex.Request()
	if req.Body != nil {
		n, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			ex.Abort()
			return
		}
		if req.ContentLength >= 0 && n != req.ContentLength {
			go panic("a body that is not of its length was told to be whole")
		}
	}
	if req.Upgrade != "" {
		if tunnel, err := ex.Tunnel(&l7.Response{Status: 101}); err == nil {
			_, _ = io.Copy(tunnel, tunnel)
			_ = tunnel.Close()
		}
		return
	}
	_ = ex.WriteResponse(stringResponse(200, "thanks"))
}

// FuzzClientConn feeds an upstream's bytes to a connection with a request on it.
func FuzzClientConn(f *testing.F) {
	type blocks = func(...string) []byte
	headers := func(f *foreign.Framer, end bool, block []byte) {
		_ = f.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: end})
	}
	f.Add(conversation(func(f *foreign.Framer, b blocks) {
		headers(f, false, b(":status: 103", "link: x"))
		headers(f, false, b(":status: 200", "content-length: 5"))
		_ = f.WriteData(1, false, []byte("12345"))
		headers(f, true, b("x: 1"))
	}))
	f.Add(conversation(func(f *foreign.Framer, b blocks) {
		headers(f, true, b(":status: 204"))
		_ = f.WriteGoAway(1, foreign.ErrCodeNo, nil)
	}))
	f.Add(conversation(func(f *foreign.Framer, _ blocks) { _ = f.WriteRSTStream(1, foreign.ErrCodeRefusedStream) }))
	client := NewClient(ClientOptions{Timeouts: Timeouts{Head: time.Second, Idle: time.Second, Body: time.Second, Response: time.Second, StreamIdle: time.Second, Write: time.Second, Linger: time.Millisecond}})
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := net.Pipe()
		ended := make(chan observe.Reason, 1)
		c := client.NewConn(&pipe{ours}, ClientEvents{Ended: func(reason observe.Reason) { ended <- reason }})
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			_ = theirs.SetWriteDeadline(time.Now().Add(patienceOfTests))
			_, _ = theirs.Write(raw)
			_ = theirs.Close()
		}()
		if c.Reserve() {
			resp, err := c.RoundTrip(t.Context(), get("/"), nil)
			if err == nil {
				n, err := io.Copy(io.Discard, resp.Body)
				if err == nil && resp.ContentLength >= 0 && l7.HasBody("GET", resp.Status) && n != resp.ContentLength {
					t.Errorf("%d bytes of %d told to be whole", n, resp.ContentLength)
				}
				_ = resp.Body.Close()
			}
		}
		select {
		case <-ended:
		case <-time.After(patienceOfTests):
			t.Fatal("the connection did not end")
		}
	})
}

// decode takes a field block as a connection does.
func decode(kind blockKind, raw []byte) *block {
	limits := Limits{}.withDefaults()
	b := &block{limits: &limits}
	b.begin(kind)
	decoder := hpack.NewDecoder(headerTable, b.emit)
	if _, err := decoder.Write(raw); err != nil || decoder.Close() != nil {
		return nil
	}
	return b
}

// FuzzRequestBlock: what is accepted and encoded anew means the same to another decoder, and holds nothing that ends a line or a
// target on HTTP/1.
func FuzzRequestBlock(f *testing.F) {
	encode := func(lines []string) []byte {
		return conversation(func(fr *foreign.Framer, b func(...string) []byte) {
			_ = fr.WriteRawFrame(0, 0, 0, b(lines...))
		})[2*frameHead:]
	}
	f.Add(encode(request("GET", "/a?b", "x: 1", "cookie: a=b", "cookie: c")), true)
	f.Add(encode(request("POST", "/", "content-length: 5", "te: trailers", "expect: 100-continue")), false)
	f.Add(encode(extended("websocket", "sec-websocket-version: 13")), false)
	f.Add(encode(request("OPTIONS", "*", "host: a.example")), true)
	f.Fuzz(func(t *testing.T, raw []byte, end bool) {
		b := decode(requestHead, raw)
		if b == nil {
			return
		}
		var r l7.Request
		b.request(&r, "http", end)
		if b.err != nil {
			if b.err.Status < 400 || b.err.Reason == "" {
				t.Fatalf("refused with %+v", b.err)
			}
			return
		}
		if strings.ContainsAny(r.Authority+r.Path+r.RawQuery, " \r\n\x00#") || strings.Contains(r.Authority, "@") || !l7.IsToken(r.Method) || r.Authority == "" {
			t.Fatalf("%+v", r)
		}
		for name, value := range r.Header.All() {
			if !l7.IsToken(name) || strings.ToLower(name) != name || strings.ContainsAny(value, "\r\n\x00") || strings.Trim(value, " \t") != value || l7.IsConnectionField(name) {
				t.Fatalf("field %q: %q", name, value)
			}
		}
		if checkForwardable(&r) == nil {
			compareRequest(t, &r, end)
		}
	})
}

// compareRequest encodes the request and reads it again.
func compareRequest(t *testing.T, r *l7.Request, end bool) {
	t.Helper()
	if !end && r.Upgrade == "" {
		r.Body = l7.NewStringBody("")
	}
	again := decode(requestHead, appendRequest(nil, r))
	if again == nil {
		t.Fatal("what was written cannot be read")
	}
	var second l7.Request
	again.request(&second, "http", end)
	if again.err != nil && again.err.Reason == observe.HeadTooLarge {
		return // names and values as they are may take what the key of a WebSocket adds
	}
	if again.err != nil || r.Method != second.Method || r.Authority != second.Authority || r.Path != second.Path || r.RawQuery != second.RawQuery ||
		r.ContentLength != second.ContentLength || r.Upgrade != second.Upgrade || r.AcceptsTrailers != second.AcceptsTrailers {
		t.Fatalf("%v: %+v became %+v", again.err, r, &second)
	}
	r.Header.Del(fieldWebSocketKey)
	second.Header.Del(fieldWebSocketKey)
	if fieldsOf(&r.Header) != fieldsOf(&second.Header) {
		t.Fatalf("%q became %q", fieldsOf(&r.Header), fieldsOf(&second.Header))
	}
}

func fieldsOf(h *l7.Header) string {
	var text strings.Builder
	for name, value := range h.All() {
		text.WriteString(name + ": " + value + "\n")
	}
	return text.String()
}

func FuzzResponseBlock(f *testing.F) {
	encode := func(lines ...string) []byte {
		return conversation(func(fr *foreign.Framer, b func(...string) []byte) {
			_ = fr.WriteRawFrame(0, 0, 0, b(lines...))
		})[2*frameHead:]
	}
	f.Add(encode(":status: 200", "content-length: 5", "x_y: 1", "set-cookie: a"), "GET", false)
	f.Add(encode(":status: 204"), "GET", true)
	f.Add(encode(":status: 304", "content-length: 5"), "HEAD", true)
	f.Fuzz(func(t *testing.T, raw []byte, method string, end bool) {
		b := decode(responseHead, raw)
		if b == nil {
			return
		}
		var r l7.Response
		b.response(&r, method, end)
		if b.err != nil {
			return
		}
		if r.Status < 100 || r.Status > 999 || r.Status == 101 {
			t.Fatalf("status %d", r.Status)
		}
		for name, value := range r.Header.All() {
			if !l7.IsToken(name) || strings.ToLower(name) != name || strings.ContainsAny(value, "\r\n\x00") || l7.IsConnectionField(name) {
				t.Fatalf("field %q: %q", name, value)
			}
		}
	})
}

// FuzzEncode: any fields that a header can hold are read by another decoder as they were given.
func FuzzEncode(f *testing.F) {
	f.Add("content-type", "text/plain", "x", "", 200)
	f.Add("set-cookie", fill(200), "cookie", fill(20000), 599)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, status int) {
		if status < 200 || status > 999 || name1 == "" || name2 == "" {
			return
		}
		var header l7.Header
		header.Add(name1, value1)
		header.Add(name2, value2)
		frames := frameBlock(append(beginBlock(make([]byte, frameHead)), appendFields(appendStatus(nil, status), &header)...), true)
		setStream(frames, 7)
		framer := foreign.NewFramer(nil, bytes.NewReader(frames))
		var got []hpack.HeaderField
		decoder := hpack.NewDecoder(headerTable, func(f hpack.HeaderField) { got = append(got, f) })
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				break
			}
			var fragment []byte
			switch frame := frame.(type) {
			case *foreign.HeadersFrame:
				fragment = frame.HeaderBlockFragment()
			case *foreign.ContinuationFrame:
				fragment = frame.HeaderBlockFragment()
			}
			if _, err := decoder.Write(fragment); err != nil || frame.Header().StreamID != 7 {
				t.Fatal(err)
			}
		}
		i := 1
		for name, value := range header.All() {
			if l7.IsConnectionField(name) {
				continue
			}
			if got[i].Name != name || got[i].Value != value || got[i].Sensitive != isSecret(name) {
				t.Fatalf("got %+v for %q: %q", got[i], name, value)
			}
			i++
		}
		if i != len(got) {
			t.Fatalf("%d fields for %d", len(got), i)
		}
	})
}
