package l7

import (
	"iter"
	"unsafe"
)

// Header is an ordered list of fields. Their bytes stand in one buffer, names in lower case; fields are offsets into it, so that
// a head costs one copy and no allocation once the buffer has its size. The zero value is empty and ready.
//
// Strings that it returns are views into the buffer. Adding, setting and deleting fields leaves them valid; Reset and Load do
// not. Not for concurrent use.
type Header struct {
	buf    []byte
	fields []field
}

// field is one name and one value as offsets into the buffer.
type field struct {
	nameStart, nameEnd, valueStart, valueEnd uint32
}

// maxKept is the largest buffer that Reset keeps: one big message must not stay in memory with every object that is reused.
const maxKept = 16 << 10

// Len is the number of fields, each repetition of a name counted.
func (h *Header) Len() int {
	if h == nil {
		return 0
	}
	return len(h.fields)
}

// At returns the field at place i, 0 ≤ i < Len.
func (h *Header) At(i int) (name, value string) {
	f := h.fields[i]
	return h.View(int(f.nameStart), int(f.nameEnd)), h.View(int(f.valueStart), int(f.valueEnd))
}

// Get returns the first value of the field; false when there is none. A decision must look at every value: see Values.
func (h *Header) Get(name string) (string, bool) {
	for i := range h.Len() {
		if n, value := h.At(i); foldEqual(n, name) {
			return value, true
		}
	}
	return "", false
}

// Values yields every value of the field in order, one per field line; lists inside a value are not split.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.Len() {
			if n, value := h.At(i); foldEqual(n, name) && !yield(value) {
				return
			}
		}
	}
}

// All yields every field in order.
func (h *Header) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range h.Len() {
			if !yield(h.At(i)) {
				return
			}
		}
	}
}

// Count is the number of field lines with that name.
func (h *Header) Count(name string) int {
	count := 0
	for i := range h.Len() {
		if n, _ := h.At(i); foldEqual(n, name) {
			count++
		}
	}
	return count
}

// Add appends a field. The name is stored in lower case; a byte that may not stand in a name becomes a dash, and one that may not
// stand in a value (CR, LF, NUL and other controls) a space, so that nothing can end its field.
func (h *Header) Add(name, value string) {
	f := field{nameStart: uint32(len(h.buf))}
	for i := range len(name) {
		b := lower(name[i])
		if !IsTokenByte(b) {
			b = '-'
		}
		h.buf = append(h.buf, b)
	}
	f.nameEnd = uint32(len(h.buf))
	f.valueStart, f.valueEnd = h.appendValue(value)
	h.fields = append(h.fields, f)
}

// Set replaces every field of that name by one, in the place of the first.
func (h *Header) Set(name, value string) {
	for i := range h.fields {
		if n, _ := h.At(i); !foldEqual(n, name) {
			continue
		}
		h.fields[i].valueStart, h.fields[i].valueEnd = h.appendValue(value)
		h.deleteFrom(i+1, name)
		return
	}
	h.Add(name, value)
}

// Del removes every field of that name and says how many there were.
func (h *Header) Del(name string) int { return h.deleteFrom(0, name) }

// DelFunc removes the fields for which drop is true and says how many there were. The name is in lower case.
func (h *Header) DelFunc(drop func(name, value string) bool) int {
	kept := h.fields[:0]
	for i := range h.fields {
		if n, v := h.At(i); !drop(n, v) {
			kept = append(kept, h.fields[i])
		}
	}
	gone := len(h.fields) - len(kept)
	h.fields = kept
	return gone
}

// Reset removes everything and keeps the buffer for reuse. Views handed out before are no longer valid.
func (h *Header) Reset() {
	h.buf = h.buf[:0]
	if cap(h.buf) > maxKept {
		h.buf = nil
	}
	h.fields = h.fields[:0]
}

// Clone returns a copy with a buffer of its own.
func (h *Header) Clone() *Header {
	clone := &Header{}
	clone.buf = append(clone.buf, h.buf...)
	clone.fields = append(clone.fields, h.fields...)
	return clone
}

// Load replaces the content by a copy of raw, without fields, and returns that copy for an engine to parse: it may lower the case
// of names in it before it marks them.
func (h *Header) Load(raw []byte) []byte {
	h.Reset()
	h.buf = append(h.buf, raw...)
	return h.buf
}

// Mark appends a field whose bytes stand in the loaded buffer; the name is a lower-case token and the value checked by the caller.
func (h *Header) Mark(nameStart, nameEnd, valueStart, valueEnd int) {
	h.fields = append(h.fields, field{uint32(nameStart), uint32(nameEnd), uint32(valueStart), uint32(valueEnd)})
}

// View returns a stretch of the buffer as a string without copying it.
func (h *Header) View(start, end int) string {
	if start == end {
		return ""
	}
	// A message's strings would otherwise be most of its allocations. Bytes in the buffer are never changed once a field is
	// marked, and append leaves the old array alone, so the view is constant until Reset or Load.
	return unsafe.String(&h.buf[start:end][0], end-start)
}

func (h *Header) deleteFrom(from int, name string) int {
	kept := h.fields[:from]
	for i := from; i < len(h.fields); i++ {
		if n, _ := h.At(i); !foldEqual(n, name) {
			kept = append(kept, h.fields[i])
		}
	}
	gone := len(h.fields) - len(kept)
	h.fields = kept
	return gone
}

func (h *Header) appendValue(value string) (start, end uint32) {
	start = uint32(len(h.buf))
	for i := range len(value) {
		b := value[i]
		if !IsValueByte(b) {
			b = ' '
		}
		h.buf = append(h.buf, b)
	}
	return start, uint32(len(h.buf))
}

// foldEqual compares a stored name, which is lower case, with one in any case.
func foldEqual(stored, name string) bool {
	if len(stored) != len(name) {
		return false
	}
	for i := range len(name) {
		if stored[i] != lower(name[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if b-'A' < 26 {
		return b | 0x20
	}
	return b
}
