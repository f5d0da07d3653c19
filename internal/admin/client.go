package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client calls the admin socket of a running process. It may be used concurrently.
type Client struct {
	socket string
	http   *http.Client
}

// ErrUnreachable: nothing answers on the socket.
var ErrUnreachable = errors.New("no postern answers")

// NewClient returns a client of the socket at path; it connects with the first call.
func NewClient(path string) *Client {
	path = strings.TrimPrefix(path, "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks how the process is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Reload makes the process load its configuration again.
func (c *Client) Reload(ctx context.Context) error {
	_, err := call[done](ctx, c, http.MethodPost, "/v1/reload", nil)
	return err
}

// Explain asks how a described request would be judged.
func (c *Client) Explain(ctx context.Context, req ExplainRequest) (Explanation, error) {
	return call[Explanation](ctx, c, http.MethodPost, "/v1/explain", req)
}

// ExplainDecision asks why a decision was made.
func (c *Client) ExplainDecision(ctx context.Context, id string) (Explanation, error) {
	return call[Explanation](ctx, c, http.MethodGet, "/v1/decisions/"+url.PathEscape(id), nil)
}

// Bundle returns the trust domain's bundle.
func (c *Client) Bundle(ctx context.Context) (Bundle, error) {
	return call[Bundle](ctx, c, http.MethodGet, "/v1/bundle", nil)
}

// Entries lists the registration entries.
func (c *Client) Entries(ctx context.Context) ([]Entry, error) {
	return call[[]Entry](ctx, c, http.MethodGet, "/v1/entries", nil)
}

// Entry returns one entry.
func (c *Client) Entry(ctx context.Context, id string) (Entry, error) {
	return call[Entry](ctx, c, http.MethodGet, "/v1/entries/"+url.PathEscape(id), nil)
}

// CreateEntry registers an entry and returns it with its id.
func (c *Client) CreateEntry(ctx context.Context, e Entry) (Entry, error) {
	return call[Entry](ctx, c, http.MethodPost, "/v1/entries", e)
}

// UpdateEntry changes an entry.
func (c *Client) UpdateEntry(ctx context.Context, id string, change EntryChange) (Entry, error) {
	return call[Entry](ctx, c, http.MethodPatch, "/v1/entries/"+url.PathEscape(id), change)
}

// DeleteEntry removes an entry; its SVIDs are withdrawn from workloads.
func (c *Client) DeleteEntry(ctx context.Context, id string) error {
	_, err := call[done](ctx, c, http.MethodDelete, "/v1/entries/"+url.PathEscape(id), nil)
	return err
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (Token, error) {
	return call[Token](ctx, c, http.MethodPost, "/v1/tokens", req)
}

// Authorities lists the keys of the CA.
func (c *Client) Authorities(ctx context.Context) ([]Authority, error) {
	return call[[]Authority](ctx, c, http.MethodGet, "/v1/authorities", nil)
}

// Rotate replaces the active authority of the kind ("root" or "signing").
func (c *Client) Rotate(ctx context.Context, kind string) ([]Authority, error) {
	return call[[]Authority](ctx, c, http.MethodPost, "/v1/authorities/rotate", kind)
}

// Credentials lists live SVIDs; an empty spiffeID lists all.
func (c *Client) Credentials(ctx context.Context, spiffeID string) ([]Credential, error) {
	return call[[]Credential](ctx, c, http.MethodGet, "/v1/credentials?spiffe_id="+url.QueryEscape(spiffeID), nil)
}

// Revoke records a revocation.
func (c *Client) Revoke(ctx context.Context, r Revocation) (Revocation, error) {
	return call[Revocation](ctx, c, http.MethodPost, "/v1/revocations", r)
}

// Revocations lists what is revoked.
func (c *Client) Revocations(ctx context.Context) ([]Revocation, error) {
	return call[[]Revocation](ctx, c, http.MethodGet, "/v1/revocations", nil)
}

// LiftRevocation ends a revocation.
func (c *Client) LiftRevocation(ctx context.Context, id string) error {
	_, err := call[done](ctx, c, http.MethodDelete, "/v1/revocations/"+url.PathEscape(id), nil)
	return err
}

// call sends one request and decodes the answer; a Failure comes back as *Error.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://postern"+path, body)
	if err != nil {
		return out, fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("%w on %s: %w", ErrUnreachable, c.socket, err)
	}
	defer func() { _ = resp.Body.Close() }()
	dec := json.NewDecoder(resp.Body)
	if resp.StatusCode/100 != 2 {
		var failure Failure
		if err := dec.Decode(&failure); err != nil {
			return out, fmt.Errorf("%s on %s: %s", path, c.socket, resp.Status)
		}
		return out, &Error{Code: failure.Code, Err: errors.New(failure.Message), Details: failure.Details}
	}
	if err := dec.Decode(&out); err != nil {
		return out, fmt.Errorf("decode answer of %s: %w", path, err)
	}
	return out, nil
}
