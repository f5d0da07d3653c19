package corpus

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// upstream takes down everything that it is sent and answers each request with what it understood. It is as naive as can be.
type upstream struct {
	addr  string
	mu    sync.Mutex
	conns []*upstreamConn
	lie   func(number string) (lie, bool) // whether a path below /lie/ asks for one
}

// upstreamConn is one connection of the proxy.
type upstreamConn struct {
	mu       sync.Mutex
	raw      []byte    // HTTP/1.1: every byte that came, but those of tunnels
	tunnels  int       // 1 once it was upgraded
	streams  []*stream // HTTP/2
	problems []string
}

// stream is one stream of HTTP/2 as it came.
type stream struct {
	record
	blocks int
}

// startUpstream serves each connection with serve.
func startUpstream(t *testing.T, serve func(*upstream, *upstreamConn, net.Conn)) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: l.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &upstreamConn{}
			u.mu.Lock()
			u.conns = append(u.conns, c)
			u.mu.Unlock()
			stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			serving.Go(func() {
				defer stop()
				serve(u, c, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return u
}

// requests is everything that came: as the strict reader has it, and the ways in which others see it differently.
func (u *upstream) requests() (list []record, problems []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.conns {
		c.mu.Lock()
		problems = append(problems, c.problems...)
		if c.streams == nil {
			found, differences := readEveryWay(c.raw, c.tunnels)
			list, problems = append(list, found...), append(problems, differences...)
		}
		for _, s := range c.streams {
			list = append(list, s.record)
		}
		c.mu.Unlock()
	}
	return list, problems
}

// readEveryWay reads the bytes of a connection with every reader and tells where they differ from the strict one.
func readEveryWay(raw []byte, tunnels int) (strict []record, problems []string) {
	for i, r := range readers {
		list, err := r.all(raw, tunnels)
		if i == 0 {
			strict = list
		}
		if err != nil && !errors.Is(err, errMore) {
			problems = append(problems, fmt.Sprintf("reader %q: %v in %q", r.name, err, raw))
		}
		if got, want := shown(list), shown(strict); got != want {
			problems = append(problems, fmt.Sprintf("reader %q sees\n%s\nthe strict one sees\n%s\nin %q", r.name, got, want, raw))
		}
	}
	return strict, problems
}

// serveHTTP1 answers as soon as the strict reader has a request.
func serveHTTP1(u *upstream, c *upstreamConn, conn net.Conn) {
	var in []byte
	buf := make([]byte, 64<<10)
	continued := false
	for {
		n, err := conn.Read(buf)
		c.mu.Lock()
		c.raw = append(c.raw, buf[:n]...)
		c.mu.Unlock()
		in = append(in, buf[:n]...)
		for len(in) > 0 {
			rec, rest, err := reader{}.request(in)
			if errors.Is(err, errMore) {
				if strings.EqualFold(rec.value("expect"), "100-continue") && !continued {
					_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
					continued = true
				}
				break
			}
			if err != nil {
				return // requests tells of it
			}
			in, continued = rest, false
			if number, lied := strings.CutPrefix(rec.target, "/lie/"); lied && u.lie != nil {
				if l, found := u.lie(number); found {
					if !l.tell(conn) {
						return
					}
					continue
				}
			}
			if rec.target == "/ws/accept" && rec.values("upgrade") != nil {
				c.mu.Lock()
				c.tunnels = 1
				c.mu.Unlock()
				accept := sha1.Sum([]byte(rec.value("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
					base64.StdEncoding.EncodeToString(accept[:])+"\r\n\r\n")
				_, _ = io.Copy(conn, io.MultiReader(bytes.NewReader(in), conn))
				return
			}
			answer := answerTo(&rec)
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Answer: 1\r\n\r\n", len(answer)); err != nil {
				return
			}
			if rec.method != "HEAD" {
				_, _ = io.WriteString(conn, answer)
			}
		}
		if err != nil {
			return
		}
	}
}

// answerTo names the request that it answers.
func answerTo(rec *record) string {
	return rec.value("x-request-id") + " " + rec.method + " " + rec.target
}

// serveHTTP2 answers each stream when it has ended.
func serveHTTP2(u *upstream, c *upstreamConn, conn net.Conn) {
	s := &h2Upstream{upstream: u, c: c, conn: conn, framer: http2.NewFramer(conn, conn), streams: map[uint32]*stream{}}
	s.framer.AllowIllegalReads, s.framer.AllowIllegalWrites = true, true
	s.encoder = hpack.NewEncoder(&s.block)
	s.decoder = hpack.NewDecoder(4096, nil)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	_ = s.framer.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	for s.next() {
	}
}

type h2Upstream struct {
	upstream *upstream
	c        *upstreamConn
	conn     net.Conn
	framer   *http2.Framer
	encoder  *hpack.Encoder
	block    bytes.Buffer
	decoder  *hpack.Decoder
	streams  map[uint32]*stream
	head     []byte // of the block that comes
}

func (s *h2Upstream) problem(format string, args ...any) {
	s.c.problems = append(s.c.problems, "HTTP/2 upstream: "+fmt.Sprintf(format, args...))
}

// next takes one frame.
func (s *h2Upstream) next() bool {
	f, err := s.framer.ReadFrame()
	if err != nil {
		return false
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			_ = s.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = s.framer.WritePing(true, f.Data)
		}
	case *http2.HeadersFrame:
		if s.streams[id] == nil {
			s.streams[id] = &stream{}
			s.c.streams = append(s.c.streams, s.streams[id])
		}
		s.head = append(s.head[:0], f.HeaderBlockFragment()...)
		s.streams[id].upgraded = f.StreamEnded()
		if f.HeadersEnded() {
			return s.headed(id)
		}
	case *http2.ContinuationFrame:
		s.head = append(s.head, f.HeaderBlockFragment()...)
		if f.HeadersEnded() {
			return s.headed(id)
		}
	case *http2.DataFrame:
		st := s.streams[id]
		if st != nil && st.value(":protocol") != "" {
			return s.framer.WriteData(id, f.StreamEnded(), f.Data()) == nil
		}
		if st == nil || st.whole {
			s.problem("DATA on stream %d, which is not open", id)
			return false
		}
		if n := f.Length; n > 0 {
			_ = s.framer.WriteWindowUpdate(0, n)
			_ = s.framer.WriteWindowUpdate(id, n)
		}
		st.body += string(f.Data())
		if f.StreamEnded() {
			return s.ended(id)
		}
	}
	return true
}

// headed takes a whole block of fields.
func (s *h2Upstream) headed(id uint32) bool {
	st := s.streams[id]
	end := st.upgraded
	st.upgraded = false
	list, err := s.decoder.DecodeFull(s.head)
	if err != nil {
		s.problem("block of fields: %v", err)
		return false
	}
	var fields []field
	for _, f := range list {
		fields = append(fields, field{f.Name, f.Value})
		if f.Name != strings.ToLower(f.Name) {
			s.problem("a name in upper case: %q", f.Name)
		}
	}
	if st.blocks++; st.blocks == 1 {
		st.fields = fields
		st.method, st.target = st.value(":method"), st.value(":path")
		if st.value(":protocol") != "" {
			st.method, st.whole = "GET", true // RFC 8441: the CONNECT of an upgrade, which is judged as the GET of HTTP/1.1
			if st.target == "/ws/accept" {
				s.respond(id, false, ":status", "200")
			} else {
				s.respond(id, true, ":status", "400")
			}
			return true
		}
		if st.value("expect") != "" && !end {
			s.respond(id, false, ":status", "100")
		}
	} else {
		st.trailers = fields
		if !end {
			s.problem("trailers that do not end stream %d", id)
		}
	}
	if end {
		return s.ended(id)
	}
	return true
}

// ended answers a request that is whole.
func (s *h2Upstream) ended(id uint32) bool {
	st := s.streams[id]
	if st.whole {
		s.problem("stream %d ended twice", id)
	}
	st.whole = true
	if number, lied := strings.CutPrefix(st.target, "/lie/"); lied && s.upstream.lie != nil {
		if l, found := s.upstream.lie(number); found {
			return l.tellFrames(s, id)
		}
	}
	s.respond(id, st.method == "HEAD", ":status", "200", "x-answer", "1")
	if st.method != "HEAD" {
		return s.framer.WriteData(id, true, []byte(answerTo(&st.record))) == nil
	}
	return true
}

// respond writes a block of fields.
func (s *h2Upstream) respond(id uint32, end bool, fields ...string) {
	s.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = s.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.block.Bytes(), EndStream: end, EndHeaders: true})
}
