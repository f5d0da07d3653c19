package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// binaryHeader makes one of version 2 from its parts, right or wrong.
func binaryHeader(command, family byte, block string) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(block)))) + block
}

const (
	addresses4 = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x30\x39\x01\xbb" // 10.0.0.1:12345, 10.0.0.2:443
	addresses6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x30\x39\x01\xbb"
)

func TestGoodHeadersAreDecoded(t *testing.T) {
	from4, to4 := at("10.0.0.1:12345"), at("10.0.0.2:443")
	from6, to6 := at("[2001:db8::1]:12345"), at("[2001:db8::2]:443")
	for _, test := range []struct {
		name, sent string
		want       Header
	}{
		{"the specification's example", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
			Header{Version: 1, Source: at("192.168.0.1:56324"), Destination: at("192.168.0.11:443")}},
		{"TCP6 in both cases of letters", "PROXY TCP6 2001:DB8::1 2001:0db8:0:0:0:0:0:2 12345 443\r\n", Header{Version: 1, Source: from6, Destination: to6}},
		{"the longest line of TCP6", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
			Header{Version: 1, Source: at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"), Destination: at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")}},
		{"an IPv4 address within IPv6", "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 12345 443\r\n", Header{Version: 1, Source: from4, Destination: to6}},
		{"ports zero", "PROXY TCP4 10.0.0.1 10.0.0.2 0 0\r\n", Header{Version: 1, Source: at("10.0.0.1:0"), Destination: at("10.0.0.2:0")}},
		{"short UNKNOWN", "PROXY UNKNOWN\r\n", Header{Version: 1, Local: true}},
		{"longest UNKNOWN", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", Header{Version: 1, Local: true}},
		{"UNKNOWN with anything", "PROXY UNKNOWN a b\x00 c d e f\r\n", Header{Version: 1, Local: true}},
		{"LOCAL", binaryHeader(0x20, 0, ""), Header{Version: 2, Local: true}},
		{"LOCAL with an unknown family and a block to skip", binaryHeader(0x20, 0xff, "anything"), Header{Version: 2, Local: true}},
		{"TCP4", binaryHeader(0x21, 0x11, addresses4), Header{Version: 2, Source: from4, Destination: to4}},
		{"TCP6", binaryHeader(0x21, 0x21, addresses6), Header{Version: 2, Source: from6, Destination: to6}},
		{"unix stream", binaryHeader(0x21, 0x31, strings.Repeat("/", 216)+"\x02\x00\x01h"), Header{Version: 2, TLVs: []TLV{{TypeAuthority, []byte("h")}}}},
		{"UNSPEC", binaryHeader(0x21, 0, "anything"), Header{Version: 2, Local: true}},
		{"padding is left out", binaryHeader(0x21, 0x11, addresses4+"\x04\x00\x02..\x01\x00\x02h2\x04\x00\x00"),
			Header{Version: 2, Source: from4, Destination: to4, TLVs: []TLV{{TypeALPN, []byte("h2")}}}},
		{"a type of an application twice", binaryHeader(0x21, 0x11, addresses4+"\xe0\x00\x01a\xe0\x00\x01b"),
			Header{Version: 2, Source: from4, Destination: to4, TLVs: []TLV{{0xe0, []byte("a")}, {0xe0, []byte("b")}}}},
		// The checksum was computed with another implementation of CRC32c (Castagnoli, reflected, 0x82f63b78), bit by bit.
		{"checksum", withChecksum(binaryHeader(0x21, 0x11, addresses4+"\x03\x00\x04\x00\x00\x00\x00")),
			Header{Version: 2, Source: from4, Destination: to4, Checksum: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, n, err := Decode([]byte(test.sent+"what follows"), 0)
			if err != nil || n != len(test.sent) || !reflect.DeepEqual(h, test.want) {
				t.Fatalf("Decode = %+v, %d, %v; want %+v, %d", h, n, err, test.want, len(test.sent))
			}
			// In any pieces, and never a byte too many.
			r := strings.NewReader(test.sent + "what follows")
			h, rest, err := Read(iotest.OneByteReader(r), 0)
			if left, _ := io.ReadAll(r); err != nil || len(rest) != 0 || string(left) != "what follows" || !reflect.DeepEqual(h, test.want) {
				t.Fatalf("Read = %+v, %q, %v; left %q", h, rest, err, left)
			}
		})
	}
}

// withChecksum fills in the checksum at the end of the header.
func withChecksum(header string) string {
	crc := ^uint32(0)
	for _, c := range []byte(header) {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78*(crc&1)
		}
	}
	return string(binary.BigEndian.AppendUint32([]byte(header[:len(header)-4]), ^crc))
}

// "Any sequence which does not exactly match the protocol must be discarded and cause the receiver to abort the connection."
func TestWhateverDoesNotMatchIsRefused(t *testing.T) {
	good := withChecksum(binaryHeader(0x21, 0x11, addresses4+"\x03\x00\x04\x00\x00\x00\x00"))
	for name, sent := range map[string]string{
		"LF alone":                          "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
		"CR within":                         "PROXY TCP4 10.0.0.1 10.0.0.2 1\r 2\r\n",
		"CR within UNKNOWN":                 "PROXY UNKNOWN \r \r\n",
		"two CR":                            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\r\n",
		"two spaces":                        "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
		"a space at the end":                "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
		"a tab":                             "PROXY TCP4\t10.0.0.1 10.0.0.2 1 2\r\n",
		"a port missing":                    "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
		"lower case":                        "PROXY tcp4 10.0.0.1 10.0.0.2 1 2\r\n",
		"another family":                    "PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
		"UNKNOWN with a tail":               "PROXY UNKNOWNX\r\n",
		"IPv6 as TCP4":                      "PROXY TCP4 ::1 ::1 1 2\r\n",
		"IPv4 as TCP6":                      "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
		"leading zero in an address":        "PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n",
		"short address":                     "PROXY TCP4 10.1 10.0.0.2 1 2\r\n",
		"a zone":                            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
		"leading zero in a port":            "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
		"plus in a port":                    "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
		"port too large":                    "PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n",
		"empty port":                        "PROXY TCP4 10.0.0.1 10.0.0.2  2\r\n",
		"108 bytes":                         "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n",
		"endless line":                      "PROXY UNKNOWN " + strings.Repeat("f", 200),
		"version 1 in binary":               binaryHeader(0x11, 0x11, addresses4),
		"version 3":                         binaryHeader(0x31, 0x11, addresses4),
		"unassigned command":                binaryHeader(0x22, 0x11, addresses4),
		"UDP over IPv4":                     binaryHeader(0x21, 0x12, addresses4),
		"unix datagram":                     binaryHeader(0x21, 0x32, strings.Repeat("/", 216)),
		"unassigned family":                 binaryHeader(0x21, 0x41, addresses4),
		"unassigned transport":              binaryHeader(0x21, 0x13, addresses4),
		"family without transport":          binaryHeader(0x21, 0x10, addresses4),
		"shorter than its addresses":        binaryHeader(0x21, 0x11, addresses4[1:]),
		"longer than the limit":             binaryHeader(0x21, 0x11, addresses4+"\x04\x10\x00"+strings.Repeat(".", 4096)),
		"LOCAL longer than the limit":       binaryHeader(0x20, 0, strings.Repeat(".", 4096)),
		"extension cut off in its head":     binaryHeader(0x21, 0x11, addresses4+"\x04\x00"),
		"extension cut off in its value":    binaryHeader(0x21, 0x11, addresses4+"\x04\x00\x02."),
		"many extensions":                   binaryHeader(0x21, 0x11, addresses4+strings.Repeat("\x04\x00\x00", 65)),
		"ALPN twice":                        binaryHeader(0x21, 0x11, addresses4+"\x01\x00\x01a\x01\x00\x01a"),
		"authority twice":                   binaryHeader(0x21, 0x11, addresses4+"\x02\x00\x01a\x02\x00\x01b"),
		"SSL twice":                         binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x05\x00\x00\x00\x00\x01\x20\x00\x05\x00\x00\x00\x00\x01"),
		"SPIFFE ID twice":                   binaryHeader(0x21, 0x11, addresses4+"\xe5\x00\x01a\xe5\x00\x01b"),
		"authority with a line end":         binaryHeader(0x21, 0x11, addresses4+"\x02\x00\x03a\nb"),
		"authority that is no UTF-8":        binaryHeader(0x21, 0x11, addresses4+"\x02\x00\x01\xff"),
		"unique id of 129 bytes":            binaryHeader(0x21, 0x11, addresses4+"\x05\x00\x81"+strings.Repeat("u", 129)),
		"SSL shorter than its fixed part":   binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x04\x00\x00\x00\x00"),
		"SSL with a subtype cut off":        binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x08\x01\x00\x00\x00\x00\x21\x00\x01"),
		"SSL with a version twice":          binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x0b\x01\x00\x00\x00\x00\x21\x00\x00\x21\x00\x00"),
		"common name with a line end":       binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x09\x01\x00\x00\x00\x00\x22\x00\x01\n"),
		"checksum of another header":        strings.Replace(good, "\x30\x39", "\x30\x38", 1),
		"checksum of 3 bytes":               binaryHeader(0x21, 0x11, addresses4+"\x03\x00\x03\x00\x00\x00"),
		"checksum twice":                    good[:14] + "\x00\x1a" + good[16:] + good[len(good)-7:],
		"version 1 that is no family alone": "PROXY  \r\n.......",
	} {
		t.Run(name, func(t *testing.T) {
			h, n, err := Decode([]byte(sent), 0)
			if err == nil || errors.Is(err, ErrNone) || n != 0 || !reflect.DeepEqual(h, Header{}) {
				t.Fatalf("Decode = %+v, %d, %v; want an error", h, n, err)
			}
		})
	}
}

// A wrong beginning is refused before the peer has sent the length that it announces.
func TestWrongBeginningIsRefusedAtOnce(t *testing.T) {
	for _, sent := range []string{"\r\n\r\n\x00\r\nQUIT\n\x23", "\r\n\r\n\x00\r\nQUIT\n\x21\x12", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", "PROXY TCP4 \n", "PROXY \r "} {
		if _, _, err := Decode([]byte(sent), 0); err == nil {
			t.Errorf("%q: more is waited for", sent)
		}
	}
}

func TestOtherProtocolsAreNoHeader(t *testing.T) {
	for _, sent := range []string{"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01", "PROXY\r\n", "PROXYTCP4", "PROPFIND / HTTP/1.1",
		"\r\n\r\n\x00\r\nQUIT\r", "\r\nGET / HTTP/1.1", "\x00", " PROXY TCP4"} {
		if _, _, err := Decode([]byte(sent), 0); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %v, want ErrNone", sent, err)
		}
		if Begun([]byte(sent)) {
			t.Errorf("%q begins a header", sent)
		}
		r := strings.NewReader(sent)
		_, rest, err := Read(r, 0)
		if left, _ := io.ReadAll(r); !errors.Is(err, ErrNone) || string(rest)+string(left) != sent {
			t.Errorf("%q: Read gives %q and leaves %q, %v", sent, rest, left, err)
		}
	}
}

func TestEndWithinAHeaderIsUnexpected(t *testing.T) {
	if _, _, err := Read(strings.NewReader("PROXY TC"), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("within: %v", err)
	}
	if _, _, err := Read(strings.NewReader(""), 0); !errors.Is(err, io.EOF) {
		t.Errorf("before: %v", err)
	}
}

func TestHeadersAreWrittenAsTheyAreRead(t *testing.T) {
	ssl := SSL{TLS: true, Certificate: true, CertificateInSession: true, Verified: true, Version: "TLSv1.3", CommonName: "payments"}
	extensions := []TLV{{TypeAuthority, []byte("payments.example")}, {TypeALPN, []byte("h2")}, ssl.TLV(), {TypeSPIFFEID, []byte("spiffe://example.org/web")},
		{TypeUniqueID, []byte{0, 1, 2}}}
	for _, h := range []Header{
		{Version: 1, Local: true},
		{Version: 1, Source: at("10.0.0.1:1"), Destination: at("10.0.0.2:65535")},
		{Version: 1, Source: at("10.0.0.1:1"), Destination: at("[2001:db8::2]:2")},
		{Version: 2, Local: true},
		{Version: 2, Source: at("10.0.0.1:1"), Destination: at("10.0.0.2:2"), TLVs: extensions},
		{Version: 2, Source: at("[2001:db8::1]:1"), Destination: at("10.0.0.2:2"), Checksum: true, TLVs: extensions},
		{Version: 2, Checksum: true, TLVs: extensions},
	} {
		b := AppendHeader([]byte("before"), h)
		got, n, err := Decode(b[6:], 0)
		if err != nil || n != len(b)-6 || !reflect.DeepEqual(got, h) {
			t.Errorf("%+v is read as %+v, %d of %d, %v", h, got, n, len(b)-6, err)
		}
	}
	value, _ := (&Header{TLVs: extensions}).Value(TypeSSL)
	if got, err := ParseSSL(value); err != nil || got != ssl {
		t.Errorf("SSL %+v, %v; want %+v", got, err, ssl)
	}
}

func TestWhatCannotBeWrittenIsUnknown(t *testing.T) {
	for _, h := range []Header{{Source: at("10.0.0.1:1")}, {Destination: at("10.0.0.1:1")}, {Source: at("[fe80::1%eth0]:1"), Destination: at("[::1]:1")}} {
		for _, h.Version = range []int{1, 2} {
			got, _, err := Decode(AppendHeader(nil, h), 0)
			if err != nil || !got.Local {
				t.Errorf("%+v is read as %+v, %v", h, got, err)
			}
		}
	}
	long := Header{Version: 2, Source: at("10.0.0.1:1"), Destination: at("10.0.0.2:2"), TLVs: []TLV{{0xe0, make([]byte, 5000)}, {0xe1, []byte("kept")}}}
	got, _, err := Decode(AppendHeader(nil, long), 0)
	if err != nil || len(got.TLVs) != 1 || got.TLVs[0].Type != 0xe1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReadingAllocatesNoMoreThanTheLimit(t *testing.T) {
	sent := append([]byte(binaryHeader(0x21, 0x11, addresses4)[:14]), 0xff, 0xff)
	if _, _, err := Read(io.MultiReader(bytes.NewReader(sent), neverRead{t}), 0); err == nil {
		t.Error("a header of 64 KiB is taken")
	}
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("read on after the announced length was refused")
	return 0, io.EOF
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET", "PROXY TCP6 ::ffff:10.0.0.1 ::1 0 65535\r\n", "PROXY UNKNOWN x\r\n",
		binaryHeader(0x20, 0, ""), binaryHeader(0x21, 0x11, addresses4+"\x20\x00\x09\x01\x00\x00\x00\x00\x22\x00\x01a\xe5\x00\x01s"),
		binaryHeader(0x21, 0x21, addresses6+"\x04\x00\x01x"), binaryHeader(0x21, 0x31, strings.Repeat("/", 216)),
		withChecksum(binaryHeader(0x21, 0x11, addresses4+"\x03\x00\x04\x00\x00\x00\x00"))} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Decode(b, 0)
		if err != nil {
			return
		}
		if n > len(b) {
			// Reading up to n is safe: bytes that would end it sooner do not exist.
			if n > DefaultLimit {
				t.Fatalf("wants %d bytes", n)
			}
			return
		}
		for i := range n {
			if _, need, err := Decode(b[:i], 0); err != nil || need <= i || need > n {
				t.Fatalf("with %d of %d bytes: needs %d, %v", i, n, need, err)
			}
		}
		if h.Version == 1 && n > 107 || h.Version == 2 && h.Local && (h.Source.IsValid() || h.TLVs != nil) {
			t.Fatalf("%+v of %d bytes", h, n)
		}
		again, size, err := Decode(AppendHeader(nil, h), 0)
		if err != nil || size == 0 || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v is written and read as %+v, %v", h, again, err)
		}
		if h.Source.IsValid() { // what either version says is the same
			other := h
			other.Version, other.TLVs, other.Checksum = 3-h.Version, nil, false
			got, _, err := Decode(AppendHeader(nil, other), 0)
			if err != nil || got.Source != h.Source || got.Destination != h.Destination {
				t.Fatalf("%+v becomes %+v in the other version, %v", h, got, err)
			}
		}
	})
}
