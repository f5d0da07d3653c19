package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a document.
type Error struct {
	File string `json:"file,omitempty"`
	// Line and Column count from 1; 0 means that the place is not known.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Path is the key in question, such as listeners[0].tls.min_version; empty for the document.
	Path string `json:"path,omitempty"`
	Code Code   `json:"code"`
	// Message says what is wrong.
	Message string `json:"message"`
	// Hint says what would be valid; it may be empty.
	Hint string `json:"hint,omitempty"`
}

// Error writes file:line:column: code path: message (hint: …).
func (e Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", e.Line, max(e.Column, 1))
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(string(e.Code) + " ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	return b.String()
}

// Errors are all the things that are wrong with a document, in its order.
type Errors []Error

// Error writes one error on each line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// JSON returns the errors as an indented JSON array, which is [] when there are none.
func (e Errors) JSON() []byte {
	if e == nil {
		e = Errors{}
	}
	out, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(out, '\n')
}

// sorted orders by place; what has none comes last.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(lineOrder(a), lineOrder(b)), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Code, b.Code))
	})
	return e
}

func lineOrder(e Error) int {
	if e.Line == 0 {
		return 1 << 30
	}
	return e.Line
}
