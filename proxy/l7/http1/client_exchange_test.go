package http1

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// unwritable is the stream of a connection that the upstream has closed: it ends, and takes nothing.
type unwritable struct{ fakeStream }

func (*unwritable) SetWriteDeadline(time.Time) error { return net.ErrClosed }

// heldBody says that a byte is at hand and gives none before it is closed: its sender comes as late as can be.
type heldBody struct {
	l7.Body
	closed chan struct{}
}

func (b heldBody) Ready() (int, bool) { return 1, false }
func (b heldBody) Read(p []byte) (int, error) {
	<-b.closed
	return b.Body.Read(p)
}
func (b heldBody) Close() error { close(b.closed); return nil }

// RFC 9110, Section 9.2.2: what is not idempotent is not repeated; nor can a body be sent again of which a part was read.
func TestRequestWhoseBodyWasReadCountsAsSent(t *testing.T) {
	rows := []struct {
		name   string
		stream l7.Stream
		body   func(content *l7.StringBody) l7.Body
	}{
		{"by a sender that comes late", &fakeStream{}, func(content *l7.StringBody) l7.Body {
			return heldBody{content, make(chan struct{})}
		}},
		{"by a sender that comes late and can write nothing", &unwritable{}, func(content *l7.StringBody) l7.Body {
			return heldBody{content, make(chan struct{})}
		}},
		{"at hand, and not written", &unwritable{}, func(content *l7.StringBody) l7.Body { return content }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			content := l7.NewStringBody("hello")
			req := &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: row.body(content)}
			_, err := NewClient(ClientOptions{}).NewConn(row.stream).RoundTrip(t.Context(), req, nil)
			rest, _ := io.ReadAll(content)
			if e, ok := errors.AsType[*l7.Error](err); !ok || !e.Sent || len(rest) > 0 {
				t.Errorf("error %#v, rest of the body %q", err, rest)
			}
		})
	}
}

func TestRequestWithoutBodyThatCannotBeWrittenIsNotSent(t *testing.T) {
	_, err := NewClient(ClientOptions{}).NewConn(&unwritable{}).RoundTrip(t.Context(), get("/"), nil)
	if e, ok := errors.AsType[*l7.Error](err); !ok || e.Sent {
		t.Errorf("error %#v", err)
	}
}

// streamedBody does not say what is at hand, so that a goroutine sends it.
type streamedBody struct {
	content *l7.StringBody
}

func (b streamedBody) Read(p []byte) (int, error) { return b.content.Read(p) }
func (b streamedBody) Trailer() *l7.Header        { return nil }
func (b streamedBody) Close() error               { return nil }

func TestCallerMayChangeTheRequestAfterRoundTrip(t *testing.T) {
	for range 50 {
		// The answer is there before the goroutine that sends the body has begun.
		stream := &fakeStream{rest: head("HTTP/1.1 503 Service Unavailable", "Content-Length: 0")}
		sent, other := l7.NewStringBody("sent"), l7.NewStringBody("other")
		req := &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: streamedBody{sent}}
		resp, err := NewClient(ClientOptions{}).NewConn(stream).RoundTrip(t.Context(), req, nil)
		req.Body, req.ContentLength = streamedBody{other}, 5
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if n, _ := sent.Ready(); n > 0 {
			t.Fatal("the body that was given was not sent")
		}
		if n, _ := other.Ready(); n != 5 {
			t.Fatal("a body that was not given was sent")
		}
	}
}
