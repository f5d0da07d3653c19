package corpus

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// outcome is what a client saw.
type outcome struct {
	source string // its address, by which the access log knows it
	first  answer
	after  answer // to the request behind it on the same connection, when there was one to send
	extra  string // bytes that no request asked for
	closed bool   // the connection ended by itself
	err    string // what the client could not make sense of
}

// answer is a response, or what ended instead of it.
type answer struct {
	record
	code  int // status
	infos []int
	reset bool // over HTTP/2: the stream or the connection ended with an error
	error uint32
	given bool // a head came
}

// patience is how long a client waits for anything: more than any timeout of the proxy's in this test.
const patience = 12 * time.Second

// afterwards is sent behind a case on the same connection: it must be answered for itself.
const afterwards = "/ok"

// before is a good request that a case may stand behind.
var before = h1("POST", afterwards, "X-Tier: gold", "X-After: 1", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"

// dialer connects to a listener.
type dialer func(h2 bool) (net.Conn, error)

// inPieces cuts what is written into many segments.
func inPieces(dial dialer) dialer {
	return func(h2 bool) (net.Conn, error) {
		conn, err := dial(h2)
		if err != nil {
			return nil, err
		}
		return pieces{conn}, nil
	}
}

type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (n int, err error) {
	size := max(1, len(b)/200)
	for len(b) > 0 && err == nil {
		var m int
		m, err = p.Conn.Write(b[:min(size, len(b))])
		n, b = n+m, b[m:]
	}
	return n, err
}

// runHTTP1 sends a case's bytes and what belongs behind them; behind says to send a good request before them, in the same bytes.
func runHTTP1(dial dialer, c *testCase, behind bool) (out outcome) {
	conn, err := dial(false)
	if err != nil {
		out.err = err.Error()
		return out
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	out.source = conn.LocalAddr().String()
	text := c.send
	if c.want.seen == nil && c.want.closes && !strings.HasSuffix(text, unfinished) {
		text += smuggled
	}
	text = strings.TrimSuffix(text, unfinished)
	method, _, _ := strings.Cut(c.send, " ")
	if behind {
		text = before + text
	}
	go func() { _, _ = io.WriteString(conn, text) }() // it may be refused before it is written
	in := &input{conn: conn}
	if behind {
		var first answer
		if in.answer(&out, &first, "POST"); first.code != 200 {
			out.err = fmt.Sprintf("the request before it was answered with %d %s", first.code, out.err)
			return out
		}
	}
	in.answer(&out, &out.first, method)
	if out.first.upgraded && c.want.tunnel { // nothing in it is a request any more
		_, _ = io.WriteString(conn, smuggled)
		for out.first.body = string(in.buf); len(out.first.body) < len(smuggled) && in.more() == nil; {
			out.first.body = string(in.buf)
		}
		return out
	}
	if !out.first.whole && out.closed { // half an answer, and the end
		return out
	}
	if out.err != "" || in.ended && len(in.buf) == 0 || out.first.upgraded || strings.EqualFold(out.first.value("connection"), "close") {
		in.drain(&out)
		return out
	}
	if c.want.seen == nil && c.want.closes { // it should have ended: whatever comes is told
		in.drain(&out)
		return out
	}
	_, _ = io.WriteString(conn, h1("GET", afterwards, "X-Tier: gold", "X-After: 1", "Connection: close"))
	in.answer(&out, &out.after, "GET")
	in.drain(&out)
	return out
}

// unfinished at the end of a case's bytes says that nothing comes behind them.
const unfinished = "<unfinished>"

// input is the bytes that a client gets.
type input struct {
	conn  net.Conn
	buf   []byte
	ended bool
}

// more reads once.
func (in *input) more() error {
	buf := make([]byte, 32<<10)
	n, err := in.conn.Read(buf)
	in.buf = append(in.buf, buf[:n]...)
	if err != nil {
		in.ended = true
	}
	if n > 0 {
		return nil
	}
	return err
}

// answer reads one response, after any number of informational ones.
func (in *input) answer(out *outcome, a *answer, method string) {
	for {
		rec, rest, err := reader{}.response(in.buf, method, in.ended)
		a.given = a.given || err == nil || rec.first != "" && len(rec.fields) > 0
		switch {
		case err == nil && rec.status() < 200 && rec.status() != 101:
			a.infos = append(a.infos, rec.status())
			in.buf = rest
			continue
		case err == nil:
			a.record, a.code, in.buf = rec, rec.status(), rest
			return
		case !errors.Is(err, errMore):
			if c := in.frames(); c {
				out.extra, out.closed = string(in.buf), in.ended
				return
			}
			out.err = fmt.Sprintf("%v in %q", err, abbreviate(in.buf))
			return
		case in.ended:
			a.record, a.code = rec, rec.status()
			out.closed = true
			return
		}
		if err := in.more(); err != nil && !in.ended {
			out.err = err.Error()
			return
		} else if timedOut(err) {
			out.err = "no answer in time"
			return
		}
	}
}

// frames reads to the end when what came are frames of HTTP/2.
func (in *input) frames() bool {
	if !bytes.HasPrefix(in.buf, []byte("\x00\x00")) {
		return false
	}
	for !in.ended && in.more() == nil {
	}
	return true
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// drain reads to the end of the connection, which has to come by itself.
func (in *input) drain(out *outcome) {
	_ = in.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	for !in.ended {
		if err := in.more(); timedOut(err) {
			out.extra = string(in.buf)
			return
		}
	}
	out.extra, out.closed = string(in.buf), true
}

func abbreviate(b []byte) string {
	if len(b) > 2000 {
		return string(b[:1000]) + "..." + string(b[len(b)-900:])
	}
	return string(b)
}

// runHTTP2 sends a case's frames on stream 1 and a good request on stream 3 when that is answered.
func runHTTP2(dial dialer, c *testCase) (out outcome) {
	conn, err := dial(true)
	if err != nil {
		out.err = err.Error()
		return out
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	out.source = conn.LocalAddr().String()
	client := newH2Client(conn)
	if p, cut := conn.(pieces); cut {
		conn = p.Conn
	}
	_, client.secured = conn.(*tls.Conn)
	go client.send(1, c.frames)
	client.answer(1, &out, &out.first)
	if out.err != "" || out.closed {
		return out
	}
	client.send(3, h2("GET", afterwards, "x-tier", "gold", "x-after", "1"))
	client.answer(3, &out, &out.after)
	return out
}

// h2Client is one connection of a client of HTTP/2.
type h2Client struct {
	conn    net.Conn
	mu      sync.Mutex // guards writing
	framer  *http2.Framer
	encoder *hpack.Encoder
	decoder *hpack.Decoder
	block   bytes.Buffer
	goAway  uint32
	secured bool // :scheme http is written as https
}

func newH2Client(conn net.Conn) *h2Client {
	c := &h2Client{conn: conn, framer: http2.NewFramer(conn, conn), decoder: hpack.NewDecoder(4096, nil)}
	c.framer.AllowIllegalWrites, c.framer.AllowIllegalReads = true, true
	c.encoder = hpack.NewEncoder(&c.block)
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = c.framer.WriteSettings()
	return c
}

// send writes the frames on the stream.
func (c *h2Client) send(id uint32, frames []frame) {
	for _, f := range frames {
		if f.later {
			time.Sleep(100 * time.Millisecond) // what was sent is forwarded meanwhile; if not, the case is only easier to pass
		}
		c.sendFrame(id, f)
	}
}

func (c *h2Client) sendFrame(id uint32, f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.raw != "":
		_, _ = io.WriteString(c.conn, f.raw)
	case f.fields != nil:
		c.headers(id, f)
	case f.padding > 0:
		_ = c.framer.WriteDataPadded(id, f.end, []byte(f.data), make([]byte, f.padding))
	default:
		for data := []byte(f.data); ; data = data[16<<10:] {
			if len(data) <= 16<<10 {
				_ = c.framer.WriteData(id, f.end, data)
				break
			}
			_ = c.framer.WriteData(id, false, data[:16<<10])
		}
	}
}

// write writes one frame beside those of a case.
func (c *h2Client) write(frame func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = frame()
}

// headers writes one block, which may need more than one frame.
func (c *h2Client) headers(id uint32, f frame) {
	c.block.Reset()
	for i := 0; i+1 < len(f.fields); i += 2 {
		value := f.fields[i+1]
		if f.fields[i] == ":scheme" && value == "http" && c.secured {
			value = "https"
		}
		_ = c.encoder.WriteField(hpack.HeaderField{Name: f.fields[i], Value: value})
	}
	rest := bytes.Clone(c.block.Bytes())
	size := 16 << 10
	if f.split > 0 {
		size = max(1, len(rest)/(f.split+1))
	}
	part := rest[:min(size, len(rest))]
	rest = rest[len(part):]
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndStream: f.end, EndHeaders: len(rest) == 0, PadLength: uint8(f.padding)}) //nolint:gosec // small
	for len(rest) > 0 {
		part = rest[:min(size, len(rest))]
		rest = rest[len(part):]
		_ = c.framer.WriteContinuation(id, len(rest) == 0, part)
	}
}

// answer reads frames until the stream has its response, or has ended, or the connection has.
func (c *h2Client) answer(id uint32, out *outcome, a *answer) {
	var block []byte
	ends := false
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			out.closed = true
			a.reset = a.reset || !a.whole
			if a.error == 0 {
				a.error = c.goAway
			}
			if timedOut(err) {
				out.err, out.closed = "no answer in time", false
			}
			return
		}
		mine := f.Header().StreamID == id
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.write(c.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.write(func() error { return c.framer.WritePing(true, f.Data) })
			}
		case *http2.GoAwayFrame:
			c.goAway = uint32(f.ErrCode)
		case *http2.RSTStreamFrame:
			if !mine {
				continue
			}
			a.reset, a.error = true, uint32(f.ErrCode)
			return
		case *http2.HeadersFrame:
			if !mine {
				out.extra += fmt.Sprintf("HEADERS on stream %d ", f.StreamID)
			}
			block, ends = append(block[:0], f.HeaderBlockFragment()...), f.StreamEnded()
			if f.HeadersEnded() && c.headed(out, a, block, ends) {
				return
			}
		case *http2.ContinuationFrame:
			block = append(block, f.HeaderBlockFragment()...)
			if f.HeadersEnded() && c.headed(out, a, block, ends) {
				return
			}
		case *http2.DataFrame:
			if !mine {
				out.extra += fmt.Sprintf("DATA %q on stream %d ", f.Data(), f.StreamID)
				continue
			}
			a.body += string(f.Data())
			if f.Length > 0 {
				c.write(func() error { return c.framer.WriteWindowUpdate(0, f.Length) })
				if !f.StreamEnded() {
					c.write(func() error { return c.framer.WriteWindowUpdate(id, f.Length) })
				}
			}
			if f.StreamEnded() {
				a.whole = true
				return
			}
		}
	}
}

// headed takes a block: informational, the response's, or trailers. It reports the end of the response.
func (c *h2Client) headed(out *outcome, a *answer, block []byte, end bool) bool {
	list, err := c.decoder.DecodeFull(block)
	if err != nil {
		out.err = err.Error()
		return true
	}
	var fields []field
	for _, f := range list {
		fields = append(fields, field{f.Name, f.Value})
		if f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") {
			out.err = fmt.Sprintf("malformed field %q: %q", f.Name, f.Value)
		}
	}
	status := 0
	_, _ = fmt.Sscanf(strings.Join(valuesOf(fields, ":status"), " "), "%d", &status)
	switch {
	case status >= 100 && status < 200:
		a.infos = append(a.infos, status)
		return end
	case a.given:
		a.trailers = fields
	default:
		a.given, a.fields, a.code = true, fields, status
	}
	a.whole = end
	return end
}
