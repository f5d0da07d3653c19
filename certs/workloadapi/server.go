package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/source"
)

// Defaults of ServerOptions, and limits that need no option.
const (
	defaultGrace              = time.Second
	defaultPatience           = time.Minute
	defaultMaxConnections     = 4096
	defaultMaxUserConnections = 512
	defaultMaxUserStreams     = 1024
	maxConnectionStreams      = 64
	attestTimeout             = 10 * time.Second
	// maxRequestSize is plenty for requests that are empty.
	maxRequestSize    = 64 << 10
	maxHeaderSize     = 16 << 10
	prefaceTimeout    = 10 * time.Second
	maxIdle           = 15 * time.Minute
	minClientPing     = 10 * time.Second
	stopTimeout       = 2 * time.Second
	logInterval       = time.Second
	serverPingAfter   = 2 * time.Minute
	serverPingTimeout = 20 * time.Second
)

// Identities gives a workload what its selectors earn. *source.Manager does.
type Identities interface {
	Subscribe(selectors []string) *source.Subscription
}

// ServerOptions are what a Server needs. Identities, Attestor and Logger are required.
type ServerOptions struct {
	Identities Identities
	Attestor   *workloadattestor.Attestor
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Grace is how long the first call of a connection waits for an entry before it is refused, and any call for an SVID that is about
	// to be issued. 0 means 1 s, negative means not at all.
	Grace time.Duration
	// Patience is how long a caller that was refused before is held. 0 means 1 minute.
	Patience time.Duration
	// MaxConnections bounds the connections. 0 means 4,096.
	MaxConnections int
	// MaxUserConnections and MaxUserStreams bound those of one user id, so that nobody takes the socket from the others. 0 means 512
	// and 1,024.
	MaxUserConnections int
	MaxUserStreams     int
}

// Server serves the Workload API. It may serve one listener.
type Server struct {
	options  ServerOptions
	logger   *limitedLogger
	grpc     *grpc.Server
	callers  *callers
	metrics  *serverMetrics
	stopping chan struct{}
	stopOnce sync.Once
}

// NewServer returns a server that serves nothing yet.
func NewServer(options ServerOptions) (*Server, error) {
	switch {
	case options.Identities == nil:
		return nil, errors.New("workload API server without identities")
	case options.Attestor == nil:
		return nil, errors.New("workload API server without attestor")
	case options.Logger == nil:
		return nil, errors.New("workload API server without logger")
	}
	options.Grace = max(orDefault(options.Grace, defaultGrace), 0)
	options.Patience = orDefault(options.Patience, defaultPatience)
	options.MaxConnections = orDefault(options.MaxConnections, defaultMaxConnections)
	options.MaxUserConnections = orDefault(options.MaxUserConnections, defaultMaxUserConnections)
	options.MaxUserStreams = orDefault(options.MaxUserStreams, defaultMaxUserStreams)
	metrics, err := newServerMetrics(options.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		options:  options,
		logger:   newLimitedLogger(options.Logger),
		metrics:  metrics,
		stopping: make(chan struct{}),
	}
	s.callers = &callers{
		attestor:           options.Attestor,
		logger:             s.logger,
		gone:               newLimitedLogger(options.Logger),
		metrics:            metrics,
		maxConnections:     options.MaxConnections,
		maxUserConnections: options.MaxUserConnections,
		maxUserStreams:     options.MaxUserStreams,
		users:              make(map[uint32]*user),
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(s.callers),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxConcurrentStreams(maxConnectionStreams),
		grpc.MaxRecvMsgSize(maxRequestSize),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(maxHeaderSize),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, Time: serverPingAfter, Timeout: serverPingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(s.grpc, &service{server: s})
	// SPIFFE Workload Endpoint, Section 7: "endpoint implementers SHOULD include support for gRPC Server Reflection".
	reflection.RegisterV1(s.grpc)
	return s, nil
}

// Serve serves listener, whose connections are *net.UnixConn, until ctx is done. Then every stream ends with Unavailable, the
// listener is closed, and Serve returns nil once all is over.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(listener) }()
	select {
	case err := <-served:
		s.stop()
		s.callers.wait()
		return fmt.Errorf("serve workload API: %w", err)
	case <-ctx.Done():
	}
	s.stop()
	err := <-served
	s.callers.wait()
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve workload API: %w", err)
	}
	return nil
}

// stop ends the streams, then the connections.
func (s *Server) stop() {
	s.stopOnce.Do(func() { close(s.stopping) })
	timer := time.AfterFunc(stopTimeout, s.grpc.Stop)
	defer timer.Stop()
	s.grpc.GracefulStop()
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
