package listener

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestSniffTellsProtocolsApartAndLosesNothing(t *testing.T) {
	for _, test := range []struct {
		name, sent string
		want       Kind
	}{
		{"TLS 1.3 ClientHello", "\x16\x03\x01\x02\x00\x01", TLS},
		{"TLS record of an unknown version", "\x16\x09\x01", Opaque},
		{"origin form", "GET / HTTP/1.1\r\n", HTTP},
		{"absolute form", "POST http://a/ HTTP/1.1\r\n", HTTP},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2},
		{"request with the method PRI", "PRI / HTTP/1.1\r\n", HTTP},
		{"PRI of another version", "PRI * HTTP/1.1\r\n", HTTP},
		{"PRI without CR", "PRI * HTTP/2.0\n\nSM", HTTP},
		{"authority form", "CONNECT 10.0.0.1:1 HTTP/1.1\r\n", HTTP},
		{"empty line before a request", "\r\nGET / HTTP/1.1\r\n", HTTP},
		{"ssh", "SSH-2.0-x\r\n", Opaque},
		{"lower case", "get / HTTP/1.1\r\n", Opaque},
		{"endless word", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Opaque},
		{"zero bytes", "\x00\x00\x00", Opaque},
	} {
		t.Run(test.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer func() { _ = near.Close() }()
			sniffed := make(chan struct{}) // a pipe takes no deadline once its other end is closed
			go func() { _, _ = io.WriteString(far, test.sent); <-sniffed; _ = far.Close() }()
			got, ahead, err := Sniff(near, 5*time.Second)
			close(sniffed)
			if err != nil || got != test.want {
				t.Fatalf("Sniff = %v, %v; want %v", got, err, test.want)
			}
			rest, err := io.ReadAll(near)
			if all := string(ahead) + string(rest); err != nil || all != test.sent {
				t.Fatalf("read %q, %v; want %q", all, err, test.sent)
			}
		})
	}
}

func TestPrefaceIsFoundInPiecesAndNothingElseIsTakenForIt(t *testing.T) {
	for _, test := range []struct {
		sent []string
		want bool
	}{
		{[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, true},
		{[]string{"P", "RI ", "* HTTP/2.0", "\r", "\n\r\nSM\r\n\r\n"}, true},
		{[]string{"PRI", " /x HTTP/1.1\r\n"}, false},
		{[]string{"PRI * HTTP/2.1\r\n"}, false},
		{[]string{"P", "OST / HTTP/1.1\r\n"}, false},
		{[]string{"GET / HTTP/1.1\r\n"}, false},
		{[]string{"\x16\x03\x01"}, false},
	} {
		near, far := net.Pipe()
		sniffed := make(chan struct{}) // a pipe takes no deadline once its other end is closed
		go func() {
			for _, piece := range test.sent {
				_, _ = io.WriteString(far, piece)
			}
			<-sniffed
			_ = far.Close()
		}()
		got, ahead, err := SniffHTTP(near, 5*time.Second)
		close(sniffed)
		rest, _ := io.ReadAll(near)
		if all := strings.Join(test.sent, ""); err != nil || got != test.want || string(ahead)+string(rest) != all {
			t.Errorf("%q: %v, %q and %q, %v", test.sent, got, ahead, rest, err)
		}
	}
}

func TestSilentOrHesitantHTTPClientIsLeftToHTTP1(t *testing.T) {
	for _, sent := range []string{"", "PRI * HTTP/2.0\r"} {
		near, far := net.Pipe()
		go func() { _, _ = io.WriteString(far, sent) }()
		http2, ahead, err := SniffHTTP(near, 20*time.Millisecond)
		if http2 || string(ahead) != sent || err != nil {
			t.Errorf("%q: %v, %q, %v", sent, http2, ahead, err)
		}
		_, _ = near.Close(), far.Close()
	}
}

func TestSniffTakesASilentPeerForOneThatWaitsForTheServer(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	if kind, ahead, err := Sniff(near, 10*time.Millisecond); kind != Opaque || len(ahead) != 0 || err != nil {
		t.Fatalf("Sniff = %v, %q, %v; want opaque", kind, ahead, err)
	}
}

func TestSniffTakesAPauseForNothingElse(t *testing.T) {
	for sent, want := range map[string]Kind{"GE": HTTP, "GET ": HTTP, "\x16\x03": Opaque} {
		near, far := net.Pipe()
		go func() { _, _ = io.WriteString(far, sent) }()
		kind, ahead, err := Sniff(near, 50*time.Millisecond)
		if kind != want || string(ahead) != sent || err != nil {
			t.Errorf("%q: Sniff = %v, %q, %v; want %v", sent, kind, ahead, err, want)
		}
		_, _ = near.Close(), far.Close()
	}
}

func FuzzClassify(f *testing.F) {
	for _, seed := range []string{"", "\x16", "\x16\x03\x03", "GET / HTTP/1.1", "PRI * HTTP/2.0", "M-SEARCH * ", "GET  /", "SSH-2.0"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), sniffLength)]
		if preface, sure := classifyPreface(b); (preface == HTTP2) != strings.HasPrefix(string(b), "PRI * HTTP/2.0\r\n") || preface == HTTP2 && !sure {
			t.Fatalf("%q: preface %v, %v", b, preface, sure)
		}
		kind, sure := classify(b)
		if http2, _ := classifyPreface(b); (kind == HTTP2) != (http2 == HTTP2) {
			t.Fatalf("%q: %v, as HTTP %v", b, kind, http2)
		}
		if len(b) == sniffLength && !sure {
			t.Fatalf("%q: undecided with a full buffer", b)
		}
		if !sure {
			return
		}
		// A sure answer stays the same whatever follows.
		if len(b) < sniffLength {
			if again, _ := classify(append(append([]byte{}, b...), 'x')); again != kind {
				t.Fatalf("%q: %v, with one more byte %v", b, kind, again)
			}
		}
	})
}
