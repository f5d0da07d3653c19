package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// patienceOfTests is how long a test waits for what must happen.
const patienceOfTests = 5 * time.Second

// testServer is an engine behind a real socket.
type testServer struct {
	t       testing.TB
	address string
	reasons chan observe.Reason
	conns   chan *ServerConn
	cancel  context.CancelCauseFunc
}

func startServer(t testing.TB, options ServerOptions) *testServer {
	t.Helper()
	if options.Timeouts.Linger == 0 {
		options.Timeouts.Linger = 100 * time.Millisecond
	}
	s := &testServer{t: t, reasons: make(chan observe.Reason, 1000), conns: make(chan *ServerConn, 1000)}
	server := NewServer(options)
	ctx, cancel := context.WithCancelCause(t.Context())
	s.cancel = cancel
	s.address = listen(t, func(conn *net.TCPConn) {
		c := server.NewConn(&countedStream{conn})
		s.conns <- c
		s.reasons <- c.Serve(ctx)
	}, func() { cancel(nil) })
	return s
}

// listen accepts connections until the test ends; it then calls stop and waits for all of them.
func listen(t testing.TB, serve func(*net.TCPConn), stop func()) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				serve(conn.(*net.TCPConn))
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		if stop != nil {
			stop()
		}
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func (s *testServer) wantReason(want observe.Reason) {
	s.t.Helper()
	select {
	case got := <-s.reasons:
		if got != want {
			s.t.Errorf("connection ended for %q, want %q", got, want)
		}
	case <-time.After(patienceOfTests):
		s.t.Fatal("connection did not end")
	}
}

// dial connects and says nothing.
func (s *testServer) dial() *peer {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	return newPeer(s.t, conn.(*net.TCPConn))
}

// client connects and exchanges prefaces.
func (s *testServer) client(settings ...foreign.Setting) *peer {
	s.t.Helper()
	p := s.dial()
	p.write(preface)
	p.do(p.framer.WriteSettings(settings...))
	p.wantFrame(foreign.FrameSettings)
	p.do(p.framer.WriteSettingsAck())
	return p
}

// peer speaks frames.
type peer struct {
	t       testing.TB
	conn    *net.TCPConn
	framer  *foreign.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newPeer(t testing.TB, conn *net.TCPConn) *peer {
	p := &peer{t: t, conn: conn, framer: foreign.NewFramer(conn, conn)}
	p.encoder = hpack.NewEncoder(&p.block)
	p.framer.AllowIllegalWrites = true
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patienceOfTests))
	return p
}

func (p *peer) do(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) write(raw string) {
	p.t.Helper()
	_, err := io.WriteString(p.conn, raw)
	p.do(err)
}

// fields encodes "name: value" lines.
func (p *peer) fields(lines ...string) []byte {
	p.block.Reset()
	for _, line := range lines {
		i := strings.Index(line[1:], ": ") + 1
		p.do(p.encoder.WriteField(hpack.HeaderField{Name: line[:i], Value: line[i+2:]}))
	}
	return bytes.Clone(p.block.Bytes())
}

// headers sends a whole field block.
func (p *peer) headers(stream uint32, end bool, lines ...string) {
	p.t.Helper()
	p.do(p.begin(stream, end, lines...))
}

// begin is headers for a connection that may have ended.
func (p *peer) begin(stream uint32, end bool, lines ...string) error {
	return p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: stream, BlockFragment: p.fields(lines...), EndHeaders: true, EndStream: end})
}

// get sends a request without a body.
func (p *peer) get(stream uint32, path string) {
	p.t.Helper()
	p.headers(stream, true, request("GET", path)...)
}

// post sends the head of a request whose body follows.
func (p *peer) post(stream uint32, path string, more ...string) {
	p.t.Helper()
	p.headers(stream, false, request("POST", path, more...)...)
}

func request(method, path string, more ...string) []string {
	return append([]string{":method: " + method, ":scheme: http", ":authority: a.example", ":path: " + path}, more...)
}

func (p *peer) data(stream uint32, end bool, content string) {
	p.t.Helper()
	p.do(p.framer.WriteData(stream, end, []byte(content)))
}

// frame reads the next frame.
func (p *peer) frame() foreign.Frame {
	p.t.Helper()
	f, err := p.framer.ReadFrame()
	if err != nil {
		p.t.Fatalf("read frame: %v", err)
	}
	return f
}

// wantFrame reads up to a frame of that type, over those that keep the connection going.
func (p *peer) wantFrame(kind foreign.FrameType) foreign.Frame {
	p.t.Helper()
	for {
		f := p.frame()
		if f.Header().Type == kind {
			return f
		}
		switch f.Header().Type {
		case foreign.FrameSettings, foreign.FrameWindowUpdate, foreign.FramePing:
		default:
			p.t.Fatalf("got %v, want %v", f, kind)
		}
	}
}

func (p *peer) wantReset(stream uint32, code foreign.ErrCode) {
	p.t.Helper()
	for {
		switch f := p.frame().(type) {
		case *foreign.RSTStreamFrame:
			if f.StreamID != stream || f.ErrCode != code {
				p.t.Fatalf("got %v with %v, want %v of stream %d", f, f.ErrCode, code, stream)
			}
			return
		case *foreign.GoAwayFrame:
			p.t.Fatalf("got %v", f)
		}
	}
}

func (p *peer) wantGoAway(code foreign.ErrCode) *foreign.GoAwayFrame {
	p.t.Helper()
	for {
		if f, ok := p.frame().(*foreign.GoAwayFrame); ok {
			if f.ErrCode != code {
				p.t.Fatalf("got %v with %v, want %v", f, f.ErrCode, code)
			}
			return f
		}
	}
}

// wantEnd reads to the end of the connection.
func (p *peer) wantEnd() {
	p.t.Helper()
	for {
		_, err := p.framer.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Fatal("connection did not end")
		}
		if err != nil {
			return
		}
	}
}

// ping waits until everything that was sent before has been handled.
func (p *peer) ping() {
	p.t.Helper()
	p.do(p.framer.WritePing(false, [8]byte{9}))
	for {
		if f, ok := p.frame().(*foreign.PingFrame); ok && f.IsAck() {
			return
		}
	}
}

// answer is what a peer saw of one response.
type answer struct {
	status  string
	header  map[string]string
	body    string
	trailer map[string]string
	// reset is how the stream ended early.
	reset *foreign.ErrCode
	// frames are the types of frames in their order.
	frames []foreign.FrameType
}

// responses reads until that many streams have ended, acknowledging content as it comes.
func (p *peer) responses(count int) map[uint32]*answer {
	p.t.Helper()
	all := map[uint32]*answer{}
	of := func(id uint32) *answer {
		if all[id] == nil {
			all[id] = &answer{header: map[string]string{}, trailer: map[string]string{}}
		}
		return all[id]
	}
	for count > 0 {
		f := p.frame()
		id, end := f.Header().StreamID, false
		switch f := f.(type) {
		case *foreign.MetaHeadersFrame:
			a := of(id)
			a.frames = append(a.frames, foreign.FrameHeaders)
			into := a.header
			if a.status != "" && a.status[0] != '1' {
				into = a.trailer
			}
			for _, field := range f.Fields {
				if field.Name == ":status" {
					a.status = field.Value
				}
				into[field.Name] = field.Value
			}
			end = f.StreamEnded()
		case *foreign.DataFrame:
			a := of(id)
			a.frames = append(a.frames, foreign.FrameData)
			a.body += string(f.Data())
			if n := len(f.Data()); n > 0 {
				_ = p.framer.WriteWindowUpdate(0, uint32(n))
				_ = p.framer.WriteWindowUpdate(id, uint32(n))
			}
			end = f.StreamEnded()
		case *foreign.RSTStreamFrame:
			a := of(id)
			if a.status == "" || f.ErrCode != foreign.ErrCodeNo {
				end = true
			}
			a.reset = &f.ErrCode
		case *foreign.GoAwayFrame:
			if f.ErrCode != foreign.ErrCodeNo {
				p.t.Fatalf("got %v", f)
			}
		}
		if end {
			count--
		}
	}
	return all
}

// response reads the response of one stream.
func (p *peer) response(id uint32) *answer {
	p.t.Helper()
	return p.responses(1)[id]
}

func (p *peer) want(id uint32, status, body string) *answer {
	p.t.Helper()
	got := p.response(id)
	if got == nil || got.status != status || got.body != body || got.reset != nil {
		p.t.Fatalf("got %+v, want %s %q", got, status, body)
	}
	return got
}

// echo answers with what it understood of the request and its body.
func echo(_ context.Context, ex l7.Exchange) {
	req := ex.Request()
	text := req.Method + " " + req.Authority + " " + req.Path
	if req.RawQuery != "" {
		text += "?" + req.RawQuery
	}
	if req.Body != nil {
		content, err := io.ReadAll(req.Body)
		if err != nil {
			e := asError(err, l7.Downstream, observe.Internal, observe.Internal)
			_ = ex.WriteResponse(stringResponse(e.Status, e.Reason.String()))
			return
		}
		text += " " + string(content)
		for name, value := range req.Body.Trailer().All() {
			text += " " + name + "=" + value
		}
	}
	_ = ex.WriteResponse(stringResponse(200, text))
}

func stringResponse(status int, text string) *l7.Response {
	return &l7.Response{Status: status, ContentLength: int64(len(text)), Body: l7.NewStringBody(text)}
}

func echoServer(t testing.TB) *testServer {
	return startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo)})
}

// proxyTo forwards every request to the address over one connection, and a new one when that takes no more.
type proxyTo struct {
	t       testing.TB
	address string
	client  *Client

	mu      sync.Mutex
	conn    *ClientConn
	dials   int
	running sync.WaitGroup
}

func newProxy(t testing.TB, address string, options ClientOptions) *proxyTo {
	if options.Timeouts.Linger == 0 {
		options.Timeouts.Linger = 100 * time.Millisecond
	}
	p := &proxyTo{t: t, address: address, client: NewClient(options)}
	t.Cleanup(func() {
		p.mu.Lock()
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

func (p *proxyTo) take() (*ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil && p.conn.Reserve() {
		return p.conn, nil
	}
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		return nil, err
	}
	p.dials++
	p.running.Add(1)
	p.conn = p.client.NewConn(&countedStream{conn.(*net.TCPConn)}, ClientEvents{Ended: func(observe.Reason) { p.running.Done() }})
	if !p.conn.Reserve() {
		return nil, errors.New("no place on a new connection")
	}
	return p.conn, nil
}

// ServeExchange implements l7.Handler.
func (p *proxyTo) ServeExchange(ctx context.Context, ex l7.Exchange) {
	c, err := p.take()
	if err != nil {
		_ = ex.WriteResponse(stringResponse(503, err.Error()))
		return
	}
	resp, err := c.RoundTrip(ctx, ex.Request(), func(status int, h *l7.Header) { _ = ex.Informational(status, h) })
	if err != nil {
		e := asError(err, l7.Upstream, observe.Internal, observe.Internal)
		if e.Side == l7.Downstream {
			ex.Abort()
			return
		}
		_ = ex.WriteResponse(stringResponse(e.Status, e.Reason.String()))
		return
	}
	if resp.Status == 101 {
		p.tunnel(ex, resp)
		return
	}
	_ = ex.WriteResponse(resp)
	_ = resp.Body.Close()
}

func (p *proxyTo) tunnel(ex l7.Exchange, resp *l7.Response) {
	up, err := l7.Tunnel(resp)
	if err != nil {
		p.t.Error(err)
		return
	}
	down, err := ex.Tunnel(resp)
	if err != nil {
		p.t.Error(err)
		_ = up.Close()
		return
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(up, down)
		_ = up.CloseWrite()
	})
	_, _ = io.Copy(down, up)
	_ = down.CloseWrite()
	copying.Wait()
	_ = up.Close()
	_ = down.Close()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(patienceOfTests)
	for !ok() {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

func fill(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }
