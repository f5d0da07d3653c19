package http1

import (
	"bufio"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// countingDriver is l7.Goroutines that knows what it started and where it waited.
type countingDriver struct {
	l7.Goroutines
	started, parked atomic.Int32
	running         sync.WaitGroup
}

func (d *countingDriver) Go(f func()) {
	d.started.Add(1)
	d.running.Go(f)
}

func (d *countingDriver) NewParker() l7.Parker { return countingParker{d.Goroutines.NewParker(), d} }

type countingParker struct {
	l7.Parker
	driver *countingDriver
}

func (p countingParker) Park(deadline time.Time) bool {
	p.driver.parked.Add(1)
	return p.Parker.Park(deadline)
}

func TestOnlyABodyThatIsNotAtHandIsStarted(t *testing.T) {
	reader, writer := io.Pipe()
	rows := []struct {
		name    string
		request *l7.Request
		started int32
	}{
		{"no body", get("/"), 0},
		{"body at hand", post("hello"), 0},
		{"body that comes", &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: pipedBody{reader}}, 1},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			driver := &countingDriver{}
			c := scripted(t, ClientOptions{Driver: driver}, func(conn *net.TCPConn, r *bufio.Reader) {
				readRequest(t, r)
				_, _ = io.WriteString(conn, head(okLine, "Content-Length: 2")+"ok")
				_, _ = r.ReadByte()
			})
			if row.started > 0 {
				go func() {
					_, _ = io.WriteString(writer, "hello")
					_ = writer.Close()
				}()
			}
			if status, body, err := roundTrip(t, c, row.request); status != 200 || body != "ok" || err != nil {
				t.Errorf("%d %q %v", status, body, err)
			}
			driver.running.Wait()
			if got := driver.started.Load(); got != row.started {
				t.Errorf("%d functions were started", got)
			}
			if !c.Reusable() {
				t.Error("not reusable")
			}
		})
	}
}

// pipedBody waits for its content.
type pipedBody struct{ *io.PipeReader }

func (pipedBody) Trailer() *l7.Header { return nil }

// An exchange does not end before what it started has.
func TestCloseWaitsForTheSender(t *testing.T) {
	driver := &countingDriver{}
	c := scripted(t, ClientOptions{Driver: driver}, func(conn *net.TCPConn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, head("HTTP/1.1 413 Content Too Large", "Content-Length: 0"))
		_, _ = io.Copy(io.Discard, r)
	})
	body := &slowBody{closed: make(chan struct{})}
	resp, err := c.RoundTrip(t.Context(), &l7.Request{Method: "POST", Authority: "a", Path: "/", ContentLength: -1, Body: body}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	ended := make(chan struct{})
	go func() {
		driver.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the sender still runs")
	}
	if driver.started.Load() != 1 || driver.parked.Load() < 2 {
		t.Errorf("%d started, parked %d times", driver.started.Load(), driver.parked.Load())
	}
	if c.Reusable() {
		t.Error("reusable with half a request on it")
	}
}
