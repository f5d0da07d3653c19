package http1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// fakeStream serves bytes in pieces; what it is sent is dropped.
type fakeStream struct {
	rest string
	step int
}

func (s *fakeStream) Read(p []byte) (int, error) {
	if s.rest == "" {
		return 0, io.EOF
	}
	n := len(s.rest)
	if s.step > 0 {
		n = min(n, s.step)
	}
	n = copy(p, s.rest[:n])
	s.rest = s.rest[n:]
	return n, nil
}

func (s *fakeStream) Write(p []byte) (int, error)      { return len(p), nil }
func (s *fakeStream) Close() error                     { return nil }
func (s *fakeStream) CloseWrite() error                { return nil }
func (s *fakeStream) SetReadDeadline(time.Time) error  { return nil }
func (s *fakeStream) SetWriteDeadline(time.Time) error { return nil }

var _ l7.Stream = (*net.TCPConn)(nil)

// readChunked reads a chunked body that arrives step bytes at a time; 0 is all at once.
func readChunked(raw string, step int) (content string, trailer *l7.Header, rest string, err error) {
	return readChunkedOf(l7.Downstream, raw, step)
}

func readChunkedOf(side l7.Side, raw string, step int) (content string, trailer *l7.Header, rest string, err error) {
	limits := Limits{}.withDefaults()
	stream := &fakeStream{rest: raw, step: step}
	r := &reader{stream: stream}
	var b body
	b.begin(r, chunkedBody, -1, side, &limits, time.Second)
	data, err := io.ReadAll(&b)
	return string(data), b.Trailer(), string(r.buffered()) + stream.rest, err
}

type chunkedRow struct{ name, raw, content, trailer string }

var chunkedBodies = []chunkedRow{
	{"empty", "0\r\n\r\n", "", ""},
	{"one", "5\r\nhello\r\n0\r\n\r\n", "hello", ""},
	{"two", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", ""},
	{"upper case", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789", ""},
	{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello", ""},
	{"extension", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", "hello", ""},
	{"trailer", "0\r\nX-Sum: 1\r\n\r\n", "", "x-sum=1"},
	{"trailers", "1\r\na\r\n0\r\nA: 1\r\nB: 2\r\n\r\n", "a", "a=1 b=2"},
	{"forbidden trailers are dropped", "0\r\nA: 1\r\nX_Forwarded_For: me\r\nAuthorization: x\r\n\r\n", "", "a=1"},
}

func TestChunkedBodiesAreCutWhereverTheyArrive(t *testing.T) {
	for _, row := range chunkedBodies {
		t.Run(row.name, func(t *testing.T) {
			raw := row.raw
			if strings.Contains(raw, "_") {
				raw = strings.ReplaceAll(raw, "_", "-")
			}
			for _, step := range []int{0, 1, 2, 3, 7} {
				content, trailer, rest, err := readChunked(raw+"GET", step)
				if err != nil || content != row.content || rest != "GET" {
					t.Fatalf("step %d: %q, rest %q, %v", step, content, rest, err)
				}
				var got []string
				for name, value := range trailer.All() {
					got = append(got, name+"="+value)
				}
				if strings.Join(got, " ") != row.trailer {
					t.Errorf("step %d: trailer %q", step, got)
				}
			}
		})
	}
}

var malformedChunks = []chunkedRow{
	{"no size", "\r\nhello\r\n", "", ""},
	{"LF after the size", "5\nhello\r\n0\r\n\r\n", "", ""},
	{"LF after an extension", "5;a\nhello\r\n0\r\n\r\n", "", ""},
	{"CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", "", ""},
	{"NUL in an extension", "5;\x00\r\nhello\r\n0\r\n\r\n", "", ""},
	{"LF after the content", "5\r\nhello\n0\r\n\r\n", "", ""},
	{"no end of the content", "5\r\nhello0\r\n\r\n", "", ""},
	{"content longer than its size", "5\r\nhello!\r\n0\r\n\r\n", "", ""},
	{"CR alone after the content", "5\r\nhello\rx0\r\n\r\n", "", ""},
	{"hexadecimal prefix", "0x5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"sign", "+5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"minus", "-5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"space before the size", " 5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"space after the size", "5 \r\nhello\r\n0\r\n\r\n", "", ""},
	{"no hexadecimal digit", "g\r\nhello\r\n0\r\n\r\n", "", ""},
	{"underscore", "1_0\r\nhello\r\n0\r\n\r\n", "", ""},
	{"size that overflows 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n", "", ""},
	{"size that is negative as 64 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", "", ""},
	{"extension too long", "5;" + strings.Repeat("a", maxChunkLine) + "\r\nhello\r\n0\r\n\r\n", "", ""},
	{"LF after the last chunk", "0\n\r\n", "", ""},
	{"CR after the last chunk", "0\r\r\n", "", ""},
	{"size with a Kelvin sign", "\u212a\r\n", "", ""},
	{"space before an extension", "5 ;a\r\nhello\r\n0\r\n\r\n", "", ""},
	{"comma after the size", "5,5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"size on two lines", "0\r\n5\r\nhello\r\n0\r\n\r\n", "", ""},
	{"too many trailers", "0\r\n" + strings.Repeat("A: 1\r\n", 101) + "\r\n", "", ""},
	{"LF ends the trailer section", "0\r\n\n", "", ""},
	{"LF in a trailer", "0\r\nA: 1\n\r\n", "", ""},
	{"space before the colon of a trailer", "0\r\nA : 1\r\n\r\n", "", ""},
	{"folded trailer", "0\r\nA: 1\r\n b\r\n\r\n", "", ""},
	{"length in a trailer", "0\r\nContent-Length: 5\r\n\r\n", "", ""},
	{"transfer coding in a trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "", ""},
	{"Host in a trailer", "0\r\nHost: b\r\n\r\n", "", ""},
	{"underscore in a trailer", "0\r\nA_B: b\r\n\r\n", "", ""},
	{"trailer section too large", "0\r\nA: " + strings.Repeat("a", 8<<10) + "\r\n\r\n", "", ""},
	{"endless trailer section", "0\r\n" + strings.Repeat("A: 1\r\n", 8<<10), "", ""},
}

func TestMalformedChunksAreRefused(t *testing.T) {
	for _, row := range malformedChunks {
		t.Run(row.name, func(t *testing.T) {
			for _, step := range []int{0, 1} {
				content, _, _, err := readChunked(row.raw, step)
				e, ok := errors.AsType[*l7.Error](err)
				if !ok || e.Reason != observe.BadRequest && e.Reason != observe.HeadTooLarge {
					t.Errorf("step %d: %q, %v", step, content, err)
				}
			}
			content, _, _, err := readChunkedOf(l7.Upstream, row.raw, 0)
			if row.name == "underscore in a trailer" { // an upstream may name its fields as it likes
				return
			}
			if e, ok := errors.AsType[*l7.Error](err); !ok || e.Reason != observe.UpstreamProtocol || e.Side != l7.Upstream {
				t.Errorf("from an upstream: %q, %v", content, err)
			}
		})
	}
}

func TestChunkedBodyThatBreaksOffIsNotWhole(t *testing.T) {
	raw := "5\r\nhello\r\n0\r\nA: 1\r\n\r\n"
	for i := range raw {
		if _, _, _, err := readChunked(raw[:i], 0); err == nil {
			t.Errorf("%q is taken for whole", raw[:i])
		}
	}
}

// CVE-2023-39326: one-byte chunks with long extensions cost a reader a hundred times what they carry.
func TestChunkFramingWithoutContentEnds(t *testing.T) {
	one := "1;" + strings.Repeat("a", 200) + "\r\nx\r\n"
	content, _, _, err := readChunked(strings.Repeat(one, 10000), 0)
	if err == nil || len(content) > 100 {
		t.Errorf("%d bytes of content were read, %v", len(content), err)
	}
	plain := strings.Repeat("1\r\nx\r\n", 50000) + "0\r\n\r\n"
	if content, _, _, err := readChunked(plain, 0); err != nil || len(content) != 50000 {
		t.Errorf("plain one-byte chunks: %d, %v", len(content), err)
	}
}
