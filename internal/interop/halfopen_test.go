package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain lets this binary be the service behind a cut cable as well: see TestDeadUpstreamIsNoticedWithinThirtySeconds.
func TestMain(m *testing.M) {
	if address := os.Getenv("POSTERN_INTEROP_SERVE"); address != "" {
		fmt.Println(serveSilently(address))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveSilently answers /, and never anything else, over HTTP/1.1 and HTTP/2 without TLS.
func serveSilently(address string) error {
	server := &http.Server{Addr: address, ReadHeaderTimeout: time.Minute, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			_, _ = io.WriteString(w, "hello")
			return
		}
		<-r.Context().Done()
	})
	return server.ListenAndServe()
}

// The far end of a connection vanishes without a word (a cable is cut, a machine loses power): who waits for its answer is told within
// thirty seconds, by keepalive on HTTP/1.1 and by PING on HTTP/2 (RFC 9113, Section 6.7).
func TestDeadUpstreamIsNoticedWithinThirtySeconds(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a cable is cut in a network namespace, which needs root")
	}
	for i, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			far := newFarAway(t, i)
			p := startProxy(t, far.address, "insecure_plaintext: true, protocol: "+protocol)
			client := httpClient(t, 1, p.Plain, nil)
			resp, err := client.Get("http://" + p.Plain + "/")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("before the cut: %s", resp.Status)
			}
			answer := make(chan string, 1)
			go func() {
				resp, err := client.Get("http://" + p.Plain + "/silent")
				if err != nil {
					answer <- err.Error()
					return
				}
				defer func() { _ = resp.Body.Close() }()
				body, _ := io.ReadAll(resp.Body)
				answer <- fmt.Sprint(resp.StatusCode, " ", string(body))
			}()
			time.Sleep(500 * time.Millisecond) // the request is on its way before the cable is cut
			far.cut(t)
			cut := time.Now()
			select {
			case got := <-answer:
				t.Logf("noticed after %v: %s", time.Since(cut).Round(time.Millisecond), strings.TrimSpace(got))
				if !strings.HasPrefix(got, "50") {
					t.Errorf("the client was told %q", got)
				}
			case <-time.After(30 * time.Second):
				t.Error("not noticed within thirty seconds")
			}
		})
	}
}

// farAway is a service in a network namespace of its own.
type farAway struct{ address, link string }

func newFarAway(t *testing.T, i int) farAway {
	t.Helper()
	need(t, "ip")
	name := fmt.Sprintf("pst%d-%d", os.Getpid()%10000, i)
	near, far := fmt.Sprintf("10.213.%d.1", 2*i+os.Getpid()%100), fmt.Sprintf("10.213.%d.2", 2*i+os.Getpid()%100)
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	run("link", "add", name, "type", "veth", "peer", "name", "far0", "netns", name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	run("addr", "add", near+"/30", "dev", name)
	run("link", "set", name, "up")
	run("-n", name, "addr", "add", far+"/30", "dev", "far0")
	run("-n", name, "link", "set", "far0", "up")
	address := net.JoinHostPort(far, "8080")
	serve := exec.Command("ip", "netns", "exec", name, os.Args[0])
	serve.Env = append(os.Environ(), "POSTERN_INTEROP_SERVE="+address)
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Process.Kill(); _ = serve.Wait() })
	for end := time.Now().Add(10 * time.Second); ; {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = c.Close()
			return farAway{address, name}
		}
		if time.Now().After(end) {
			t.Fatal("the service does not answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cut lets packets vanish without a word: the route stays, and nobody says that the other end is gone.
func (f farAway) cut(t *testing.T) {
	t.Helper()
	host, _, _ := net.SplitHostPort(f.address)
	if out, err := exec.Command("ip", "-n", f.link, "link", "set", "far0", "down").CombinedOutput(); err != nil {
		t.Fatalf("cut the cable to %s: %v\n%s", host, err, out)
	}
}
