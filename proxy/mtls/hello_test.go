package mtls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloBytes writes a ClientHello, for the fields that the parser looks at.
type helloBytes struct {
	version    uint16
	suites     []uint16
	extensions []extensionBytes
}

type extensionBytes struct {
	kind    uint16
	content []byte
}

func (h helloBytes) message() []byte {
	body := append(twoBytes(h.version), make([]byte, 32)...)
	body = append(body, 0)
	body = append(body, behind(2, list16(h.suites))...)
	body = append(body, 1, 0)
	var extensions []byte
	for _, e := range h.extensions {
		extensions = append(append(extensions, twoBytes(e.kind)...), behind(2, e.content)...)
	}
	if h.extensions != nil {
		body = append(body, behind(2, extensions)...)
	}
	return append([]byte{1}, behind(3, body)...)
}

func twoBytes(n uint16) []byte { return []byte{byte(n >> 8), byte(n)} }

func list16(list []uint16) (out []byte) {
	for _, n := range list {
		out = append(out, twoBytes(n)...)
	}
	return out
}

// behind puts a length of that many bytes before the content.
func behind(length int, content []byte) []byte {
	out := make([]byte, length, length+len(content))
	for i, n := length-1, len(content); i >= 0; i, n = i-1, n>>8 {
		out[i] = byte(n)
	}
	return append(out, content...)
}

func sni(name string) extensionBytes {
	return extensionBytes{0, behind(2, append([]byte{0}, behind(2, []byte(name))...))}
}

func alpn(names ...string) extensionBytes {
	var list []byte
	for _, name := range names {
		list = append(list, behind(1, []byte(name))...)
	}
	return extensionBytes{16, behind(2, list)}
}

// foxio is the example of FoxIO's description of JA4: suites, extensions and signature algorithms in the order of the client.
func foxio() helloBytes {
	content := map[uint16][]byte{
		0: sni("example.test").content, 16: alpn("h2", "http/1.1").content,
		10: behind(2, list16([]uint16{0x2a2a, 29, 23})), 43: behind(1, list16([]uint16{0x7a7a, 0x0304, 0x0303})),
		13: behind(2, list16([]uint16{0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601})),
	}
	h := helloBytes{version: 0x0303, suites: []uint16{0x8a8a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8,
		0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035}}
	for _, kind := range []uint16{0xdada, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b,
		0xff01, 0x000b, 0x000a, 0x0015} {
		h.extensions = append(h.extensions, extensionBytes{kind, content[kind]})
	}
	return h
}

// without leaves extensions out.
func (h helloBytes) without(kinds ...uint16) helloBytes {
	h.extensions = slices.DeleteFunc(slices.Clone(h.extensions), func(e extensionBytes) bool { return slices.Contains(kinds, e.kind) })
	return h
}

func (h helloBytes) with(more ...extensionBytes) helloBytes {
	kinds := make([]uint16, 0, len(more))
	for _, e := range more {
		kinds = append(kinds, e.kind)
	}
	h = h.without(kinds...)
	h.extensions = append(h.extensions, more...)
	return h
}

func TestJA4IsThatOfTheDescription(t *testing.T) {
	chrome := foxio().without(0x0015, 0x4469).with(extensionBytes{kind: 0x44cd}, extensionBytes{kind: 0xfe0d})
	bare := helloBytes{version: 0x0301}
	for _, c := range []struct {
		name  string
		hello helloBytes
		want  string
	}{
		// From technical_details/JA4.md of FoxIO-LLC/ja4.
		{"the example", foxio(), "t13d1516h2_8daaf6152771_e5627efa2ab1"},
		// A published JA4 with its raw form, of Chrome 143.
		{"Chrome 143", chrome, "t13d1516h2_8daaf6152771_d8a2da3f94cd"},
		// By the rules of the description.
		{"no server name", foxio().without(0), "t13i1515h2_8daaf6152771_e5627efa2ab1"},
		{"no ALPN", foxio().without(16), "t13d151500_8daaf6152771_e5627efa2ab1"},
		{"empty ALPN", foxio().with(alpn()), "t13d151600_8daaf6152771_e5627efa2ab1"},
		{"http/1.1 first", foxio().with(alpn("http/1.1")), "t13d1516h1_8daaf6152771_e5627efa2ab1"},
		{"one character", foxio().with(alpn("h")), "t13d1516hh_8daaf6152771_e5627efa2ab1"},
		{"ALPN AB", foxio().with(alpn("\xab")), "t13d1516ab_8daaf6152771_e5627efa2ab1"},
		{"ALPN AB CD", foxio().with(alpn("\xab\xcd")), "t13d1516ad_8daaf6152771_e5627efa2ab1"},
		{"ALPN 30 AB", foxio().with(alpn("\x30\xab")), "t13d15163b_8daaf6152771_e5627efa2ab1"},
		{"ALPN 30 31 AB CD", foxio().with(alpn("\x30\x31\xab\xcd")), "t13d15163d_8daaf6152771_e5627efa2ab1"},
		{"ALPN 30 AB CD 31", foxio().with(alpn("\x30\xab\xcd\x31")), "t13d151601_8daaf6152771_e5627efa2ab1"},
		{"nothing at all", bare, "t10i000000_000000000000_000000000000"},
		{"no extension that is hashed", bare.with(sni("a"), alpn("h2")), "t10d0002h2_000000000000_000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			hello, err := parseHello(c.hello.message())
			if err != nil {
				t.Fatal(err)
			}
			if got := hello.ja4(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	// The description gives the hash of the example's extensions without signature algorithms; 13 stays among the extensions.
	hello, _ := parseHello(foxio().message())
	hello.signatures = nil
	if got := hello.ja4(); got != "t13d1516h2_8daaf6152771_6d807ffa2a79" {
		t.Errorf("without signature algorithms: %s", got)
	}
	hello.versions = nil
	if got := hello.ja4()[:3]; got != "t12" {
		t.Errorf("without supported_versions: %s", got)
	}
}

func TestMalformedHelloIsRefused(t *testing.T) {
	good := foxio().message()
	for n := range good {
		if _, err := parseHello(good[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(good))
		}
	}
	for name, hello := range map[string]helloBytes{
		"server name too short": foxio().with(extensionBytes{0, []byte{0, 4, 0, 0, 9, 'a'}}),
		"server name empty":     foxio().with(sni("")),
		"ALPN name empty":       foxio().with(alpn("h2", "")),
		"odd list":              foxio().with(extensionBytes{10, behind(2, []byte{0, 29, 0})}),
		"empty list":            foxio().with(extensionBytes{43, behind(1, nil)}),
		"bytes after a list":    foxio().with(extensionBytes{13, append(behind(2, []byte{4, 3}), 0)}),
	} {
		if _, err := parseHello(hello.message()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	twice := foxio()
	twice.extensions = append(twice.extensions, extensionBytes{10, behind(2, []byte{0, 23})})
	if _, err := parseHello(twice.message()); err == nil {
		t.Error("an extension that stands twice is accepted")
	}
	if _, err := parseHello(append(good, 0)); err == nil {
		t.Error("a byte after the message is accepted")
	}
}

// inRecords cuts a message into records with that many bytes of payload each.
func inRecords(message []byte, payload int) (out []byte) {
	for piece := range slices.Chunk(message, payload) {
		out = append(out, 22, 3, 1)
		out = append(out, behind(2, piece)...)
	}
	return out
}

func TestTapFindsTheHelloHoweverItIsCut(t *testing.T) {
	message := foxio().message()
	for _, payload := range []int{1, 3, 4, 5, 100, 16384} {
		for _, piece := range []int{1, 2, 5, 7, 1000} {
			transport := &transport{hello: &helloTap{}}
			for p := range slices.Chunk(append(inRecords(message, payload), 20, 3, 3, 0, 1, 1), piece) {
				transport.follow(p)
			}
			if !transport.in.between() {
				t.Errorf("payload %d, pieces of %d: not between records at the end", payload, piece)
			}
			tap := transport.hello
			if hello := transport.leave(); hello == nil || hello.serverName != "example.test" {
				t.Errorf("payload %d, pieces of %d: %+v", payload, piece, hello)
			}
			if tap.message != nil {
				t.Error("the tap still holds the message")
			}
		}
	}
}

func TestTapGivesUpOnWhatIsNoHello(t *testing.T) {
	huge := foxio().with(extensionBytes{0x0015, make([]byte, maxHello)}).message()
	for name, stream := range map[string][]byte{
		"application data":         append([]byte{23, 3, 3, 0, 100}, make([]byte, 100)...),
		"another handshake":        inRecords(append([]byte{2}, behind(3, make([]byte, 100))...), 100),
		"announces too much":       inRecords([]byte{1, 0xff, 0xff, 0xff, 3, 3}, 6),
		"is too long":              inRecords(huge, 16384),
		"a megabyte of one record": bytes.Repeat(inRecords(make([]byte, 16384), 16384), 64),
	} {
		transport := &transport{hello: &helloTap{}}
		for p := range slices.Chunk(stream, 1000) {
			transport.follow(p)
			if held := cap(transport.hello.message); held > 2*maxHello {
				t.Fatalf("%s: the tap holds %d bytes", name, held)
			}
		}
		if tap := transport.hello; !tap.done || tap.message != nil || tap.seen != nil {
			t.Errorf("%s: %+v", name, tap)
		}
	}
}

// FuzzHello compares with crypto/tls: what it takes for a ClientHello is one here too, and says the same.
func FuzzHello(f *testing.F) {
	f.Add(foxio().message())
	f.Add(foxio().without(0, 16).message())
	f.Add(foxio().with(alpn("\x00\xff")).message())
	f.Add(helloBytes{version: 0x0301}.message())
	f.Add(realHello(f))
	f.Fuzz(func(t *testing.T, message []byte) {
		// What follows in the same record is another message: the transport cuts it off, and so does crypto/tls.
		if whole := wire(message); len(whole) >= 4 {
			whole.take(1)
			if body := whole.vector(3); body != nil {
				message = message[:4+len(body)]
			}
		}
		hello, err := parseHello(message)
		if err == nil {
			text := hello.ja4()
			if len(text) != 36 || strings.ContainsFunc(text, func(r rune) bool { return r != '_' && !alphanumeric(byte(r)) }) {
				t.Fatalf("JA4 %q", text)
			}
		}
		if len(message) == 0 || len(message) > maxHello {
			return
		}
		theirs := heardByTLS(message)
		if theirs == nil {
			return
		}
		if err != nil {
			t.Fatal("crypto/tls takes it, we do not")
		}
		if hello.serverName != theirs.ServerName || !slices.Equal(hello.protocols, theirs.SupportedProtos) ||
			!slices.Equal(hello.suites, theirs.CipherSuites) || !slices.Equal(hello.extensions, theirs.Extensions) ||
			!slices.Equal(hello.groups, numbersOf(theirs.SupportedCurves)) ||
			len(hello.versions) > 0 && !slices.Equal(hello.versions, theirs.SupportedVersions) {
			t.Fatalf("%+v\n%+v", hello, theirs)
		}
		for i, scheme := range theirs.SignatureSchemes {
			if uint16(scheme) != hello.signatures[i] {
				t.Fatalf("signature algorithms %v, %v", hello.signatures, theirs.SignatureSchemes)
			}
		}
	})
}

// heardByTLS is what crypto/tls reads from a first message; nil if it does not take it for a ClientHello.
func heardByTLS(message []byte) (info *tls.ClientHelloInfo) {
	config := &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		info = i
		return nil, errors.New("enough")
	}}
	_ = tls.Server(&recording{Reader: bytes.NewReader(inRecords(message, 16384))}, config).Handshake()
	return info
}

// recording is a connection from which everything has come already and to which all may be written.
type recording struct {
	net.Conn
	io.Reader
}

func (r *recording) Read(p []byte) (int, error)       { return r.Reader.Read(p) }
func (*recording) Write(p []byte) (int, error)        { return len(p), nil }
func (*recording) Close() error                       { return nil }
func (*recording) SetWriteDeadline(_ time.Time) error { return nil }

// realHello is what a client of this package sends.
func realHello(t testing.TB) []byte {
	var sent bytes.Buffer
	client := tls.Client(&writeOnly{Writer: &sent}, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", NextProtos: []string{"h2"}})
	_ = client.Handshake()
	if sent.Len() < 10 {
		t.Fatal("the client sent nothing")
	}
	return sent.Bytes()[recordHeader:]
}

type writeOnly struct {
	net.Conn
	io.Writer
}

func (w *writeOnly) Write(p []byte) (int, error) { return w.Writer.Write(p) }
func (*writeOnly) Read([]byte) (int, error)      { return 0, io.EOF }
func (*writeOnly) Close() error                  { return nil }
