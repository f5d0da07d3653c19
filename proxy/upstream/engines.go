package upstream

import (
	"context"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
	"github.com/postern-proxy/postern/proxy/l7/http1"
	"github.com/postern-proxy/postern/proxy/l7/http2"
)

// multiplexed is what the pool needs of a connection that carries many requests at once: an *http2.ClientConn.
type multiplexed interface {
	// Reserve takes a place for one request, which RoundTrip uses up and Unreserve gives back; false when there is none.
	Reserve() bool
	Unreserve()
	RoundTrip(ctx context.Context, req *l7.Request, onInformational func(int, *l7.Header)) (*l7.Response, error)
	// Streams is the number of places that are taken.
	Streams() int
	// Drain ends the connection when none is, Close at once.
	Drain()
	Close() error
}

// engines speak the protocols of a cluster's connections.
type engines struct {
	http1 *http1.Client
	http2 *http2.Client
}

func newEngines(o *Options) engines {
	return engines{http1: http1.NewClient(o.HTTP), http2: http2.NewClient(o.HTTP2)}
}

// multiplex begins HTTP/2 on the stream. room is called when there are more places than before, ended once, when there will be none
// any more and no request is under way.
func (e *engines) multiplex(stream l7.Stream, room func(), ended func(observe.Reason)) multiplexed {
	return e.http2.NewConn(stream, http2.ClientEvents{Room: room, Ended: ended})
}

// wire is the stream beneath an HTTP/2 engine: of the connection it has the bytes and their count. The end of the connection is told
// by the engine.
type wire struct {
	l7.Stream
	conn *Conn
}

// Read implements l7.Stream.
func (w *wire) Read(p []byte) (int, error) { return w.conn.Read(p) }

// Write implements l7.Stream.
func (w *wire) Write(p []byte) (int, error) { return w.conn.Write(p) }

// Abort implements l7.Aborter.
func (w *wire) Abort() error { return l7.Abort(w.Stream) }
