package adsserver

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wildcard is the name that subscribes to every resource the client may see.
const wildcard = "*"

// subscription is what one stream wants of one type, and how far it has come. The stream's lock guards it.
type subscription struct {
	table *Table

	opened   bool // a request for the type has come
	answered bool // and a response to it went out
	wildcard bool
	names    map[string]struct{} // subscribed by name
	asked    map[string]struct{} // to be answered by name in the next response
	initial  map[string]string   // what the client said it has when it came; nil once the difference was sent

	seen     uint64            // changes up to here were sent and answered
	removed  uint64            // removals up to here were sent and answered
	acked    uint64            // up to here the client accepted everything
	rejected map[string]string // name to the version that the client does not want
	pending  *response

	lastNACK   string
	lastNACKAt time.Time
}

// response is one that the client has not answered yet.
type response struct {
	nonce   string
	upto    uint64
	records []*record // of the resources in it
	since   time.Time // when the oldest change in it was made
	sent    time.Time
}

func newSubscription(t *Table) *subscription {
	return &subscription{table: t, names: map[string]struct{}{}, asked: map[string]struct{}{}, rejected: map[string]string{}}
}

// subscribe applies the names of a request. xDS protocol, "How the client specifies what resources to return": a first request without names is
// a wildcard subscription; "*" is one at any time; a name asked for again is answered again.
func (s *subscription) subscribe(req *discovery.DeltaDiscoveryRequest) {
	if !s.opened {
		s.opened = true
		s.seen, s.removed = s.table.Generation(), s.table.Generation()
		s.initial = maps.Clone(req.GetInitialResourceVersions())
		if len(req.GetResourceNamesSubscribe()) == 0 {
			s.startWildcard()
		}
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == wildcard {
			s.startWildcard()
			continue
		}
		s.names[name] = struct{}{}
		s.asked[name] = struct{}{}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		s.unsubscribe(name)
	}
}

func (s *subscription) startWildcard() {
	if !s.wildcard {
		s.wildcard, s.seen = true, 0
	}
}

// unsubscribe forgets a name. A client that still has the wildcard is told whether that covers the name.
func (s *subscription) unsubscribe(name string) {
	if name == wildcard {
		s.wildcard = false
		return
	}
	delete(s.names, name)
	delete(s.asked, name)
	delete(s.rejected, name)
	if s.wildcard {
		s.asked[name] = struct{}{}
	}
}

// answer takes an ACK or a NACK. It reports whether the nonce was that of the unanswered response; any other is stale and changes nothing.
func (s *subscription) answer(req *discovery.DeltaDiscoveryRequest, now time.Time) bool {
	if s.pending == nil || s.pending.nonce != req.GetResponseNonce() {
		return false
	}
	if req.GetErrorDetail() != nil {
		s.reject(namedIn(req.GetErrorDetail()))
		s.lastNACK, s.lastNACKAt = failure(req), now
	}
	s.seen, s.removed = s.pending.upto, max(s.removed, s.pending.upto)
	s.pending = nil
	if len(s.rejected) == 0 {
		s.acked = s.seen
	}
	return true
}

// reject notes which resources of the unanswered response the client does not want: those that it names, or all when it names none.
func (s *subscription) reject(named map[string]struct{}) {
	for _, r := range s.pending.records {
		if _, bad := named[r.name]; bad || len(named) == 0 {
			s.rejected[r.name] = r.version
		}
	}
}

// behind reports whether there is, or might be, something to say beyond what was sent.
func (s *subscription) behind() bool {
	sent := s.seen
	if s.pending != nil {
		sent = s.pending.upto
	}
	return s.opened && (!s.answered || len(s.asked) > 0 || sent < s.table.Generation())
}

// difference is what a client has to be told.
type difference struct {
	upserts []*record
	removed []string
	upto    uint64 // after which there may be more, when it is less than the table's generation
	latest  uint64 // the table's generation
	since   time.Time
}

// next computes the response that brings client up to the table as it is now, up to about limit bytes. It returns nil when there is nothing to
// say, and notes that the client is up to date. The error ends the stream.
func (s *subscription) next(client string, limit int, now time.Time) (*discovery.DeltaDiscoveryResponse, *response, error) {
	diff, err := s.compare(client, limit)
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(diff.removed)
	diff.removed = slices.Compact(diff.removed)
	if s.answered && len(diff.upserts) == 0 && len(diff.removed) == 0 {
		s.seen, s.removed = diff.upto, diff.upto
		clear(s.asked) // what was asked for is what the client rejected
		if len(s.rejected) == 0 {
			s.acked = diff.upto
		}
		return nil, nil, nil
	}
	if !s.answered || diff.since.IsZero() {
		diff.since = now
	}
	s.answered = true
	clear(s.asked)
	if diff.upto == diff.latest {
		s.initial = nil
	}
	size := 0
	for _, r := range diff.upserts {
		size += len(r.wire)
		delete(s.rejected, r.name)
	}
	for _, name := range diff.removed {
		delete(s.rejected, name)
	}
	body := make([]byte, 0, size)
	for _, r := range diff.upserts {
		body = append(body, r.wire...)
	}
	out := &discovery.DeltaDiscoveryResponse{
		TypeUrl:           s.table.typeURL,
		SystemVersionInfo: systemVersion(diff.upto, diff.latest),
		RemovedResources:  diff.removed,
	}
	// The resources are encoded already; protobuf writes fields that it was handed as bytes as they are.
	out.ProtoReflect().SetUnknown(body)
	return out, &response{upto: diff.upto, records: diff.upserts, since: diff.since, sent: now}, nil
}

// systemVersion is "generation", or "upto/generation" for a response that more will follow because the limit cut it.
func systemVersion(upto, latest uint64) string {
	if upto == latest {
		return strconv.FormatUint(latest, 10)
	}
	return fmt.Sprintf("%d/%d", upto, latest)
}

// compare reads the table under its lock, from the cursors on.
func (s *subscription) compare(client string, limit int) (difference, error) {
	t := s.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	if s.removed < t.forgotten && s.answered {
		return difference{}, status.Errorf(codes.Aborted, "too far behind in %q: connect again with the versions you have", t.typeURL)
	}
	diff := difference{upto: t.generation, latest: t.generation}
	s.compareAsked(client, &diff)
	s.compareChanges(client, limit, &diff)
	s.compareRemovals(client, &diff)
	return diff, nil
}

// compareAsked answers names one by one: the resource, or that there is none for this client.
func (s *subscription) compareAsked(client string, diff *difference) {
	for _, name := range slices.Sorted(maps.Keys(s.asked)) {
		r := s.table.live[name]
		switch {
		case r == nil || !r.audience.sees(client):
			diff.removed = append(diff.removed, name)
		case s.rejected[name] != r.version && (s.initial[name] != r.version || s.answered):
			diff.upserts = append(diff.upserts, r)
		}
	}
}

// compareChanges adds what changed since the cursor, oldest first, and stops at limit bytes.
func (s *subscription) compareChanges(client string, limit int, diff *difference) {
	size := 0
	for e := after(s.table.changes, s.seen); e != nil; e = e.Next() {
		r := e.Value.(*record)
		if !s.wants(r.name) || !r.audience.sees(client) || s.rejected[r.name] == r.version || s.initial[r.name] == r.version {
			continue
		}
		if _, already := s.asked[r.name]; already {
			continue
		}
		if size > 0 && size+len(r.wire) > limit {
			diff.upto = r.generation - 1
			return
		}
		size += len(r.wire)
		diff.upserts = append(diff.upserts, r)
		diff.note(r.at)
	}
}

// compareRemovals adds what went away since the cursor, and what the client came with that is not there for it.
func (s *subscription) compareRemovals(client string, diff *difference) {
	for e := after(s.table.tombstones, s.removed); e != nil; e = e.Next() {
		r := e.Value.(*record)
		if _, already := s.asked[r.name]; already || r.generation > diff.upto || !s.wants(r.name) || !r.audience.sees(client) {
			continue
		}
		if now := s.table.live[r.name]; now != nil && now.audience.sees(client) {
			continue
		}
		diff.removed = append(diff.removed, r.name)
		diff.note(r.at)
	}
	if s.answered {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.initial)) {
		if _, already := s.asked[name]; already || !s.wants(name) {
			continue
		}
		if now := s.table.live[name]; now == nil || !now.audience.sees(client) {
			diff.removed = append(diff.removed, name)
		}
	}
}

func (s *subscription) wants(name string) bool {
	if s.wildcard {
		return true
	}
	_, named := s.names[name]
	return named
}

// note keeps the time of the oldest change.
func (d *difference) note(at time.Time) {
	if d.since.IsZero() || at.Before(d.since) {
		d.since = at
	}
}
