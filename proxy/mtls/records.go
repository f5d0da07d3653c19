package mtls

// Of a TLS record (RFC 8446, Section 5.1).
const (
	recordHeader  = 5
	maxPlaintext  = 16 << 10
	typeHandshake = 22
)

// records follows the boundaries of TLS records in a stream of bytes. The zero value stands before the first one.
type records struct {
	header [recordHeader]byte
	have   int // bytes of the header that have passed; all of them until the payload has passed too
	left   int // bytes of the payload that are to come
}

// step passes the first n bytes of p, which belong together: a piece of a header, or of the payload of a record whose header has
// passed.
func (r *records) step(p []byte) (n int, payload bool) {
	if r.have == recordHeader {
		n = min(r.left, len(p))
		r.left -= n
		if r.left == 0 {
			r.have = 0
		}
		return n, true
	}
	n = copy(r.header[r.have:], p)
	r.have += n
	if r.have == recordHeader {
		r.left = int(r.header[3])<<8 | int(r.header[4])
		if r.left == 0 {
			r.have = 0
		}
	}
	return n, false
}

// kind is the content type of the record whose payload passes.
func (r *records) kind() byte { return r.header[0] }

// between reports that no record has passed in part.
func (r *records) between() bool { return r.have == 0 }
