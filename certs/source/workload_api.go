package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/internal/observe"
)

const (
	// maxWorkloadAPIMessage bounds a message of the Workload API; 500 SVIDs with their bundles are about 2 MB.
	maxWorkloadAPIMessage = 16 << 20
	maxWorkloadAPIRetry   = 5 * time.Second
	// abandonedRetry is the wait after an answer that go-spiffe takes as final.
	abandonedRetry = 10 * time.Second
)

// WorkloadAPIOptions say whose Workload API to follow. Logger is required.
type WorkloadAPIOptions struct {
	// Socket is a URL as SPIFFE Workload Endpoint, Section 4, has it ("unix:///run/spire/agent.sock"); empty means the environment's
	// SPIFFE_ENDPOINT_SOCKET.
	Socket     string
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// WorkloadAPI follows a SPIFFE Workload API: postern's own in another process, SPIRE's, or any other. While it cannot be reached,
// what was received last serves to the end of its life; when the API says that this process is entitled to nothing
// (PermissionDenied), it is dropped.
type WorkloadAPI struct {
	options WorkloadAPIOptions
	metrics *metrics
	changed chan struct{} // tells Run that the ends of life are others

	fallback Holder

	mu         sync.Mutex
	generation uint64
	identities map[spiffeid.ID]*Holder
	current    []*X509 // in the order of the last message
}

// NewWorkloadAPI returns a source that has not been connected: Run does that.
func NewWorkloadAPI(options WorkloadAPIOptions) (*WorkloadAPI, error) {
	if options.Logger == nil {
		return nil, errors.New("workload API source without logger")
	}
	if options.Socket != "" {
		if err := workloadapi.ValidateAddress(options.Socket); err != nil {
			return nil, fmt.Errorf("workload API socket %q: %w", options.Socket, err)
		}
	}
	metrics, err := newMetrics(options.Registerer)
	if err != nil {
		return nil, err
	}
	return &WorkloadAPI{
		options:    options,
		metrics:    metrics,
		changed:    make(chan struct{}, 1),
		identities: make(map[spiffeid.ID]*Holder),
	}, nil
}

// Default returns the holder of the default identity: the first of each message (SPIFFE Workload API, Section 8).
func (w *WorkloadAPI) Default() *Holder { return &w.fallback }

// Identity returns the holder of one identity. It may be asked for before the identity was received.
func (w *WorkloadAPI) Identity(id spiffeid.ID) *Holder {
	w.mu.Lock()
	defer w.mu.Unlock()
	holder, ok := w.identities[id]
	if !ok {
		holder = new(Holder)
		w.identities[id] = holder
		w.hold()
	}
	return holder
}

// Run follows the API until ctx is done, across its outages, and returns nil. An error means that no client could be made.
func (w *WorkloadAPI) Run(ctx context.Context) error {
	options := []workloadapi.ClientOption{
		workloadapi.WithBackoffStrategy(workloadAPIBackoff{}),
		workloadapi.WithDialOptions(
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxWorkloadAPIRetry},
				MinConnectTimeout: maxWorkloadAPIRetry,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxWorkloadAPIMessage)),
		),
	}
	if w.options.Socket != "" {
		options = append(options, workloadapi.WithAddr(w.options.Socket))
	}
	client, err := workloadapi.New(ctx, options...)
	if err != nil {
		return fmt.Errorf("make workload API client: %w", err)
	}
	defer func() { _ = client.Close() }()
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { w.watch(ctx, client) })
	w.watchEnds(ctx)
	return nil
}

// watch keeps a stream open. go-spiffe does so itself, except after the answers Canceled and InvalidArgument.
func (w *WorkloadAPI) watch(ctx context.Context, client *workloadapi.Client) {
	for {
		err := client.WatchX509Context(ctx, &watcher{w})
		if ctx.Err() != nil {
			return
		}
		w.options.Logger.Error("workload API refuses the call", slog.Any(observe.KeyError, err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(abandonedRetry):
		}
	}
}

// watchEnds drops SVIDs whose life is over.
func (w *WorkloadAPI) watchEnds(ctx context.Context) {
	timer := time.NewTimer(maxSleep)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-timer.C:
		}
		timer.Reset(w.dropEnded(time.Now()))
	}
}

// dropEnded returns when to look again.
func (w *WorkloadAPI) dropEnded(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := maxSleep
	var live []*X509
	for _, x := range w.current {
		if !now.Before(x.NotAfter) {
			w.options.Logger.Error("SVID of workload API expired and was not replaced",
				slog.String(observe.KeySPIFFEID, x.ID.String()), slog.Time(observe.KeyNotAfter, x.NotAfter))
			continue
		}
		live = append(live, x)
		next = min(next, x.NotAfter.Sub(now))
	}
	if len(live) != len(w.current) {
		w.replace(live)
	}
	return next
}

// replace makes svids what is held. The caller holds mu.
func (w *WorkloadAPI) replace(svids []*X509) {
	before := make(map[spiffeid.ID]*X509)
	for _, x := range w.current {
		before[x.ID] = x
	}
	w.current = svids
	for _, x := range svids {
		if old := before[x.ID]; old != nil && !old.Certificate.Leaf.Equal(x.Certificate.Leaf) {
			w.metrics.rotations.Inc()
		}
		delete(before, x.ID)
		w.metrics.setOwn(x.ID.String(), x)
	}
	for id := range before {
		w.metrics.setOwn(id.String(), nil)
	}
	w.hold()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// hold puts what is current into the holders. The caller holds mu.
func (w *WorkloadAPI) hold() {
	byID := make(map[spiffeid.ID]*X509)
	var first *X509
	for _, x := range w.current {
		if first == nil {
			first = x
		}
		if byID[x.ID] == nil {
			byID[x.ID] = x
		}
	}
	for id, holder := range w.identities {
		holder.Set(byID[id])
	}
	w.fallback.Set(first) // last: who waits for the default finds the others in place
}

// receive takes a message: the full state.
func (w *WorkloadAPI) receive(message *workloadapi.X509Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	bundles := x509bundle.NewSet(message.Bundles.Bundles()...)
	svids := make([]*X509, 0, len(message.SVIDs))
	for _, svid := range message.SVIDs {
		w.generation++
		x, err := NewX509(svid.Certificates, svid.PrivateKey, bundles, w.generation)
		if err != nil {
			return err
		}
		svids = append(svids, x)
	}
	w.replace(svids)
	return nil
}

// watcher is what go-spiffe calls.
type watcher struct{ source *WorkloadAPI }

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextUpdate(message *workloadapi.X509Context) {
	err := w.source.receive(message)
	w.source.metrics.renewed(err)
	if err != nil {
		w.source.options.Logger.Error("message of workload API not taken", slog.Any(observe.KeyError, err))
	}
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextWatchError(err error) {
	switch status.Code(err) {
	case codes.Canceled:
		return
	case codes.PermissionDenied:
		// SPIFFE Workload API, Section 5.2.1: "if the server redacts […] all SVIDs, i.e., returns a "PermissionDenied" gRPC status
		// code, the client SHOULD cease using the redacted SVIDS".
		w.source.mu.Lock()
		w.source.replace(nil)
		w.source.mu.Unlock()
	default: // it serves on with what it has
	}
	w.source.metrics.renewed(err)
	w.source.options.Logger.Warn("workload API", slog.Any(observe.KeyError, err))
}

// workloadAPIBackoff doubles the wait between streams from 100 ms to 5 s, half of it chance: a socket is local, and a workload
// without identity has nothing better to do.
type workloadAPIBackoff struct{}

// NewBackoff implements workloadapi.BackoffStrategy.
func (workloadAPIBackoff) NewBackoff() workloadapi.Backoff { return &doubling{} }

type doubling struct{ failures int }

// Next implements workloadapi.Backoff.
func (d *doubling) Next() time.Duration {
	wait := min(firstBackoff<<min(d.failures, 10), maxWorkloadAPIRetry)
	d.failures++
	return wait/2 + rand.N(wait/2)
}

// Reset implements workloadapi.Backoff.
func (d *doubling) Reset() { d.failures = 0 }
