package svid

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
)

// Error refuses a peer's certificate chain. Every error of Verify is one.
type Error struct {
	// Reason is the code under which logs, metrics and the admin socket report the refusal.
	Reason observe.Reason
	Err    error
}

// Error describes the cause. Text that the peer chose is quoted and bounded.
func (e *Error) Error() string { return "verify X.509-SVID: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(reason observe.Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// maxText bounds what an error repeats of a certificate, in bytes.
const maxText = 256

// clip shortens text of a peer before it is quoted.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return s[:maxText] + "…"
}

// foreignError carries an error that another package made from a peer's bytes: its text is bounded and printable ASCII, so that a log
// cannot take a part of it for a line of its own (the class of GO-2026-5039), nor a reader one name for another.
type foreignError struct{ err error }

func (e foreignError) Error() string {
	text := clip(e.err.Error())
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return strconv.QuoteToASCII(text)
	}
	return text
}

func (e foreignError) Unwrap() error { return e.err }
