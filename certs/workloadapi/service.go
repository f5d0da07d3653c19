package workloadapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-proxy/postern/certs/attest/workloadattestor"
	"github.com/postern-proxy/postern/certs/source"
)

// service implements the methods. Those it lacks, the WIT-SVID profile's, answer Unimplemented as Section 7.2 of the SPIFFE
// Workload API asks.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	server *Server
}

// FetchX509SVID implements SPIFFE Workload API, Section 5.2.1.
func (s *service) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return s.follow(stream.Context(), func(update source.Update) error {
		response, err := svidResponse(update)
		if err != nil {
			return err
		}
		return stream.Send(response)
	})
}

// FetchX509Bundles implements SPIFFE Workload API, Section 5.2.2, for callers that have an identity.
func (s *service) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var sent *workload.X509BundlesResponse
	return s.follow(stream.Context(), func(update source.Update) error {
		response := bundlesResponse(update)
		if sent != nil && equalBundles(sent.GetBundles(), response.GetBundles()) {
			return nil // only an SVID changed
		}
		sent = response
		return stream.Send(response)
	})
}

// FetchJWTSVID belongs to a profile that is not offered.
func (*service) FetchJWTSVID(context.Context, *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	return nil, errNoJWT()
}

// FetchJWTBundles belongs to a profile that is not offered.
func (*service) FetchJWTBundles(*workload.JWTBundlesRequest, grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return errNoJWT()
}

// ValidateJWTSVID belongs to a profile that is not offered.
func (*service) ValidateJWTSVID(context.Context, *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	return nil, errNoJWT()
}

func errNoJWT() error {
	return status.Error(codes.Unimplemented, "the JWT-SVID profile is not offered here; X.509-SVIDs are")
}

// follow sends what the caller is entitled to, then again whenever it changes, until it is entitled to nothing.
func (s *service) follow(ctx context.Context, send func(source.Update) error) error {
	from, err := callerOf(ctx)
	if err != nil {
		return err
	}
	selectors, err := s.attest(ctx, from)
	if err != nil {
		return err
	}
	subscription := s.server.options.Identities.Subscribe(selectors)
	defer func() { subscription.Close() }()
	w := newWaiting(s.server, from)
	defer w.stop()
	var sent fingerprint
	for {
		changed := subscription.Changed()
		update := subscription.Current()
		verdict, held := w.judge(update, sent != nil)
		if verdict == sendIt && !sent.is(update) {
			// SPIFFE Workload API, Appendix A, state 6: "Ensure that the client is still entitled to an identity".
			now, err := s.attest(ctx, from)
			if err != nil {
				return err
			}
			if !slices.Equal(now, selectors) { // it executes another program: what that one is entitled to
				subscription.Close()
				selectors, subscription = now, s.server.options.Identities.Subscribe(now)
				continue
			}
			if err := send(update); err != nil {
				return err
			}
			s.server.metrics.updates.Inc()
			sent = fingerprintOf(update)
		}
		if verdict == endIt {
			return w.refusal(update)
		}
		select {
		case <-changed:
		case <-held:
			w.expire()
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.server.stopping:
			return status.Error(codes.Unavailable, "the workload API is stopping")
		}
	}
}

// attest establishes who the caller is now.
func (s *service) attest(ctx context.Context, from *caller) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, attestTimeout)
	defer cancel()
	selectors, err := from.process.Attest(ctx)
	switch {
	case err == nil:
		return selectors, nil
	case errors.Is(err, workloadattestor.ErrExited), errors.Is(err, workloadattestor.ErrChanged):
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

// verdict is what a stream does with an update.
type verdict int

const (
	waitForMore verdict = iota
	sendIt
	endIt
)

// waiting decides how long a caller is held that cannot be answered yet.
type waiting struct {
	server  *Server
	from    *caller
	timer   *time.Timer // runs while the caller is held
	expired bool
}

func newWaiting(server *Server, from *caller) *waiting { return &waiting{server: server, from: from} }

// judge says what to do, and what to wait for besides the next change: the end of the caller's patience, or nothing.
func (w *waiting) judge(update source.Update, started bool) (verdict, <-chan time.Time) {
	complete := len(update.SVIDs) > 0 && (started || !update.Pending)
	switch {
	case complete:
		w.reset()
		return sendIt, nil
	case len(update.SVIDs) > 0 && w.expired:
		return sendIt, nil // the default identity is late; better another than none
	case update.Denied && started:
		return endIt, nil // what it had was withdrawn
	case w.expired:
		return endIt, nil
	}
	if w.timer == nil {
		w.timer = time.NewTimer(w.hold(update))
	}
	return waitForMore, w.timer.C
}

// hold is how long to wait. See the package comment.
func (w *waiting) hold(update source.Update) time.Duration {
	if update.Denied && w.from.refused.Load() {
		return w.server.options.Patience
	}
	return w.server.options.Grace
}

func (w *waiting) expire() { w.expired = true }

func (w *waiting) reset() {
	w.stop()
	w.timer, w.expired = nil, false
}

func (w *waiting) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// refusal follows SPIFFE Workload Endpoint, Section 6: PermissionDenied where no identity is defined for the caller, Unavailable where
// there is one and it cannot be served now.
func (w *waiting) refusal(update source.Update) error {
	if !update.Denied {
		return status.Error(codes.Unavailable, "the identity of this process has not been issued yet")
	}
	w.from.refused.Store(true)
	return status.Error(codes.PermissionDenied, "no identity is registered for this process")
}
