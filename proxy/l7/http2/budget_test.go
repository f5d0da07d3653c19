package http2

import (
	"context"
	"fmt"
	"testing"
	"time"

	foreign "golang.org/x/net/http2"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestBudgetAllowsResetsUpToHalfOfTheStreamsAndSome(t *testing.T) {
	now := time.Unix(1000, 0)
	count := func(streamsPerReset int) int {
		var b budget
		for n := 0; n < 10000; n++ {
			for range streamsPerReset {
				b.streamBegan()
			}
			if b.reset(now) != nil {
				return n
			}
		}
		return -1
	}
	if n := count(0); n != freeResets {
		t.Errorf("%d resets without streams", n)
	}
	if n := count(1); n < 390 || n > 410 { // each reset stream allows half a reset
		t.Errorf("%d resets of every stream", n)
	}
	if n := count(2); n != -1 {
		t.Errorf("a client that cancels every other request is ended after %d", n)
	}
}

func TestBudgetForgetsResetsInTime(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	for range 20 {
		for range freeResets {
			if b.reset(now) != nil {
				t.Fatal("ended although the resets are rare")
			}
		}
		now = now.Add(resetPeriod + time.Second)
	}
}

func TestBudgetBoundsControlFramesInTime(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	for range 5 {
		for range freeControl {
			if b.controlFrame(now) != nil {
				t.Fatal("ended within the budget")
			}
		}
		now = now.Add(controlPeriod + time.Second)
	}
	for range freeControl {
		_ = b.controlFrame(now)
	}
	if b.controlFrame(now) == nil {
		t.Error("not ended beyond the budget")
	}
}

func TestBudgetGivesCreditForDataAndStreams(t *testing.T) {
	var b budget
	now := time.Unix(1000, 0)
	for range 100000 { // a download whose frames are all acknowledged, to the stream and the connection
		b.dataSent()
		for range 2 {
			if b.controlFrame(now) != nil {
				t.Fatal("a client that acknowledges what it reads is ended")
			}
		}
	}
	n := 0
	for ; b.controlFrame(now) == nil; n++ {
	}
	if n > maxCredit+freeControl {
		t.Errorf("%d frames after a long honest life", n)
	}
}

// Each flood ends the connection, with the reason abuse, within a number of frames that costs the client more than us; a request on
// another connection is answered meanwhile.
func TestServerEndsFloods(t *testing.T) {
	for name, flood := range map[string]func(p *peer, i int) error{
		"rapid reset": func(p *peer, i int) error { // CVE-2023-44487
			_ = p.begin(uint32(2*i+1), true, request("GET", "/")...)
			return p.framer.WriteRSTStream(uint32(2*i+1), foreign.ErrCodeCancel)
		},
		"resets that we are made to send by window": func(p *peer, i int) error { // CVE-2025-8671
			_ = p.begin(uint32(2*i+1), true, request("GET", "/slow")...)
			return p.framer.WriteWindowUpdate(uint32(2*i+1), 0)
		},
		"resets that we are made to send by overflow": func(p *peer, i int) error {
			_ = p.begin(uint32(2*i+1), true, request("GET", "/slow")...)
			return p.framer.WriteWindowUpdate(uint32(2*i+1), maxWindow)
		},
		"resets that we are made to send by length": func(p *peer, i int) error {
			_ = p.begin(uint32(2*i+1), false, request("POST", "/", "content-length: 1")...)
			return p.framer.WriteData(uint32(2*i+1), true, nil)
		},
		"malformed requests": func(p *peer, i int) error {
			return p.begin(uint32(2*i+1), true, request("GET", "/", "connection: close")...)
		},
		"streams beyond the limit": func(p *peer, i int) error {
			return p.begin(uint32(2*i+1), false, request("POST", "/wait")...)
		},
		"PING":     func(p *peer, _ int) error { return p.framer.WritePing(false, [8]byte{}) },
		"PING ack": func(p *peer, _ int) error { return p.framer.WritePing(true, [8]byte{}) },
		"SETTINGS": func(p *peer, _ int) error { return p.framer.WriteSettings() },
		"SETTINGS that change windows": func(p *peer, i int) error {
			return p.framer.WriteSettings(foreign.Setting{ID: foreign.SettingInitialWindowSize, Val: uint32(i%2 + 1)})
		},
		"SETTINGS ack": func(p *peer, _ int) error { return p.framer.WriteSettingsAck() },
		"PRIORITY": func(p *peer, i int) error {
			return p.framer.WritePriority(uint32(2*i+1), foreign.PriorityParam{StreamDep: 0})
		},
		"WINDOW_UPDATE": func(p *peer, _ int) error { return p.framer.WriteWindowUpdate(0, 1) },
		"unknown frame": func(p *peer, _ int) error { return p.framer.WriteRawFrame(0x20, 0, 0, nil) },
		"empty DATA": func(p *peer, i int) error {
			if i == 0 {
				p.post(1, "/wait")
			}
			return p.framer.WriteData(1, false, nil)
		},
		"padding alone": func(p *peer, i int) error {
			if i == 0 {
				p.post(1, "/wait")
			}
			return p.framer.WriteDataPadded(1, false, nil, make([]byte, 10))
		},
		"resets of closed streams": func(p *peer, i int) error {
			if i == 0 {
				p.get(1, "/")
			}
			return p.framer.WriteRSTStream(1, foreign.ErrCodeCancel)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(func(ctx context.Context, ex l7.Exchange) {
				switch ex.Request().Path {
				case "/wait", "/slow":
					<-ctx.Done()
					ex.Abort()
				default:
					echo(ctx, ex)
				}
			})})
			p := s.client()
			other := s.client()
			readers := make(chan error, 1)
			go func() { readers <- p.readToGoAway(foreign.ErrCodeEnhanceYourCalm) }()
			for i := range 20000 {
				if flood(p, i) != nil {
					break
				}
			}
			if err := <-readers; err != nil {
				t.Error(err)
			}
			s.wantReason(observe.Abuse)
			other.get(1, "/")
			other.want(1, "200", "GET a.example /")
		})
	}
}

// readToGoAway reads until the connection ends and wants that code in its last words.
func (p *peer) readToGoAway(code foreign.ErrCode) error {
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return err
		}
		if f, ok := f.(*foreign.GoAwayFrame); ok && f.ErrCode != foreign.ErrCodeNo {
			if f.ErrCode != code {
				return fmt.Errorf("got %v", f)
			}
			_ = p.conn.Close()
			return nil
		}
	}
}

func TestServerEndsAPeerThatAsksAndDoesNotRead(t *testing.T) {
	s := startServer(t, ServerOptions{Handler: l7.HandlerFunc(echo), Timeouts: Timeouts{Write: 200 * time.Millisecond}})
	p := s.client()
	_ = p.conn.SetReadBuffer(4096)
	var frames []byte
	for range 900 { // below the budget of each period
		frames = appendPing(frames, 0, [8]byte{})
	}
	for id := uint32(1); ; id += 2 {
		frames = append(frames, appendWindowUpdate(nil, 0, 1<<20)...)
		_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second))
		err := p.begin(id, true, request("GET", "/"+fill(8000))...)
		if _, writeErr := p.conn.Write(frames); err != nil || writeErr != nil || id > 20000 {
			break
		}
		frames = frames[:0]
	}
	select {
	case got := <-s.reasons:
		if got != observe.IdleTimeout && got != observe.Abuse {
			t.Errorf("ended for %q", got)
		}
	case <-time.After(patienceOfTests):
		t.Fatal("did not end")
	}
}

func TestServerEndsFieldBlocksWithoutEnd(t *testing.T) {
	for name, send := range map[string]func(p *peer){
		"too large": func(p *peer) {
			part := p.fields("x: " + fill(16000))
			for range 20 {
				if p.framer.WriteContinuation(1, false, part) != nil {
					return
				}
			}
		},
		"too many small": func(p *peer) {
			for range 20 {
				_ = p.framer.WriteContinuation(1, false, p.fields("x: 1"))
			}
		},
		"empty": func(p *peer) { _ = p.framer.WriteContinuation(1, false, nil) },
	} {
		t.Run(name, func(t *testing.T) { // CVE-2024-27316 and its kin
			s := echoServer(t)
			p := s.client()
			p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 1, BlockFragment: p.fields(request("GET", "/")...), EndStream: true}))
			send(p)
			p.wantGoAway(foreign.ErrCodeEnhanceYourCalm)
			_ = p.conn.Close()
			s.wantReason(observe.Abuse)
		})
	}
}

func TestServerRefusesHeadsAboveTheLimitAndEndsAConnectionThatBringsABomb(t *testing.T) {
	s := echoServer(t)
	p := s.client()
	p.headers(1, true, request("GET", "/", "x: "+fill(4000))...) // in the table now
	p.want(1, "200", "GET a.example /")
	block := p.fields(request("GET", "/")...)
	one := p.fields("x: " + fill(4000))
	for range 20 {
		block = append(block, one...) // a byte that stands for 4,000
	}
	p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndHeaders: true, EndStream: true}))
	p.want(3, "431", "")
	p.get(5, "/")
	p.want(5, "200", "GET a.example /")
	for len(block) < 16000 {
		block = append(block, one...)
	}
	p.do(p.framer.WriteHeaders(foreign.HeadersFrameParam{StreamID: 7, BlockFragment: block, EndHeaders: true, EndStream: true}))
	p.wantGoAway(foreign.ErrCodeEnhanceYourCalm)
}
