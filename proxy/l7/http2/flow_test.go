package http2

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// sized answers with that many bytes.
func sized(n int) l7.Handler {
	return l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: int64(n), Body: l7.NewStringBody(fill(n))})
	})
}

// content reads DATA of stream 1 until n bytes have come, and no more within a moment.
func (p *peer) content(n int) {
	p.t.Helper()
	for n > 0 {
		switch f := p.frame().(type) {
		case *foreign.DataFrame:
			if f.StreamID == 1 {
				n -= len(f.Data())
			}
		case *foreign.GoAwayFrame, *foreign.RSTStreamFrame:
			p.t.Fatalf("got %v", f)
		}
	}
	if n < 0 {
		p.t.Fatalf("%d bytes too many", -n)
	}
}

// RFC 9113, Section 6.9.1: "The sender MUST NOT send a flow-controlled frame with a length that exceeds the space available in
// either of the flow-control windows".
func TestServerSendsWithinBothWindows(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: sized(200000)})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 10})
	p.get(1, "/")
	p.wantFrame(foreign.FrameHeaders)
	p.content(10)
	p.do(p.framer.WriteWindowUpdate(1, 20))
	p.content(20)
	p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 100}))
	p.content(90)
	p.do(p.framer.WriteWindowUpdate(1, 200000))
	p.content(65535 - 120) // now the connection's window is at its end
	p.ping()
	p.do(p.framer.WriteWindowUpdate(0, 1000))
	p.content(1000)
	p.do(p.framer.WriteWindowUpdate(0, 200000))
	p.content(200000 - 65535 - 1000)
}

// RFC 9113, Section 6.9.2: "A sender MUST track the negative flow-control window and MUST NOT send new flow-controlled frames until
// it receives WINDOW_UPDATE frames that cause the flow-control window to become positive".
func TestServerSendsNothingOnANegativeWindow(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: sized(200)})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 100})
	p.get(1, "/")
	p.wantFrame(foreign.FrameHeaders)
	p.content(100)
	p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 10})) // -90
	p.do(p.framer.WriteWindowUpdate(1, 90))
	p.ping() // nothing but its answer comes
	p.do(p.framer.WriteWindowUpdate(1, 30))
	p.content(30)
}

func TestServerEndsContentAtTheEndOfTheWindow(t *testing.T) {
	for name, length := range map[string]int64{"sized": 100} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
				_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: length, Body: &readerBody{r: strings.NewReader(fill(100))}})
			})})
			p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 100})
			p.get(1, "/")
			p.wantFrame(foreign.FrameHeaders)
			for {
				if f := p.wantFrame(foreign.FrameData).(*foreign.DataFrame); f.StreamEnded() {
					return
				}
			}
		})
	}
}

func TestServerSharesTheConnectionsWindowFairly(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: sized(1 << 20)})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1 << 20})
	for id := uint32(1); id < 8; id += 2 {
		p.get(id, "/")
	}
	got := map[uint32]int{}
	for total := 0; total < 2<<20; {
		if f, ok := p.frame().(*foreign.DataFrame); ok {
			n := len(f.Data())
			got[f.StreamID] += n
			total += n
			p.do(p.framer.WriteWindowUpdate(0, uint32(n)))
		}
	}
	for id := uint32(1); id < 8; id += 2 {
		if got[id] < 128<<10 {
			t.Errorf("stream %d got %d of 2 MiB", id, got[id])
		}
	}
}

func TestServerGivesUpOnAClientThatTakesNothing(t *testing.T) {
	failed := make(chan error, 1)
	s := startServer(t, ServerOptions{Timeouts: Timeouts{Write: 100 * time.Millisecond}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		if ex.Request().Path == "/" {
			_ = ex.WriteResponse(stringResponse(200, ""))
			return
		}
		failed <- ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: l7.NewStringBody(fill(100000))})
	})})
	for name, p := range map[string]*peer{
		"stream's window":     s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0}),
		"connection's window": s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1 << 20}),
	} {
		p.get(1, "/large")
		for {
			f := p.frame()
			if reset, ok := f.(*foreign.RSTStreamFrame); ok {
				if reset.ErrCode != foreign.ErrCodeCancel {
					t.Errorf("%s: %v", name, reset)
				}
				break
			}
		}
		if err := <-failed; l7.ReasonOf(err, "") != observe.IdleTimeout {
			t.Errorf("%s: %v", name, err)
		}
		p.get(3, "/") // the connection goes on
		p.want(3, "200", "")
	}
}

func TestServerGivesUpOnAClientThatTakesOneByteATime(t *testing.T) {
	failed := make(chan error, 1)
	s := startServer(t, ServerOptions{Timeouts: Timeouts{Write: 100 * time.Millisecond}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		failed <- ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: l7.NewStringBody(fill(100000))})
	})})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0})
	p.get(1, "/")
	began := time.Now()
	for {
		select {
		case err := <-failed:
			if l7.ReasonOf(err, "") != observe.IdleTimeout {
				t.Error(err)
			}
			return
		case <-time.After(20 * time.Millisecond):
			if time.Since(began) > 3*time.Second {
				t.Fatal("one byte each time keeps the stream for ever")
			}
			p.do(p.framer.WriteWindowUpdate(1, 1))
		}
	}
}

func TestServerIsPatientWithAClientThatIsSlow(t *testing.T) {
	s := startServer(t, ServerOptions{Timeouts: Timeouts{Write: 200 * time.Millisecond}, Handler: sized(20 * maxData)})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0})
	p.do(p.framer.WriteWindowUpdate(0, 1<<20))
	p.get(1, "/")
	p.wantFrame(foreign.FrameHeaders)
	for range 20 { // ten times as long as the longest wait for one share
		time.Sleep(30 * time.Millisecond)
		p.do(p.framer.WriteWindowUpdate(1, maxData))
		p.content(maxData)
	}
}

func TestServerRefusesWindowsThatAreTooLarge(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: sized(200000)}) // more than the connection's window
	p := s.client()
	p.do(p.framer.WriteWindowUpdate(0, maxWindow))
	p.wantGoAway(foreign.ErrCodeFlowControl)
	p = s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0})
	p.get(1, "/")
	p.do(p.framer.WriteWindowUpdate(1, maxWindow))
	p.do(p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 1 << 20}))
	p.wantGoAway(foreign.ErrCodeFlowControl)
}

func TestServerTakesNoMoreThanItsWindows(t *testing.T) {
	block := l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		<-ctx.Done()
		ex.Abort()
	})
	t.Run("stream", func(t *testing.T) {
		s := startServer(t, ServerOptions{Handler: block, Limits: Limits{StreamWindow: 65535}})
		p := s.client()
		p.post(1, "/")
		for range 4 {
			p.data(1, false, fill(16383))
		}
		p.ping()
		p.data(1, false, fill(16383))
		p.wantReset(1, foreign.ErrCodeFlowControl)
	})
	t.Run("connection", func(t *testing.T) {
		s := startServer(t, ServerOptions{Handler: block, Limits: Limits{ConnectionWindow: 65535}})
		p := s.client()
		p.post(1, "/")
		p.post(3, "/")
		for _, id := range []uint32{1, 3, 1, 3} {
			p.data(id, false, fill(16383))
		}
		p.ping()
		p.data(3, false, fill(16383))
		p.wantGoAway(foreign.ErrCodeFlowControl)
		_ = p.conn.Close()
		s.wantReason(observe.ProtocolError)
	})
}

func TestServerGivesTheConnectionsWindowBackForWhatNobodyReads(t *testing.T) {
	s := startServer(t, ServerOptions{Limits: Limits{ConnectionWindow: 65535}, Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
		switch ex.Request().Path {
		case "/early":
			_ = ex.WriteResponse(stringResponse(413, ""))
		case "/closed":
			_ = ex.Request().Body.Close()
			<-ctx.Done()
			ex.Abort()
		default:
			echo(ctx, ex)
		}
	})})
	p := s.client()
	id := uint32(1)
	for range 8 { // each would use the window up
		p.post(id, "/early")
		p.data(id, false, fill(16000))
		p.want0(id, "413", "")
		p.data(id, false, fill(16000)) // crosses the reset
		p.post(id+2, "/closed")
		p.data(id+2, false, fill(16000))
		p.data(id+2, false, fill(16000))
		p.do(p.framer.WriteRSTStream(id+2, foreign.ErrCodeCancel))
		p.ping()
		id += 4
	}
	p.post(id, "/")
	p.data(id, true, "body")
	p.want(id, "200", "POST a.example / body")
}

func TestServerReadsBodiesLargerThanItsWindows(t *testing.T) {
	s := startServer(t, ServerOptions{Limits: Limits{StreamWindow: 65535, ConnectionWindow: 65535}, Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		n, err := io.Copy(io.Discard, ex.Request().Body)
		if err != nil || n != 1<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
		_ = ex.WriteResponse(stringResponse(200, "thanks"))
	})})
	p := s.client()
	p.post(1, "/")
	stream, conn := 65535, 65535
	for left := 1 << 20; left > 0; {
		n := min(left, stream, conn, 16384)
		if n > 0 {
			p.do(p.framer.WriteDataPadded(1, left == n, []byte(fill(n)), nil))
			left, stream, conn = left-n, stream-n, conn-n
			continue
		}
		f := p.wantFrame0(foreign.FrameWindowUpdate).(*foreign.WindowUpdateFrame)
		if f.StreamID == 0 {
			conn += int(f.Increment)
		} else {
			stream += int(f.Increment)
		}
	}
	p.want(1, "200", "thanks")
}

// wantFrame0 is wantFrame for a frame that wantFrame reads over.
func (p *peer) wantFrame0(kind foreign.FrameType) foreign.Frame {
	p.t.Helper()
	for {
		if f := p.frame(); f.Header().Type == kind {
			return f
		}
	}
}

func TestStalledStreamsKeepNoBuffer(t *testing.T) {
	reads := make(chan struct{}, 100)
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(_ context.Context, ex l7.Exchange) {
		_ = ex.WriteResponse(&l7.Response{Status: 200, ContentLength: -1, Body: &readerBody{r: readerFunc(func(p []byte) (int, error) {
			reads <- struct{}{}
			return copy(p, "x"), nil
		})}})
	})})
	p := s.client(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 100; id += 2 {
		p.get(id, "/")
		p.wantFrame(foreign.FrameHeaders)
	}
	p.ping()
	if n := len(reads); n > 0 {
		t.Errorf("%d bodies were read that nobody can take", n)
	}
	_ = p.conn.Close()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
