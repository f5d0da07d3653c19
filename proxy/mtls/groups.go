package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/postern-proxy/postern/internal/observe"
)

// hybridGroups are the key exchanges that hold as long as one of their halves does, the classical or the post-quantum one, best
// first.
var hybridGroups = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024}

// groups are the key exchanges of a configuration.
func groups(requirePQ bool) []tls.CurveID {
	if requirePQ {
		return hybridGroups
	}
	return append(slices.Clone(hybridGroups), tls.X25519, tls.CurveP256)
}

// checkGroup holds that a connection for which a hybrid is required has one, whatever was configured and offered.
func checkGroup(requirePQ bool, group tls.CurveID) error {
	if !requirePQ || slices.Contains(hybridGroups, group) {
		return nil
	}
	return &Error{Reason: observe.PeerNoPQ, Err: fmt.Errorf("the key exchange is %s, which is no post-quantum hybrid", group)}
}

// clientLacksHybrid gives a handshake that failed its reason when the client cannot do what is required. The hello is nil when it
// was not understood.
func clientLacksHybrid(hello *clientHello, failure error) error {
	if hello == nil || hello.offersHybrid() {
		return nil
	}
	return &Error{Reason: observe.PeerNoPQ, Err: fmt.Errorf("the client offers no post-quantum hybrid key exchange: %w", failure)}
}

// serverLacksHybrid tells from the failure of a handshake in which only hybrids were offered that the server wants none of them.
// crypto/tls gives no other sign than the text; a test holds it.
func serverLacksHybrid(failure error) error {
	text := failure.Error()
	remote, ok := errors.AsType[*net.OpError](failure)
	refused := ok && remote.Op == "remote error" &&
		(strings.Contains(text, "handshake failure") || strings.Contains(text, "insufficient security") || strings.Contains(text, "protocol version"))
	if !refused && !strings.Contains(text, "unsupported protocol version") {
		return nil
	}
	return &Error{Reason: observe.PeerNoPQ, Err: fmt.Errorf("the server takes no post-quantum hybrid key exchange: %w", failure)}
}

func numbersOf(groups []tls.CurveID) []uint16 {
	list := make([]uint16, len(groups))
	for i, group := range groups {
		list[i] = uint16(group)
	}
	return list
}
