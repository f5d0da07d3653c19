package http2

import (
	"net"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// endless is a stream during whose writes others have more to send, until it is told to stop.
type endless struct {
	net.Conn
	conn  *ServerConn
	stop  chan struct{}
	ended chan struct{}
}

func (e *endless) Write(p []byte) (int, error) {
	select {
	case <-e.stop:
		close(e.ended)
	default:
		e.conn.mu.Lock()
		e.conn.out.add(appendPing(nil, flagAck, [8]byte{}))
		e.conn.mu.Unlock()
	}
	return len(p), nil
}
func (e *endless) SetWriteDeadline(time.Time) error { return nil }
func (e *endless) CloseWrite() error                { return nil }

func TestNobodyWritesForOthersForever(t *testing.T) {
	e := &endless{stop: make(chan struct{}), ended: make(chan struct{})}
	e.conn = NewServer(ServerOptions{Handler: l7.HandlerFunc(echo)}).NewConn(e)
	flushed := make(chan struct{})
	go func() {
		e.conn.flush()
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-time.After(patienceOfTests):
		t.Error("who flushed does not come back")
	}
	close(e.stop)
	<-e.ended
	eventually(t, "an end of writing", func() bool {
		e.conn.mu.Lock()
		defer e.conn.mu.Unlock()
		return e.conn.quiet() && !e.conn.out.writing
	})
}
