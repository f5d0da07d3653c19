// Package audit keeps the record of what was done: one append-only log of events, each with its actor, on disk before the deed
// is reported as done.
//
// An event is one line of JSON in printable ASCII. Lines carry consecutive numbers, and each names the SHA-256 of the line
// before it, across the files (segments) that the log is cut into. So a line that was changed, inserted, moved or taken out
// shows: Verify names its file and line. A line that a crash left unfinished was never acknowledged, and is cut off when the
// log is opened again; any other damage stops the opening, because a log that goes on behind a gap proves nothing.
//
// What the package does not do: it cannot tell when the end of the log was cut off at the end of a line, nor when somebody who may
// write the files made the whole chain anew; for that, copies of the log or of its last hash must be kept where that somebody cannot
// write. It does not sign, encrypt, thin out or expire events, and it does not decide what is an event; its callers do, and keep
// secrets out of them.
package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Event is one thing that was done, or refused.
type Event struct {
	Seq  uint64    `json:"seq"`  // from 1, without gaps; set by Append
	Time time.Time `json:"time"` // UTC; set by Append
	Type string    `json:"type"` // one of the constants below
	// Actor is who did it: "uid:1000" for a local caller, a SPIFFE ID for a node, "postern" for the process itself.
	Actor string `json:"actor"`
	// Target is what it was done to: the id of an entry, a SPIFFE ID, a serial number.
	Target string            `json:"target,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
	Prev   string            `json:"prev"` // hex SHA-256 of the previous line without its line feed; empty in the first; set by Append
}

// Types of events.
const (
	Started         = "started"
	Stopped         = "stopped"
	ConfigLoaded    = "config_loaded"
	ConfigReloaded  = "config_reloaded"
	ConfigRefused   = "config_refused"
	LogLevelChanged = "log_level_changed"
	DrainAsked      = "drain_asked"
	EntryCreated    = "entry_created"
	EntryUpdated    = "entry_updated"
	EntryDeleted    = "entry_deleted"
	TokenCreated    = "token_created"
	TokenUsed       = "token_used"
	TokenRefused    = "token_refused"
	NodeAttested    = "node_attested"
	NodeRenewed     = "node_renewed"
	NodeRefused     = "node_refused"
	SVIDIssued      = "svid_issued"
	IssuanceRefused = "issuance_refused"
	// RevocationAdded covers SVIDs, SPIFFE IDs, keys and authorities; the detail names the kind.
	RevocationAdded    = "revocation_added"
	RevocationLifted   = "revocation_lifted"
	AuthorityPrepared  = "authority_prepared"
	AuthorityActivated = "authority_activated"
	AuthorityRetired   = "authority_retired"
	// AuthorityUnpropagated: a new root became active though not every node had confirmed it in time.
	AuthorityUnpropagated = "authority_unpropagated"
)

// Bounds of an event. Longer texts are cut and say so, since a peer may have chosen them and must not be able to keep its deed
// out of the log; a malformed type or too many details are the program's error.
const (
	maxType       = 64
	maxText       = 2048 // bytes of actor, target and each value; a SPIFFE ID fits
	maxDetails    = 32
	maxDetailName = 64
)

// maxLine is the longest line that can be written (every byte escaped) and so the longest that is read.
const maxLine = (maxDetails+2)*(6*(maxText+32)+maxDetailName+8) + 1024

// bounded returns the event as it is written, or an error for what no caller may ask.
func (e Event) bounded() (Event, error) {
	if !isWord(e.Type, maxType) {
		return Event{}, fmt.Errorf("event type %q is no lower-case word of at most %d bytes", e.Type, maxType)
	}
	if len(e.Detail) > maxDetails {
		return Event{}, fmt.Errorf("event %q has %d details, at most %d", e.Type, len(e.Detail), maxDetails)
	}
	detail := make(map[string]string, len(e.Detail))
	for name, value := range e.Detail {
		if !isWord(name, maxDetailName) {
			return Event{}, fmt.Errorf("detail %q of event %q is no lower-case word of at most %d bytes", name, e.Type, maxDetailName)
		}
		detail[name] = cut(value)
	}
	e.Actor, e.Target, e.Detail = cut(e.Actor), cut(e.Target), detail
	return e, nil
}

func isWord(s string, longest int) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= longest
}

// cut bounds a text between two characters and says how much is gone.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "[+" + strconv.Itoa(len(s)-end) + " bytes]"
}

// encode returns the line without its line feed.
func (e Event) encode() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encode event %q: %w", e.Type, err)
	}
	return toASCII(bytes.TrimSuffix(out.Bytes(), []byte("\n"))), nil
}

// toASCII escapes what JSON leaves raw, so that a line holds nothing that steers a terminal or reorders text: outside strings JSON is
// ASCII, and inside them every character may be written as \u and four digits.
func toASCII(line []byte) []byte {
	if !slices.ContainsFunc(line, func(c byte) bool { return c >= 0x7f }) {
		return line
	}
	out := make([]byte, 0, len(line)+64)
	for _, r := range string(line) {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
	}
	return out
}

// decode reads a line strictly: what a changed program or a hand might have added is not passed over.
func decode(line []byte) (Event, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	var e Event
	if err := dec.Decode(&e); err != nil {
		return Event{}, fmt.Errorf("no event: %w", err)
	}
	if int(dec.InputOffset()) != len(line) {
		return Event{}, errors.New("more than one event")
	}
	if raw, err := hex.DecodeString(e.Prev); err != nil || (len(raw) != hashSize && e.Prev != "") {
		return Event{}, fmt.Errorf("prev is no SHA-256: %q", e.Prev)
	}
	return e, nil
}
