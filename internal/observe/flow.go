package observe

import "time"

// Flow is the record of one connection, from accept or dial to close. It is written once, when the connection has ended.
type Flow struct {
	Started   time.Time
	Duration  time.Duration
	Direction string // Accepted or Dialled
	Listener  string // of an accepted connection
	Cluster   string // of a dialled one, or where a TCP connection was sent to
	Service   string
	Source    string // address and port of the side that opened the connection
	Via       string // address and port of the load balancer that said so with the PROXY protocol; empty without one
	Target    string // address and port it was opened to
	TLS       TLSFacts
	Own       string // our own SPIFFE ID on this connection
	Decision  string // of a connection that was judged as a whole (TCP)
	Requests  int
	// BytesIn and BytesOut count application data, seen from the peer: what it sent and what it was sent.
	BytesIn  int64
	BytesOut int64
	// Close is why the connection ended, or was refused; none is never written.
	Close Reason
	// Cause is the operator's detail of Close; never sent to the peer.
	Cause string
}

// Directions of a Flow.
const (
	Accepted = "accepted"
	Dialled  = "dialled"
)

// TLSFacts is what is known of the peer of a TLS connection; zero for a plaintext one.
type TLSFacts struct {
	Peer    string // SPIFFE ID
	Serial  string // of the leaf, hexadecimal
	Issuer  string // subject key id of the authority that signed the leaf, hexadecimal
	Version string // "1.3"
	Group   string // key exchange, "X25519MLKEM768"
	ALPN    string
	// ServerName and JA4 are the client's word, from its ClientHello; of accepted connections only.
	ServerName string
	JA4        string
	Resumed    bool
}

// Access is the record of one request, written when its response has ended.
type Access struct {
	Started    time.Time
	Duration   time.Duration
	RequestID  string
	TraceID    string
	Listener   string
	Service    string
	Route      string
	Cluster    string
	Endpoint   string
	Principal  string // SPIFFE ID, or "anonymous"
	Serial     string
	Source     string
	Method     string
	Host       string
	Path       string // canonical, without query
	Protocol   string
	Status     int
	Effect     string // "allow", "deny"; empty when the request was refused before it was judged
	Decision   string
	Policy     string
	Rule       string
	Shadow     []string // "policy/rule: deny", of policies in shadow mode that would have answered otherwise
	Reason     Reason   // why it was refused or ended early; none otherwise
	Cause      string   // the operator's detail of Reason
	BytesIn    int64    // request body
	BytesOut   int64    // response body
	Generation uint64
}
