package mtls

import (
	"bytes"
	"crypto/tls"
	"net"
)

// maxSessions bounds the sessions that a Client remembers, one for each endpoint: about 2 KiB each.
const maxSessions = 512

// nameMark stands before the server name in what a ticket holds beside the session.
const nameMark = "postern server name 1\x00"

// bindSessions makes tickets of a server hold the name that the client asked for. A session is resumed under that name only
// (RFC 6066, Section 3), whatever tickets a client mixes up.
func bindSessions(config *tls.Config) {
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, []byte(nameMark+state.ServerName))
		return config.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := config.DecryptTicket(ticket, state)
		if session == nil || err != nil {
			return nil, err
		}
		for _, extra := range session.Extra {
			if bytes.Equal(extra, []byte(nameMark+state.ServerName)) {
				return session, nil
			}
		}
		return nil, nil //nolint:nilnil // crypto/tls takes that for an unknown ticket
	}
}

// endpointSessions are those of a Client with one endpoint. The key that crypto/tls asks for is the server name, which endpoints
// share; a session is offered only to the address and under the name with which it began.
type endpointSessions struct {
	all tls.ClientSessionCache
	key string
}

func sessionsWith(all tls.ClientSessionCache, remote net.Addr, serverName string) endpointSessions {
	return endpointSessions{all: all, key: remote.Network() + "\x00" + remote.String() + "\x00" + serverName}
}

// Get implements tls.ClientSessionCache.
func (e endpointSessions) Get(string) (*tls.ClientSessionState, bool) { return e.all.Get(e.key) }

// Put implements tls.ClientSessionCache.
func (e endpointSessions) Put(_ string, session *tls.ClientSessionState) { e.all.Put(e.key, session) }
