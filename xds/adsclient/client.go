package adsclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/postern-proxy/postern/internal/observe"
)

// Resource is one resource as the control plane declared it.
type Resource struct {
	Name    string
	Version string
	Message proto.Message // of the type of its Update; the handler's to keep
}

// Update is one response. Upserted and Removed hold no name twice.
type Update struct {
	TypeURL  string
	Upserted []Resource
	Removed  []string
}

// Handler applies an update and returns nil; or Rejections, having applied everything else; or any other error, having applied nothing.
// It is called by one goroutine at a time, in the order in which the control plane sent. The first update of a type may be empty.
type Handler func(context.Context, Update) error

// Options are what New needs. Types and Handler are required.
type Options struct {
	// Types has one message, which may be a typed nil, for each type to follow, in the order in which to ask for them.
	Types   []proto.Message
	Handler Handler
	// OnConnect, unless nil, is called each time the control plane has answered on a new stream. It must not wait.
	OnConnect func()
	// NodeName is the label that the client gives itself.
	NodeName string
	Logger   *slog.Logger
	// Registerer takes the metrics; nil means that they are kept nowhere.
	Registerer prometheus.Registerer
	// MaxResources bounds the resources of one type; a response that goes beyond is rejected. Zero means 100,000.
	MaxResources int
	// MaxMessageBytes bounds one response. Zero means 64 MiB.
	MaxMessageBytes int
}

const (
	defaultMaxResources    = 100_000
	defaultMaxMessageBytes = 64 << 20
	firstBackoff           = 100 * time.Millisecond
	longestBackoff         = 15 * time.Second
	// wildcard asks for everything that this client may see.
	wildcard = "*"
)

// Client follows a control plane. Run may be called once; the other methods concurrently with it.
type Client struct {
	options Options
	logger  *slog.Logger
	metrics *metrics
	types   []*followed
	synced  chan struct{}

	connected  atomic.Bool
	lastUpdate atomic.Pointer[time.Time]
}

// followed is one type. It is owned by the goroutine of Run.
type followed struct {
	typeURL  string
	message  proto.Message
	versions map[string]string // what was accepted
	complete bool              // a first full answer has come
}

// TypeURL is the name by which xDS knows the type of a message.
func TypeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// New returns a client that has not connected yet.
func New(o Options) (*Client, error) {
	if len(o.Types) == 0 || o.Handler == nil {
		return nil, errors.New("make an ADS client: types and a handler are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxResources <= 0 {
		o.MaxResources = defaultMaxResources
	}
	if o.MaxMessageBytes <= 0 {
		o.MaxMessageBytes = defaultMaxMessageBytes
	}
	c := &Client{options: o, logger: o.Logger, synced: make(chan struct{})}
	for _, m := range o.Types {
		c.types = append(c.types, &followed{typeURL: TypeURL(m), message: m, versions: map[string]string{}})
	}
	var err error
	c.metrics, err = newMetrics(o.Registerer, c)
	return c, err
}

// Synced is closed once the first full answer for every type was handled.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Connected reports whether a stream is open on which the control plane has answered.
func (c *Client) Connected() bool { return c.connected.Load() }

// LastUpdate is when the last response was handled; zero when none was.
func (c *Client) LastUpdate() time.Time {
	if at := c.lastUpdate.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Run follows the control plane at the other end of conn until ctx ends, and returns nil then.
func (c *Client) Run(ctx context.Context, conn grpc.ClientConnInterface) error {
	backoff, reported := firstBackoff, false
	for {
		answered, err := c.follow(ctx, discovery.NewAggregatedDiscoveryServiceClient(conn))
		c.connected.Store(false)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the error is that of the end that was asked for
		}
		if answered {
			backoff, reported = firstBackoff, false
		}
		c.reportLoss(ctx, err, reported)
		reported = true
		if !pause(ctx, rand.N(backoff)) { //nolint:gosec // spreads load, guards nothing
			return nil
		}
		backoff = min(2*backoff, longestBackoff)
	}
}

// reportLoss warns once per outage.
func (c *Client) reportLoss(ctx context.Context, err error, again bool) {
	level := slog.LevelWarn
	if again {
		level = slog.LevelDebug
	}
	c.logger.LogAttrs(ctx, level, "authority is not reachable, keeping what is known", slog.String(observe.KeyError, err.Error()))
}

// pause waits and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow serves one stream to its end. It reports whether the control plane answered on it.
func (c *Client) follow(ctx context.Context, client discovery.AggregatedDiscoveryServiceClient) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.DeltaAggregatedResources(ctx, grpc.MaxCallRecvMsgSize(c.options.MaxMessageBytes))
	if err != nil {
		return false, fmt.Errorf("open stream: %w", err)
	}
	for i, t := range c.types {
		if err := stream.Send(c.opening(t, i == 0)); err != nil {
			return false, fmt.Errorf("subscribe to %q: %w", t.typeURL, receiveError(stream, err))
		}
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return answered, fmt.Errorf("receive: %w", err)
		}
		if !answered {
			answered = true
			c.connected.Store(true)
			c.logger.Info("following the authority")
			if c.options.OnConnect != nil {
				c.options.OnConnect()
			}
		}
		t := c.followed(response.GetTypeUrl())
		if t == nil {
			c.logger.Debug("response of a type that was not asked for")
			continue
		}
		if err := stream.Send(c.handle(ctx, t, response)); err != nil {
			return answered, fmt.Errorf("answer: %w", receiveError(stream, err))
		}
	}
}

// receiveError is the status behind a failed Send: gRPC tells it only to who receives.
func receiveError(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, sendErr error) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return errors.Join(sendErr, err)
		}
	}
}

// opening is the first request of a type on a stream.
func (c *Client) opening(t *followed, first bool) *discovery.DeltaDiscoveryRequest {
	req := &discovery.DeltaDiscoveryRequest{
		TypeUrl: t.typeURL, ResourceNamesSubscribe: []string{wildcard}, InitialResourceVersions: maps.Clone(t.versions),
	}
	if first {
		req.Node = &corev3.Node{Id: c.options.NodeName, UserAgentName: "postern"}
	}
	return req
}

func (c *Client) followed(typeURL string) *followed {
	for _, t := range c.types {
		if t.typeURL == typeURL {
			return t
		}
	}
	return nil
}

// handle applies a response and returns the answer to it.
func (c *Client) handle(ctx context.Context, t *followed, response *discovery.DeltaDiscoveryResponse) *discovery.DeltaDiscoveryRequest {
	update, rejections := t.decode(response)
	err := t.bound(update, c.options.MaxResources)
	if err == nil {
		err = c.options.Handler(ctx, update)
	}
	var more Rejections
	if errors.As(err, &more) {
		rejections, err = append(rejections, more...), nil
	}
	if err != nil {
		rejections = nil // everything is rejected, so nothing is named
	} else {
		t.accept(update, rejections)
		t.complete = t.complete || isComplete(response)
		c.noteSynced()
	}
	now := time.Now()
	c.lastUpdate.Store(&now)

	answer := &discovery.DeltaDiscoveryRequest{TypeUrl: t.typeURL, ResponseNonce: response.GetNonce()}
	if err == nil && len(rejections) > 0 {
		err = rejections
	}
	if err != nil {
		c.logger.Warn("rejected what the authority sent", slog.String(observe.KeyType, t.typeURL), slog.String(observe.KeyError, err.Error()))
		answer.ErrorDetail = status.New(codes.InvalidArgument, err.Error()).Proto()
		answer.ErrorDetail.Details = rejections.details()
	}
	c.metrics.handled(t.typeURL, err)
	return answer
}

func (c *Client) noteSynced() {
	for _, t := range c.types {
		if !t.complete {
			return
		}
	}
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
}
