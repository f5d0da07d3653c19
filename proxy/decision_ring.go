package proxy

import (
	"iter"
	"strings"
	"sync"

	"github.com/postern-proxy/postern/authz"
)

// DecisionRecord is a decision with the canonical request that it answered: enough to explain it later.
type DecisionRecord struct {
	Decision authz.Decision
	// Request keeps what the decision read. Its Header yields the fields that rules asked for, without credentials.
	Request authz.Request
	// Clipped: the path and the header values were longer than what is kept of them, so that judging Request again may give
	// another answer.
	Clipped  bool
	Listener string
	Route    string
}

// decisionRing keeps the latest decisions. Safe for concurrent use.
type decisionRing struct {
	mu    sync.Mutex
	slots []DecisionRecord // guarded by mu
	next  int              // guarded by mu
}

func newDecisionRing(size int) *decisionRing {
	return &decisionRing{slots: make([]DecisionRecord, size)}
}

// add keeps the record, whose strings it may keep too, in place of the oldest.
func (r *decisionRing) add(record DecisionRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[r.next] = record
	r.next = (r.next + 1) % len(r.slots)
}

// find looks through the ring: it is an operator's question, and no index is worth its upkeep on every request.
func (r *decisionRing) find(id authz.ID) (DecisionRecord, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.slots {
		if r.slots[i].Decision.ID == id && id != 0 {
			return r.slots[i], true
		}
	}
	return DecisionRecord{}, false
}

// keptRequest is a copy of a request that outlives its message.
func keptRequest(r *authz.Request, asked *askedFields) authz.Request {
	kept := *r
	kept.Method, kept.Host, kept.Path = strings.Clone(r.Method), strings.Clone(r.Host), strings.Clone(r.Path)
	kept.Header = asked.kept()
	return kept
}

// maxRecorded is how much of the path and the header values of a request the ring keeps, in bytes: callers choose how long they
// are, and must not fill the memory with them.
const maxRecorded = 4 << 10

// recordedRequest is a copy of a request of bounded size; it reports whether something was cut.
func recordedRequest(r *authz.Request, asked *askedFields) (authz.Request, bool) {
	room := budget{left: maxRecorded}
	short := *r
	short.Path = room.take(r.Path)
	if asked != nil {
		from := asked.from
		asked = &askedFields{names: asked.names, from: func(name string) iter.Seq[string] {
			return func(yield func(string) bool) {
				for value := range from(name) {
					if !yield(room.take(value)) {
						return
					}
				}
			}
		}}
	}
	kept := keptRequest(&short, asked)
	return kept, room.exceeded
}

// budget cuts strings to what is left.
type budget struct {
	left     int
	exceeded bool
}

func (b *budget) take(s string) string {
	if len(s) > b.left {
		s, b.exceeded = s[:b.left], true
	}
	b.left -= len(s)
	return s
}
