package workloadapi

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/internal/observe"
)

// securityHeader must come with every call, with the value "true".
const securityHeader = "workload.spiffe.io"

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	err = s.guard(ctx, info.FullMethod, func() (err error) {
		response, err = handler(ctx, request)
		return err
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}

func (s *Server) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return s.guard(stream.Context(), info.FullMethod, func() error { return handler(service, stream) })
}

// guard does for every call what does not depend on the method.
func (s *Server) guard(ctx context.Context, method string, call func() error) (err error) {
	from, err := callerOf(ctx)
	if err != nil {
		return err
	}
	defer func() { s.finish(from, method, err) }()
	if err := checkHeader(ctx); err != nil {
		return err
	}
	if !s.callers.enterStream(from.user) {
		return status.Error(codes.ResourceExhausted, "too many calls of this user are open")
	}
	defer s.callers.leaveStream(from.user)
	defer func() {
		if reason := recover(); reason != nil {
			s.metrics.panics.Inc()
			s.logger.error("panic in workload API",
				slog.String(observe.KeyType, method), slog.Any(observe.KeyError, reason), slog.String("stack", string(debug.Stack())))
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	return call()
}

// checkHeader follows SPIFFE Workload Endpoint, Section 3: "every client request to the SPIFFE Workload Endpoint MUST include the
// static gRPC metadata key workload.spiffe.io with a value of true (case sensitive). Requests not including this metadata key/value
// MUST be rejected", and Section 6: they "MUST" get InvalidArgument.
func checkHeader(ctx context.Context) error {
	values := metadata.ValueFromIncomingContext(ctx, securityHeader)
	if len(values) != 1 || values[0] != "true" {
		return status.Errorf(codes.InvalidArgument, "security header missing from request: send metadata %q with the value %q",
			securityHeader, "true")
	}
	return nil
}

func callerOf(ctx context.Context) (*caller, error) {
	p, ok := peer.FromContext(ctx)
	if ok {
		if from, ok := p.AuthInfo.(*caller); ok {
			return from, nil
		}
	}
	return nil, status.Error(codes.Internal, "the connection has no caller")
}

func (s *Server) finish(from *caller, method string, err error) {
	code := status.Code(err)
	s.metrics.calls.WithLabelValues(code.String()).Inc()
	switch code {
	case codes.OK, codes.Canceled:
	default:
		s.logger.info("workload API call ended",
			slog.String(observe.KeyPeer, from.String()), slog.String(observe.KeyType, method), slog.Any(observe.KeyError, err))
	}
}

// limitedLogger writes at most one line in logInterval, with the number of those it left out: any local process can make the
// server have something to say.
type limitedLogger struct {
	logger *slog.Logger

	mu      sync.Mutex
	next    time.Time
	skipped int
}

func newLimitedLogger(logger *slog.Logger) *limitedLogger {
	return &limitedLogger{logger: logger}
}

func (l *limitedLogger) debug(message string, attrs ...slog.Attr) {
	l.log(slog.LevelDebug, message, attrs)
}
func (l *limitedLogger) info(message string, attrs ...slog.Attr) {
	l.log(slog.LevelInfo, message, attrs)
}
func (l *limitedLogger) warn(message string, attrs ...slog.Attr) {
	l.log(slog.LevelWarn, message, attrs)
}
func (l *limitedLogger) error(message string, attrs ...slog.Attr) {
	l.log(slog.LevelError, message, attrs)
}

func (l *limitedLogger) log(level slog.Level, message string, attrs []slog.Attr) {
	now := time.Now()
	l.mu.Lock()
	skipped := l.skipped
	if now.Before(l.next) {
		l.skipped++
		l.mu.Unlock()
		return
	}
	l.skipped, l.next = 0, now.Add(logInterval)
	l.mu.Unlock()
	if skipped > 0 {
		attrs = append(attrs, slog.Int("skipped", skipped))
	}
	args := make([]any, len(attrs))
	for i, attr := range attrs {
		args[i] = attr
	}
	switch level {
	case slog.LevelError:
		l.logger.Error(message, args...) //nolint:sloglint // the callers' messages are constants
	case slog.LevelWarn:
		l.logger.Warn(message, args...) //nolint:sloglint // the callers' messages are constants
	case slog.LevelDebug:
		l.logger.Debug(message, args...) //nolint:sloglint // the callers' messages are constants
	default:
		l.logger.Info(message, args...) //nolint:sloglint // the callers' messages are constants
	}
}
