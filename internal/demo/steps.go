package demo

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/admin"
)

const webID = "spiffe://demo.internal/web"

// step is one thing that the demonstration shows. It returns what it saw, or why that is not as it should be.
type step struct {
	title string
	run   func(ctx context.Context, s *stage) (string, error)
}

var steps = []step{
	{"web asks orders for an order: allowed", allowed},
	{"web tries to delete it: denied, with a reason", denied},
	{"a caller without identity knocks at orders: refused in the handshake", nameless},
	{"signing and root authority rotate while web keeps calling", rotation},
	{"the identity of web is revoked: its live stream is cut", revoked},
	{"the revocation is lifted: web gets a new SVID by itself", lifted},
}

// stage is what the steps play on.
type stage struct {
	authority, orders, web *process
	ports                  ports
	client                 *http.Client // a user's, of web
	frontend               string       // where web is
	revocation             string       // made by revoked, ended by lifted
}

// order asks web for an order.
func (s *stage) order(ctx context.Context, method string) (int, string, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.frontend+"/orders/7", nil)
	if err != nil {
		return 0, "", nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	return resp.StatusCode, strings.TrimSpace(string(body)), resp.Header, err
}

func allowed(ctx context.Context, s *stage) (string, error) {
	status, body, _, err := s.order(ctx, http.MethodGet)
	if err != nil || status != http.StatusOK || !strings.Contains(body, webID) {
		return "", fmt.Errorf("want 200 and the caller's identity, have %d %s %w", status, body, orNothing(err))
	}
	return fmt.Sprintf("GET /v1/orders/7 -> %d %s", status, body), nil
}

func denied(ctx context.Context, s *stage) (string, error) {
	status, body, header, err := s.order(ctx, http.MethodDelete)
	if err != nil || status != http.StatusForbidden {
		return "", fmt.Errorf("want 403, have %d %s %w", status, body, orNothing(err))
	}
	id := header.Get("X-Postern-Decision")
	why, err := s.orders.admin.ExplainDecision(ctx, id)
	if err != nil {
		return "", fmt.Errorf("explain decision %q: %w", id, err)
	}
	if why.Effect != "deny" || why.Principal != webID {
		return "", fmt.Errorf("decision %s is explained as %s of %s", id, why.Effect, why.Principal)
	}
	return fmt.Sprintf("DELETE /v1/orders/7 -> %d, decision %s: %s", status, id, why.Advice), nil
}

func nameless(ctx context.Context, s *stage) (string, error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // the caller that must be refused does not care whom it calls
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/v1/orders/7", s.ports.inbound), nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		return "", fmt.Errorf("it was answered: %s", resp.Status)
	}
	reason, err := s.refusal(ctx)
	if err != nil {
		return "", err
	}
	return "no certificate -> connection refused, counted as " + reason, nil
}

// refusal reads from the metrics of orders why it refused a handshake.
func (s *stage) refusal(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.ports.metrics), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "postern_tls_handshake_failures_total") && strings.Contains(line, `reason="peer_no_certificate"`) {
			return "peer_no_certificate", nil
		}
	}
	return "", errors.New("the refused handshake is not in the metrics")
}

func rotation(ctx context.Context, s *stage) (string, error) {
	before, err := s.serial(ctx)
	if err != nil {
		return "", err
	}
	load := s.traffic(ctx)
	for _, kind := range []string{"signing", "root"} {
		if _, err := s.authority.admin.Rotate(ctx, kind); err != nil {
			return "", fmt.Errorf("rotate the %s authority: %w", kind, err)
		}
	}
	after, err := s.changed(ctx, before)
	total, failed := load()
	if err != nil {
		return "", err
	}
	if failed > 0 {
		return "", fmt.Errorf("%d of %d requests failed during the rotation", failed, total)
	}
	return fmt.Sprintf("%d requests meanwhile, 0 failed; SVID of web %s… -> %s…", total, before[:8], after[:8]), nil
}

// traffic calls orders from several clients until the returned function is called, which tells how it went.
func (s *stage) traffic(ctx context.Context) func() (total, failed int64) {
	ctx, cancel := context.WithCancel(ctx)
	var total, failed atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				status, _, _, err := s.order(ctx, http.MethodGet)
				if ctx.Err() != nil {
					return
				}
				total.Add(1)
				if err != nil || status != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	return func() (int64, int64) {
		cancel()
		clients.Wait()
		return total.Load(), failed.Load()
	}
}

// serial is the serial number of web's SVID.
func (s *stage) serial(ctx context.Context) (string, error) {
	st, err := s.web.admin.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range st.Identities {
		if id.SPIFFEID == webID {
			return id.Serial, nil
		}
	}
	return "", errors.New("web has no SVID")
}

// changed waits until web's SVID is another one.
func (s *stage) changed(ctx context.Context, before string) (string, error) {
	var now string
	err := poll(ctx, func() (ok bool, err error) {
		now, err = s.serial(ctx)
		return now != before, err
	})
	return now, err
}

func revoked(ctx context.Context, s *stage) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.frontend+"/feed", nil)
	if err != nil {
		return "", err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("open the stream: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	stream := bufio.NewScanner(resp.Body)
	for range 3 {
		if !stream.Scan() {
			return "", fmt.Errorf("the stream ended by itself: %w", orNothing(stream.Err()))
		}
	}
	began := time.Now()
	made, err := s.authority.admin.Revoke(ctx, admin.Revocation{Kind: revocation.SPIFFEID, Value: webID, Reason: "demonstration"})
	if err != nil {
		return "", fmt.Errorf("revoke: %w", err)
	}
	s.revocation = made.ID
	for stream.Scan() {
		if time.Since(began) > 5*time.Second {
			return "", errors.New("the stream still runs five seconds after the revocation")
		}
	}
	cut := time.Since(began)
	status, _, _, err := s.order(ctx, http.MethodGet)
	if err == nil && status == http.StatusOK {
		return "", errors.New("web is still served")
	}
	return fmt.Sprintf("stream cut %d ms after the revocation; the next call -> %d", cut.Milliseconds(), status), nil
}

func lifted(ctx context.Context, s *stage) (string, error) {
	if err := s.authority.admin.LiftRevocation(ctx, s.revocation); err != nil {
		return "", fmt.Errorf("lift the revocation: %w", err)
	}
	began := time.Now()
	err := poll(ctx, func() (bool, error) {
		status, _, _, err := s.order(ctx, http.MethodGet)
		return err == nil && status == http.StatusOK, nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("GET /v1/orders/7 -> 200 again after %d ms", time.Since(began).Milliseconds()), nil
}

// poll asks until the answer is yes, for at most five seconds.
func poll(ctx context.Context, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("nothing changed within five seconds")
		case <-tick.C:
		}
	}
}

var errNothing = errors.New("")

// orNothing lets an error that may be absent stand at the end of a message.
func orNothing(err error) error {
	if err == nil {
		return errNothing
	}
	return err
}

// callerIn reads the URI of an X-Forwarded-Client-Cert field, as a service would that wants to know who asks.
func callerIn(xfcc string) string {
	for part := range strings.SplitSeq(xfcc, ";") {
		if uri, ok := strings.CutPrefix(part, "URI="); ok {
			return strings.Trim(uri, `"`)
		}
	}
	return ""
}
