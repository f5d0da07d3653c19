package l7

import (
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
)

// HopByHop is what the fields said that concern the connection and not the message.
type HopByHop struct {
	Close     bool
	KeepAlive bool
	// Upgrade is the one protocol of the Upgrade field, in lower case, when Connection nominates it. A list of protocols, or
	// h2c, is as if nothing had been asked: an upgrade may always be ignored (RFC 9110, Section 7.8).
	Upgrade string
	// Trailers: "TE: trailers".
	Trailers bool
}

// Bounds of the work that Connection can cause; real messages nominate one or two fields.
const (
	maxNominations     = 16
	maxConnectionValue = 1024
)

// StripHopByHop removes Connection, the fields it nominates and the other fields of one hop (RFC 9110, Section 7.6.1), and
// returns what they said. The proxy sets its own fields afterwards, so that no nomination reaches them. A nomination of a field
// that carries the message, or somebody's identity, is an attack and an *Error.
func StripHopByHop(h *Header) (HopByHop, error) {
	var hop HopByHop
	var upgrade string
	var names [maxNominations]string
	var upgrades, nominated, fields, length int
	var wantsUpgrade bool
	for i := range h.Len() {
		name, value := h.At(i)
		if !isHopByHop(name) {
			continue
		}
		fields++
		switch name {
		case "connection":
			if length += len(value); length > maxConnectionValue {
				return hop, NewError(observe.BadRequest, "Connection field too long")
			}
			for token := range listTokens(value) {
				if err := checkNomination(token, nominated); err != nil {
					return hop, err
				}
				names[nominated] = token
				nominated++
				switch {
				case strings.EqualFold(token, "close"):
					hop.Close = true
				case strings.EqualFold(token, "keep-alive"):
					hop.KeepAlive = true
				case strings.EqualFold(token, "upgrade"):
					wantsUpgrade = true
				}
			}
		case "upgrade":
			upgrade = value
			upgrades++
		case "te":
			hop.Trailers = hop.Trailers || hasToken(value, "trailers")
		}
	}
	if fields == 0 {
		return hop, nil
	}
	if wantsUpgrade && upgrades == 1 && isProtocol(upgrade) && !strings.EqualFold(upgrade, "h2c") {
		hop.Upgrade = strings.ToLower(upgrade)
	}
	if nominated > 0 {
		deleteNominated(h, names[:nominated])
	}
	h.DelFunc(func(name, _ string) bool { return isHopByHop(name) })
	return hop, nil
}

// checkNomination refuses what no client has a reason to nominate.
func checkNomination(token string, count int) error {
	if count == maxNominations {
		return NewError(observe.BadRequest, "too many fields nominated by Connection")
	}
	if !IsToken(token) {
		return NewError(observe.BadRequest, "Connection is not a list of tokens")
	}
	name := strings.ToLower(token)
	if isFraming(name) || isEndToEnd(name) || IsIdentity(name) {
		return NewError(observe.BadRequest, "Connection nominates a field that is not of one hop")
	}
	return nil
}

// deleteNominated removes the fields that Connection names. The names are views into the header, which deleting leaves alone.
func deleteNominated(h *Header, nominated []string) {
	h.DelFunc(func(name, _ string) bool {
		if isHopByHop(name) {
			return false
		}
		for _, token := range nominated {
			if foldEqual(name, token) {
				return true
			}
		}
		return false
	})
}

// listTokens yields the elements of a comma-separated list without the white space around them; empty elements are skipped
// (RFC 9110, Section 5.6.1.2).
func listTokens(value string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for value != "" {
			element := value
			if i := strings.IndexByte(value, ','); i >= 0 {
				element, value = value[:i], value[i+1:]
			} else {
				value = ""
			}
			if element = strings.Trim(element, " \t"); element != "" && !yield(element) {
				return
			}
		}
	}
}

func hasToken(value, token string) bool {
	for element := range listTokens(value) {
		if strings.EqualFold(element, token) {
			return true
		}
	}
	return false
}

// isProtocol reports a single protocol name with an optional version: token["/"token].
func isProtocol(s string) bool {
	name, version, versioned := strings.Cut(s, "/")
	return IsToken(name) && (!versioned || IsToken(version))
}

// IsConnectionField reports a name, in lower case, that engines write by themselves: of one hop, or framing.
func IsConnectionField(name string) bool { return isHopByHop(name) || isFraming(name) }

// isHopByHop names the fields that never pass to the next hop. Framing is apart: it is not in a Header at all.
func isHopByHop(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings",
		"proxy-authenticate", "proxy-authorization", "proxy-authentication-info":
		return true
	default:
		return false
	}
}

// isFraming names the fields that say where a message goes and where it ends.
func isFraming(name string) bool {
	switch name {
	case "host", "content-length", "transfer-encoding":
		return true
	default:
		return false
	}
}

// isEndToEnd names fields whose removal by a nomination would change what a service decides on.
func isEndToEnd(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "cache-control", "content-type", "content-encoding", "content-range", "date",
		"expect", "trailer", "origin", "traceparent", "tracestate", "x-request-id", "grpc-timeout", "www-authenticate":
		return true
	default:
		return strings.HasPrefix(name, "sec-")
	}
}

// IsForbiddenTrailer reports a field that may not stand in a trailer section, where it would be read after the decision: framing,
// routing, authentication, control data and identities (RFC 9110, Section 6.5.1).
func IsForbiddenTrailer(name string) bool {
	switch name {
	case "max-forwards", "range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range",
		"location", "retry-after", "vary", "warning", "age", "expires", "pragma", "proxy-status":
		return true
	}
	return isFraming(name) || isHopByHop(name) || isEndToEnd(name) || IsIdentity(name)
}
