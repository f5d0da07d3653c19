package adsserver

import (
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// StreamStatus is what an operator wants to know of one stream.
type StreamStatus struct {
	Node      string       `json:"node"`              // the proven identity
	Claimed   string       `json:"claimed,omitempty"` // what the client calls itself
	Connected time.Time    `json:"connected"`         //
	Types     []TypeStatus `json:"types"`             // those it subscribes to
}

// TypeStatus is one type on one stream.
type TypeStatus struct {
	TypeURL    string    `json:"type_url"`
	Wildcard   bool      `json:"wildcard"`
	Names      int       `json:"names"`      // subscribed by name
	Generation uint64    `json:"generation"` // of the table
	Seen       uint64    `json:"seen"`       // the client answered, with yes or no, up to here
	Accepted   uint64    `json:"accepted"`   // the client accepted everything up to here
	Pending    bool      `json:"pending"`    // a response waits for its answer
	Rejected   int       `json:"rejected"`   // resources whose current version the client does not want
	LastNACK   string    `json:"last_nack,omitempty"`
	LastNACKAt time.Time `json:"last_nack_at,omitzero"`
}

func (st *stream) status() StreamStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	out := StreamStatus{Node: st.client, Claimed: st.claimed, Connected: st.connected}
	for _, s := range st.subscriptions {
		if !s.opened {
			continue
		}
		out.Types = append(out.Types, TypeStatus{
			TypeURL: s.table.typeURL, Wildcard: s.wildcard, Names: len(s.names), Generation: s.table.Generation(),
			Seen: s.seen, Accepted: s.acked, Pending: s.pending != nil, Rejected: len(s.rejected),
			LastNACK: s.lastNACK, LastNACKAt: s.lastNACKAt,
		})
	}
	return out
}

// maxText bounds the words of a client that are kept and logged.
const maxText = 1024

func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "�")
}

// failure is the reason of a NACK, never empty.
func failure(req *discovery.DeltaDiscoveryRequest) string {
	if message := req.GetErrorDetail().GetMessage(); message != "" {
		return clip(message)
	}
	return "no reason given"
}

// namedIn returns the resources that a NACK names in a google.rpc.BadRequest, as adsclient does: it applied the others. A NACK of another
// client has none.
func namedIn(failure *rpcstatus.Status) map[string]struct{} {
	named := map[string]struct{}{}
	for _, detail := range failure.GetDetails() {
		bad := &errdetails.BadRequest{}
		if detail.UnmarshalTo(bad) != nil {
			continue
		}
		for _, violation := range bad.GetFieldViolations() {
			named[violation.GetField()] = struct{}{}
		}
	}
	return named
}

func isSPIFFE(id string) bool {
	const scheme = "spiffe://"
	return len(id) >= len(scheme) && strings.EqualFold(id[:len(scheme)], scheme)
}
