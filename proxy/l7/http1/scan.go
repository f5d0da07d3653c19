package http1

import "bytes"

// scanSection looks for the empty line that ends a head or a trailer section. It returns the length of the section with that line,
// 0 when it is not there yet; next is where to go on when more bytes have come. ok is false as soon as a line ends in LF without CR,
// so that such a peer is answered and not waited for. A head may not begin with an empty line, a trailer section may be one.
func scanSection(buf []byte, from int, mayBeEmpty bool) (length, next int, ok bool) {
	for {
		i := bytes.IndexByte(buf[from:], '\n')
		if i < 0 {
			return 0, len(buf), true
		}
		i += from
		if i == 0 || buf[i-1] != '\r' {
			return 0, 0, false
		}
		if i == 1 {
			return 2, 0, mayBeEmpty
		}
		if buf[i-2] == '\n' {
			return i + 1, 0, true
		}
		from = i + 1
	}
}
