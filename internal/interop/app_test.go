package interop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// startApp serves an application that speaks HTTP/1.1 and, with prior knowledge, HTTP/2, both in plaintext. It returns its address.
func startApp(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: application(), ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 1 << 20, Protocols: new(http.Protocols)}
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetReadBuffer(slowBuffer)
		return ctx
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

func application() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", hello)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.Header().Set("Etag", `"v1"`)
		w.WriteHeader(code)
	})
	mux.HandleFunc("/trailers", trailers)
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "after the hints\n")
	})
	mux.HandleFunc("/large-header", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Large", r.Header.Get("X-Large"))
		_, _ = fmt.Fprintf(w, "%d\n", len(r.Header.Get("X-Large")))
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, io.LimitReader(pattern(), size))
	})
	mux.HandleFunc("/up", up)
	mux.HandleFunc("/drip", drip)
	mux.HandleFunc("/ws", echoMessages)
	return mux
}

func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "hello from the service\n")
}

// echo answers with the body, and says in fields what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Protocol", r.Proto)
	w.Header().Set("X-Target", r.RequestURI)
	w.Header().Set("X-Host", r.Host)
	if kind := r.Header.Get("Content-Type"); kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	body, _ := io.ReadAll(r.Body) // over HTTP/1.1 net/http reads no more once the answer has begun
	_, _ = w.Write(body)
}

// trailers answers with a trailer that has the checksum of the body, and the request's trailer X-Mark.
func trailers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Sum, X-Mark")
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
	sum := sha256.Sum256(body)
	w.Header().Set("X-Sum", hex.EncodeToString(sum[:]))
	w.Header().Set("X-Mark", r.Trailer.Get("X-Mark"))
}

// up answers with the checksum of the body. With the query rate=N it takes N bytes of it in a second, for ten seconds.
func up(w http.ResponseWriter, r *http.Request) {
	rate, _ := strconv.Atoi(r.URL.Query().Get("rate"))
	sum, err := sumOf(slowly(r.Context(), r.Body, rate))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, sum)
}

// drip writes the word "tick" every 50 ms until the caller goes or it has been done as often as the query says.
func drip(w http.ResponseWriter, r *http.Request) {
	times, _ := strconv.Atoi(r.URL.Query().Get("times"))
	for tick := time.NewTicker(50 * time.Millisecond); times > 0; times-- {
		if _, err := io.WriteString(w, "tick\n"); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// echoMessages is a WebSocket server that sends every message back, and closes with code and reason at the message "close CODE REASON".
func echoMessages(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(8 << 20)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if order, found := strings.CutPrefix(string(message[:min(len(message), 64)]), "close "); found {
			number, reason, _ := strings.Cut(order, " ")
			code, _ := strconv.Atoi(number)
			_ = conn.Close(websocket.StatusCode(code), reason)
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
