package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// AccessLog writes flows and requests as JSON lines. Writing never blocks a connection: lines wait in a bounded queue, and what
// does not fit is dropped and counted. Its methods may be called concurrently; on a nil *AccessLog they do nothing.
type AccessLog struct {
	handler slog.Handler
	queue   chan []byte
	waiting atomic.Int64 // bytes in queue
	dropped prometheus.Counter
}

// accessQueue and accessQueueBytes are how many lines may wait, and how many bytes: a tenth of a second at 40,000 requests per
// second is about 3 MiB, but callers choose how long their paths are.
const (
	accessQueue      = 4096
	accessQueueBytes = 16 << 20
)

// NewAccessLog returns a log whose lines Run writes. dropped counts the lines that found the queue full.
func NewAccessLog(dropped prometheus.Counter) *AccessLog {
	log := &AccessLog{queue: make(chan []byte, accessQueue), dropped: dropped}
	log.handler = slog.NewJSONHandler(queueWriter{log}, &slog.HandlerOptions{ReplaceAttr: onlyFacts})
	return log
}

// Run writes the queued lines to w until ctx ends, then what is still queued. An error of w is returned at once.
func (l *AccessLog) Run(ctx context.Context, w io.Writer) error {
	for {
		select {
		case line := <-l.queue:
			if err := l.writeOut(w, line); err != nil {
				return err
			}
		case <-ctx.Done():
			return l.flush(w)
		}
	}
}

// writeOut writes a line taken from the queue, with those behind it.
func (l *AccessLog) writeOut(w io.Writer, line []byte) error {
	lines := l.gather(line)
	l.waiting.Add(-int64(len(lines)))
	if _, err := w.Write(lines); err != nil {
		return fmt.Errorf("write access log: %w", err)
	}
	return nil
}

// gather appends to line what else is queued, up to 64 KiB, so that a busy log costs one system call for many lines.
func (l *AccessLog) gather(line []byte) []byte {
	for len(line) < 64<<10 {
		select {
		case next := <-l.queue:
			line = append(line, next...)
		default:
			return line
		}
	}
	return line
}

func (l *AccessLog) flush(w io.Writer) error {
	for {
		select {
		case line := <-l.queue:
			if err := l.writeOut(w, line); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// Request records one request.
func (l *AccessLog) Request(a *Access) {
	if l == nil {
		return
	}
	attrs := make([]slog.Attr, 0, 28)
	attrs = append(attrs, slog.String("type", "request"),
		slog.String(KeyRequestID, a.RequestID), slog.String(KeyListener, a.Listener),
		slog.String("principal", a.Principal), slog.String("source", a.Source),
		slog.String("method", a.Method), slog.String("host", a.Host), slog.String(KeyPath, a.Path),
		slog.String("protocol", a.Protocol), slog.Int("status", a.Status), seconds(a.Duration),
		slog.Int64("bytes_in", a.BytesIn), slog.Int64("bytes_out", a.BytesOut), slog.Uint64(KeyGeneration, a.Generation))
	attrs = present(attrs, KeyService, a.Service, KeyRoute, a.Route, KeyCluster, a.Cluster, KeyEndpoint, a.Endpoint,
		KeySerial, a.Serial, "trace_id", a.TraceID, "effect", a.Effect, KeyDecision, a.Decision, KeyPolicy, a.Policy, KeyRule, a.Rule,
		KeyReason, string(a.Reason), "cause", a.Cause)
	if len(a.Shadow) > 0 {
		attrs = append(attrs, slog.Any("shadow", a.Shadow))
	}
	l.write(a.Started, attrs)
}

// Flow records one connection.
func (l *AccessLog) Flow(f *Flow) {
	if l == nil {
		return
	}
	attrs := make([]slog.Attr, 0, 28)
	attrs = append(attrs, slog.String("type", "flow"), slog.String("direction", f.Direction),
		slog.String("source", f.Source), slog.String("target", f.Target), seconds(f.Duration), slog.Int("requests", f.Requests),
		slog.Int64("bytes_in", f.BytesIn), slog.Int64("bytes_out", f.BytesOut), slog.String("close", f.Close.String()))
	attrs = present(attrs, KeyListener, f.Listener, KeyService, f.Service, KeyCluster, f.Cluster, KeyPeer, f.TLS.Peer,
		KeySerial, f.TLS.Serial, KeyAuthority, f.TLS.Issuer, "tls_version", f.TLS.Version, "tls_group", f.TLS.Group, "alpn", f.TLS.ALPN,
		"server_name", f.TLS.ServerName, "ja4", f.TLS.JA4, "via", f.Via, KeySPIFFEID, f.Own, KeyDecision, f.Decision, "cause", f.Cause)
	if f.TLS.Resumed {
		attrs = append(attrs, slog.Bool("tls_resumed", true))
	}
	l.write(f.Started, attrs)
}

func (l *AccessLog) write(started time.Time, attrs []slog.Attr) {
	record := slog.NewRecord(started, slog.LevelInfo, "", 0)
	record.AddAttrs(attrs...)
	_ = l.handler.Handle(nil, record) //nolint:staticcheck // the JSON handler asks nothing of its context, and queueWriter has no error
}

func seconds(d time.Duration) slog.Attr { return slog.Float64("seconds", d.Seconds()) }

// present appends the pairs whose value is not empty.
func present(attrs []slog.Attr, pairs ...string) []slog.Attr {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			attrs = append(attrs, slog.String(pairs[i], pairs[i+1]))
		}
	}
	return attrs
}

// onlyFacts leaves out the level and the message, which say nothing in an access log.
func onlyFacts(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

// queueWriter takes the handler's lines, one a call, into the queue.
type queueWriter struct{ log *AccessLog }

func (w queueWriter) Write(line []byte) (int, error) {
	size := int64(len(line))
	if w.log.waiting.Add(size) > accessQueueBytes {
		w.drop(size)
		return len(line), nil
	}
	select {
	case w.log.queue <- append([]byte(nil), line...):
	default:
		w.drop(size)
	}
	return len(line), nil
}

func (w queueWriter) drop(size int64) {
	w.log.waiting.Add(-size)
	w.log.dropped.Inc()
}
