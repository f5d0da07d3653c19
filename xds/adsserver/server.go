package adsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/postern-proxy/postern/internal/observe"
)

// Options are what New needs. Types and Authenticate are required.
type Options struct {
	// Types are the type URLs served, in the order in which a client must learn of them.
	Types []string
	// Authenticate returns who has opened a stream, from what the connection proved. Its error ends the stream; a gRPC status is passed on.
	Authenticate func(context.Context) (spiffeid.ID, error)
	Logger       *slog.Logger
	// Registerer takes the metrics; nil means that they are kept nowhere.
	Registerer prometheus.Registerer
	Limits     Limits
	// Coalesce is how long a change waits for further ones before it is sent. Zero sends at once.
	Coalesce time.Duration
}

// Limits bound what clients can make the server hold. A zero field takes its default.
type Limits struct {
	Streams        int           // open at once; 4,096
	StreamsPerNode int           // open at once by one identity; 8
	Names          int           // subscribed, and named as known, by one stream; 50,000
	ResponseBytes  int           // after which a response is cut and goes on in the next one; 16 MiB
	AnswerTimeout  time.Duration // for a client to take a response off the wire and answer it; 30 s
}

func (l Limits) withDefaults() Limits {
	l.Streams = orDefault(l.Streams, 4096)
	l.StreamsPerNode = orDefault(l.StreamsPerNode, 8)
	l.Names = orDefault(l.Names, 50_000)
	l.ResponseBytes = orDefault(l.ResponseBytes, 16<<20)
	if l.AnswerTimeout <= 0 {
		l.AnswerTimeout = 30 * time.Second
	}
	return l
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// MaxRequestBytes bounds one message of a client: 50,000 names with their versions fit.
const MaxRequestBytes = 8 << 20

// GRPCOptions are the server options that bound what a connection may do: the size of a message, the streams at once, the pace of
// keep-alives, and the time for a handshake. Dead connections are found within a minute.
func GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxRequestBytes),
		grpc.MaxConcurrentStreams(64),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 40 * time.Second, Timeout: 20 * time.Second}),
	}
}

// Server serves its tables to authenticated clients. All methods may be called concurrently.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	options Options
	limits  Limits
	logger  *slog.Logger
	metrics *metrics
	tables  map[string]*Table

	mu      sync.Mutex
	streams map[*stream]struct{}
	byNode  map[string]map[*stream]struct{}
	nextID  uint64
	waiters int // calls of WaitAcked
	// progress is closed, and replaced, when a stream acknowledged something, came or went.
	progress chan struct{}
}

// New returns a server with empty tables. It starts nothing.
func New(o Options) (*Server, error) {
	if len(o.Types) == 0 || o.Authenticate == nil {
		return nil, errors.New("make an ADS server: types and authentication are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		options: o, limits: o.Limits.withDefaults(), logger: o.Logger, tables: make(map[string]*Table, len(o.Types)),
		streams: map[*stream]struct{}{}, byNode: map[string]map[*stream]struct{}{}, progress: make(chan struct{}),
	}
	for _, typeURL := range o.Types {
		if s.tables[typeURL] != nil {
			return nil, fmt.Errorf("make an ADS server: type %q is given twice", typeURL)
		}
		s.tables[typeURL] = newTable(typeURL, s.wake)
	}
	var err error
	s.metrics, err = newMetrics(o.Registerer, s)
	return s, err
}

// Register adds the server to a gRPC server, whose credentials must make Options.Authenticate work.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Table returns the table of a type that Options.Types names. It panics on any other.
func (s *Server) Table(typeURL string) *Table {
	t := s.tables[typeURL]
	if t == nil {
		panic(fmt.Sprintf("adsserver: no table of type %q", typeURL))
	}
	return t
}

// WaitAcked waits until every connected stream that subscribes to the type has accepted the table's state of this generation or a
// later one. A stream that rejected something of it holds the wait up until it gets, and accepts, a newer version; one that
// disconnects does not. It returns the context's error when that ends first.
func (s *Server) WaitAcked(ctx context.Context, typeURL string, generation uint64) error {
	s.Table(typeURL) // panics early on a type that is not served
	s.countWaiter(1)
	defer s.countWaiter(-1)
	s.wake(Everyone()) // streams with nothing to see note that they are up to date
	for {
		s.mu.Lock()
		progress := s.progress
		s.mu.Unlock()
		lagging := s.lagging(typeURL, generation)
		if lagging == 0 {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d streams to accept generation %d of %q: %w", lagging, generation, typeURL, ctx.Err())
		}
	}
}

func (s *Server) countWaiter(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters += by
}

// lagging counts the streams that subscribe to a type and have not accepted the generation.
func (s *Server) lagging(typeURL string, generation uint64) int {
	count := 0
	for _, st := range s.snapshot() {
		if !st.accepted(typeURL, generation) {
			count++
		}
	}
	return count
}

// Evict ends the streams of an identity and returns how many there were. It does not keep the identity from connecting again.
func (s *Server) Evict(node spiffeid.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := s.byNode[node.String()]
	for st := range streams {
		st.evict()
	}
	return len(streams)
}

// Streams reports on every open stream, oldest first.
func (s *Server) Streams() []StreamStatus {
	streams := s.snapshot()
	slices.SortFunc(streams, func(a, b *stream) int { return int(a.id) - int(b.id) }) //nolint:gosec // identifiers are small
	statuses := make([]StreamStatus, 0, len(streams))
	for _, st := range streams {
		statuses = append(statuses, st.status())
	}
	return statuses
}

func (s *Server) snapshot() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		streams = append(streams, st)
	}
	return streams
}

// wake tells the streams of the audiences that there may be something to send.
func (s *Server) wake(audiences ...Audience) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := make(map[string]struct{}, len(audiences))
	for _, a := range audiences {
		if a.everyone {
			for st := range s.streams {
				st.poke()
			}
			return
		}
		nodes[a.node] = struct{}{}
	}
	for node := range nodes {
		for st := range s.byNode[node] {
			st.poke()
		}
	}
}

// progressed wakes those who wait for acknowledgements.
func (s *Server) progressed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters == 0 {
		return
	}
	close(s.progress)
	s.progress = make(chan struct{})
}

// serving is a logger for one stream.
func (s *Server) serving(client string) *slog.Logger {
	return s.logger.With(slog.String(observe.KeyNode, client))
}
