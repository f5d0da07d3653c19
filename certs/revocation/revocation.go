// Package revocation knows what has been revoked, and answers in constant time whether a certificate chain is concerned.
//
// A Revocation is a fact that an authority recorded. An Index is an immutable set of them; the data path asks it in every
// handshake, and the connection registry is told of each new one so that live connections end too. Both look under the same
// Subjects, so what is refused in a handshake and what is cut while it lives cannot drift apart. The package decides nothing
// about who may revoke.
package revocation

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Kind says what a revocation names.
type Kind string

// Kinds of revocation, with the form of their Value.
const (
	Serial    Kind = "serial"    // certificate serial number, lower-case hex without leading zeros
	SPIFFEID  Kind = "spiffe_id" // every SVID of this ID, and no new ones
	Key       Kind = "key"       // lower-case hex SHA-256 of the SubjectPublicKeyInfo
	Authority Kind = "authority" // lower-case hex subject key id of a signing or root authority: everything beneath it
)

// Limits of the text that a revocation carries, in bytes.
const (
	MaxID     = 64
	MaxReason = 1024
	MaxBy     = 2048 + 64 // a SPIFFE ID, or the description of a local user
)

// Revocation is one recorded withdrawal.
type Revocation struct {
	ID     string    `json:"id"` // unique, made by the authority
	Kind   Kind      `json:"kind"`
	Value  string    `json:"value"`
	Reason string    `json:"reason"` // the operator's words
	By     string    `json:"by"`     // the actor
	At     time.Time `json:"at"`
	// Until is when the revocation ends by itself (for a serial: the certificate's NotAfter); zero means that it stays.
	Until time.Time `json:"until,omitzero"`
}

// Subject returns what the revocation names.
func (r Revocation) Subject() Subject { return Subject{Kind: r.Kind, Value: r.Value} }

// Ended reports that the revocation ended by itself at now, or before.
func (r Revocation) Ended(now time.Time) bool { return !r.Until.IsZero() && !now.Before(r.Until) }

// Concerns reports whether the revocation names something of the chain (leaf first) or the SPIFFE ID, whatever the time. To ask
// many revocations at once, use an Index.
func (r Revocation) Concerns(chain []*x509.Certificate, id spiffeid.ID) bool {
	subject := r.Subject()
	for _, s := range Subjects(chain, id) {
		if s == subject {
			return true
		}
	}
	return false
}

// Validate checks the form of every field. ID, By and At may be unset, since the authority fills them in.
func (r Revocation) Validate() error {
	if err := r.Subject().Validate(); err != nil {
		return err
	}
	switch {
	case len(r.ID) > MaxID:
		return fmt.Errorf("id of a revocation has %d bytes, more than %d", len(r.ID), MaxID)
	case len(r.Reason) > MaxReason:
		return fmt.Errorf("reason of a revocation has %d bytes, more than %d", len(r.Reason), MaxReason)
	case len(r.By) > MaxBy:
		return fmt.Errorf("actor of a revocation has %d bytes, more than %d", len(r.By), MaxBy)
	case !r.Until.IsZero() && !r.Until.After(r.At):
		return errors.New("revocation would end before it began")
	}
	return nil
}

// Validate checks that the value has the one form its kind allows, so that equal things have equal values.
func (s Subject) Validate() error {
	switch s.Kind {
	case Serial:
		return validateSerial(s.Value)
	case SPIFFEID:
		return validateID(s.Value)
	case Key:
		return validateHex("key hash", s.Value, 32, 32)
	case Authority:
		return validateHex("subject key id", s.Value, 1, 64)
	default:
		return fmt.Errorf("kind of a revocation %q is none of serial, spiffe_id, key, authority", clip(string(s.Kind)))
	}
}

func validateSerial(value string) error {
	if value == "" || value[0] == '0' || len(value) > 2*maxSerial || !isLowerHex(value) {
		return fmt.Errorf("serial number %q: want 1 to %d lower-case hex digits without leading zeros", clip(value), 2*maxSerial)
	}
	return nil
}

func validateID(value string) error {
	id, err := spiffeid.FromString(value)
	if err != nil {
		return fmt.Errorf("SPIFFE ID %q: %w", clip(value), err)
	}
	if id.Path() == "" {
		return fmt.Errorf("SPIFFE ID %q names a trust domain, not a workload", clip(value))
	}
	return nil
}

func validateHex(what, value string, least, most int) error {
	raw, err := hex.DecodeString(value)
	if err != nil || !isLowerHex(value) || len(raw) < least || len(raw) > most {
		return fmt.Errorf("%s %q: want %d to %d bytes in lower-case hex", what, clip(value), least, most)
	}
	return nil
}

func isLowerHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// clip bounds what an error repeats of its input.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
