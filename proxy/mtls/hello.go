package mtls

import (
	"errors"
	"slices"
)

// clientHello is what a client says of itself before anything is agreed on (RFC 8446, Section 4.1.2). All of it is the client's
// word, and none of it was checked.
type clientHello struct {
	version    uint16 // legacy_version
	suites     []uint16
	extensions []uint16 // in their order
	versions   []uint16 // supported_versions
	groups     []uint16 // supported_groups
	signatures []uint16 // signature_algorithms
	protocols  []string // ALPN
	serverName string
}

// maxHello is the longest ClientHello that is looked at, in bytes. Browsers with hybrid key shares and a ticket send about 2 KiB.
const maxHello = 16 << 10

// Extensions that are looked into (RFC 8446, Section 4.2).
const (
	extServerName        = 0
	extSupportedGroups   = 10
	extSignatures        = 13
	extProtocols         = 16
	extSupportedVersions = 43
)

var errHello = errors.New("malformed ClientHello")

// parseHello reads a ClientHello message with its header. What follows the message is an error, and so is a length that does not fit.
func parseHello(message []byte) (*clientHello, error) {
	const typeClientHello = 1
	whole := wire(message)
	kind, body := whole.take(1), whole.vector(3)
	if body == nil || kind[0] != typeClientHello || len(whole) > 0 {
		return nil, errHello
	}
	h := &clientHello{}
	version, random, session := body.take(2), body.take(32), body.vector(1)
	suites, compression := body.vector(2), body.vector(1)
	if random == nil || session == nil || compression == nil || len(suites)%2 != 0 {
		return nil, errHello
	}
	h.version, h.suites = number(version), numbers(suites)
	if len(body) == 0 {
		return h, nil // before TLS 1.3 a client may have no extensions
	}
	extensions := body.vector(2)
	if extensions == nil || len(body) > 0 {
		return nil, errHello
	}
	for len(extensions) > 0 {
		kind, content := extensions.take(2), extensions.vector(2)
		if content == nil || !h.extension(number(kind), content) {
			return nil, errHello
		}
	}
	return h, nil
}

// extension reads one; false when it is malformed.
func (h *clientHello) extension(kind uint16, content wire) bool {
	h.extensions = append(h.extensions, kind)
	switch kind {
	case extServerName:
		return h.readServerName(content)
	case extSupportedGroups:
		return readNumbers(&h.groups, content, 2)
	case extSignatures:
		return readNumbers(&h.signatures, content, 2)
	case extSupportedVersions:
		return readNumbers(&h.versions, content, 1)
	case extProtocols:
		return h.readProtocols(content)
	default:
		return true
	}
}

// readServerName keeps the first host name (RFC 6066, Section 3).
func (h *clientHello) readServerName(content wire) bool {
	const hostName = 0
	list := content.vector(2)
	if list == nil || len(content) > 0 {
		return false
	}
	for len(list) > 0 {
		kind, name := list.take(1), list.vector(2)
		if len(name) == 0 {
			return false
		}
		if kind[0] == hostName && h.serverName == "" {
			h.serverName = string(name)
		}
	}
	return true
}

// readProtocols is RFC 7301, Section 3.1.
func (h *clientHello) readProtocols(content wire) bool {
	list := content.vector(2)
	if list == nil || len(content) > 0 {
		return false
	}
	for len(list) > 0 {
		name := list.vector(1)
		if len(name) == 0 {
			return false
		}
		h.protocols = append(h.protocols, string(name))
	}
	return true
}

// offersHybrid reports that the client can agree on a key that a quantum computer does not break.
func (h *clientHello) offersHybrid() bool {
	return slices.ContainsFunc(h.groups, func(group uint16) bool {
		return slices.Contains(numbersOf(hybridGroups), group)
	})
}

// readNumbers reads a list of two-byte numbers behind a length of that many bytes; a second such extension is an error.
func readNumbers(into *[]uint16, content wire, length int) bool {
	list := content.vector(length)
	if *into != nil || len(list) == 0 || len(list)%2 != 0 || len(content) > 0 {
		return false
	}
	*into = numbers(list)
	return true
}

// wire is what is left to read. A method that finds too little returns nil and leaves nothing, so that what follows fails too.
type wire []byte

// take returns the next n bytes.
func (w *wire) take(n int) wire {
	if len(*w) < n {
		*w = nil
		return nil
	}
	taken := (*w)[:n:n]
	*w = (*w)[n:]
	return taken
}

// vector returns the bytes behind a length of that many bytes (RFC 8446, Section 3.4); it is not nil when there are none.
func (w *wire) vector(length int) wire {
	prefix := w.take(length)
	if prefix == nil {
		return nil
	}
	n := 0
	for _, b := range prefix {
		n = n<<8 | int(b)
	}
	return w.take(n)
}

func number(w wire) uint16 { return uint16(w[0])<<8 | uint16(w[1]) }

func numbers(w wire) []uint16 {
	list := make([]uint16, 0, len(w)/2)
	for ; len(w) >= 2; w = w[2:] {
		list = append(list, number(w))
	}
	return list
}

// helloTap collects the first message of a client as it passes, and knows what records tell of it once it is whole. It gives up,
// and holds nothing, when that message is no ClientHello or is longer than maxHello.
type helloTap struct {
	message []byte
	done    bool
	seen    *clientHello // nil unless it was whole and well-formed
}

// add takes a piece of the payload of a record.
func (t *helloTap) add(kind byte, piece []byte) {
	const header = 4
	if t.done {
		return
	}
	if kind != typeHandshake || len(t.message)+len(piece) > maxHello {
		t.done, t.message = true, nil
		return
	}
	t.message = append(t.message, piece...)
	if len(t.message) < header {
		return
	}
	length := header + (int(t.message[1])<<16 | int(t.message[2])<<8 | int(t.message[3]))
	switch {
	case length > maxHello:
	case len(t.message) < length:
		return
	default:
		t.seen, _ = parseHello(t.message[:length]) // crypto/tls refuses what is malformed
	}
	t.done, t.message = true, nil
}
