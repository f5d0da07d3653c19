package l7

// IsTokenByte reports that b may stand in a token: a method or a field name (RFC 9110, Section 5.6.2).
func IsTokenByte(b byte) bool { return octets[b]&tokenOctet != 0 }

// IsValueByte reports that b may stand in a field value: HTAB, SP, VCHAR and obs-text (RFC 9110, Section 5.5).
func IsValueByte(b byte) bool { return octets[b]&valueOctet != 0 }

// IsToken reports that s is a token, thus not empty.
func IsToken(s string) bool {
	for i := range len(s) {
		if !IsTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

const (
	tokenOctet = 1 << iota
	valueOctet
)

// octets classifies every byte; one load instead of a chain of comparisons for each byte of a head.
var octets = func() (table [256]uint8) {
	for b := range 256 {
		if b == '\t' || b >= 0x20 && b != 0x7f {
			table[b] |= valueOctet
		}
	}
	const marks = "!#$%&'*+-.^_`|~"
	for i := range len(marks) {
		table[marks[i]] |= tokenOctet
	}
	for b := byte('0'); b <= '9'; b++ {
		table[b] |= tokenOctet
	}
	for b := byte('a'); b <= 'z'; b++ {
		table[b] |= tokenOctet
		table[b-0x20] |= tokenOctet
	}
	return table
}()
