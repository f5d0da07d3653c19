package e2e

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flapping is a service that is killed and comes back on the same address each second.
type flapping struct {
	address  string
	restarts atomic.Int64

	mu    sync.Mutex
	posts map[string]int // guarded by mu: how often each body came
}

func newFlapping(t *testing.T) *flapping {
	t.Helper()
	f := &flapping{posts: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = l.Addr().String()
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
			go func() { _ = server.Serve(l) }()
			select {
			case <-done:
				_ = server.Close()
				return
			case <-time.After(time.Second):
			}
			_ = server.Close() // cuts what is under way
			time.Sleep(100 * time.Millisecond)
			if l, err = net.Listen("tcp", f.address); err != nil {
				t.Errorf("come back: %v", err)
				return
			}
			f.restarts.Add(1)
		}
	})
	t.Cleanup(func() { close(done); running.Wait() })
	return f
}

func (f *flapping) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		_, _ = io.WriteString(w, "hello")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	f.posts[string(body)]++
	f.mu.Unlock()
	_, _ = io.WriteString(w, "done")
}

// twice is how many bodies came more than once.
func (f *flapping) twice() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, times := range f.posts {
		if times > 1 {
			n++
		}
	}
	return n
}
