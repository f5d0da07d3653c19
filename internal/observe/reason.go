package observe

// Reason says in one word why a connection, a request or an administrative call was refused or ended. The same word stands in
// the access log, as a metric label, in admin answers and in docs/operations.md. The zero value means that nothing was refused.
type Reason string

// String returns the code, or "none" for the zero value, so that a metric label is never empty.
func (r Reason) String() string {
	if r == "" {
		return "none"
	}
	return string(r)
}

// Reasons for which a peer's TLS handshake is refused.
const (
	PeerNoCertificate      Reason = "peer_no_certificate"       // mutual TLS, and the peer presented nothing
	PeerUntrusted          Reason = "peer_untrusted"            // the chain leads to no authority of the bundle
	PeerForeignTrustDomain Reason = "peer_foreign_trust_domain" // no bundle for the trust domain of the SPIFFE ID
	PeerExpired            Reason = "peer_expired"              // after NotAfter of an element of the chain
	PeerNotYetValid        Reason = "peer_not_yet_valid"        // before NotBefore
	PeerURISANs            Reason = "peer_uri_sans"             // not exactly one URI SAN
	PeerInvalidID          Reason = "peer_invalid_id"           // the URI SAN is no SPIFFE ID, or one without a path
	PeerIsCA               Reason = "peer_is_ca"                // a certificate authority presented as leaf
	PeerKeyUsage           Reason = "peer_key_usage"            // key usage without digitalSignature, or with certificate or CRL signing
	PeerExtKeyUsage        Reason = "peer_ext_key_usage"        // extended key usage without the role the peer plays
	PeerWeakKey            Reason = "peer_weak_key"             // key or signature algorithm below the floor
	PeerChainTooLong       Reason = "peer_chain_too_long"       // more certificates than the limit, one above 16 KiB, or too many ways through them
	PeerRevoked            Reason = "peer_revoked"              // on the revocation index
	PeerUnexpectedID       Reason = "peer_unexpected_id"        // verified, but not one of the expected SPIFFE IDs
	HandshakeFailed        Reason = "handshake_failed"          // the TLS protocol itself: version, suite, bad record
	PeerNoPQ               Reason = "peer_no_pq"                // require_pq, and the peer offers no hybrid key exchange
	HandshakeTimeout       Reason = "handshake_timeout"         // not finished in time
	ProxyProtocol          Reason = "proxy_protocol"            // the PROXY header is missing, malformed, or from a source not trusted to send it
	NoCredential           Reason = "no_credential"             // this process has no SVID or bundle to serve with
)

// Reasons for which a request, or a connection that carries none, is refused.
const (
	BadRequest         Reason = "bad_request"          // 400: malformed message
	AmbiguousPath      Reason = "ambiguous_path"       // 400: a path that two readers could take for two resources
	HeadTooLarge       Reason = "head_too_large"       // 431
	URITooLong         Reason = "uri_too_long"         // 414
	BodyTooLarge       Reason = "body_too_large"       // 413
	NotImplemented     Reason = "not_implemented"      // 501: method or transfer coding
	UnsupportedVersion Reason = "unsupported_version"  // 505
	Misdirected        Reason = "misdirected"          // 421: host and SNI disagree
	NoRoute            Reason = "no_route"             // 404
	Unauthenticated    Reason = "unauthenticated"      // 401
	Denied             Reason = "denied"               // 403: a deny rule, or no allow rule matched
	NoPolicy           Reason = "no_policy"            // 403: the service has no policy at all
	PolicyError        Reason = "policy_error"         // 403: evaluation failed, closed
	UpgradeRefused     Reason = "upgrade_refused"      // 403: upgrade or CONNECT that the route does not allow
	UpstreamConnect    Reason = "upstream_connect"     // 503: dial failed
	UpstreamTLS        Reason = "upstream_tls"         // 503: handshake with the upstream failed
	UpstreamNone       Reason = "upstream_none"        // 503: the cluster has no endpoint to offer
	UpstreamTimeout    Reason = "upstream_timeout"     // 504
	UpstreamProtocol   Reason = "upstream_protocol"    // 502: malformed response
	UpstreamReset      Reason = "upstream_reset"       // 502: closed before the response was complete
	RequestTimeout     Reason = "request_timeout"      // 408
	TooManyConnections Reason = "too_many_connections" // 503, or refused at accept
	TooManyRequests    Reason = "too_many_requests"    // 429: the limit of requests under way, or of their rate
	UpstreamOverloaded Reason = "upstream_overloaded"  // 503: a limit of the cluster
	Internal           Reason = "internal"             // 500
)

// Reasons for which a live connection ends.
const (
	PeerClosed        Reason = "peer_closed"        // the downstream closed, nothing pending
	UpstreamClosed    Reason = "upstream_closed"    // the upstream closed, nothing pending
	IdleTimeout       Reason = "idle_timeout"       //
	MaxTime           Reason = "max_time"           // the longest allowed life of a connection
	CredentialExpired Reason = "credential_expired" // the peer's or our own SVID ended while the connection lived
	Revoked           Reason = "revoked"            // the peer's or our own credential was revoked while the connection lived
	PolicyChanged     Reason = "policy_changed"     // a new policy denies what was open
	ProtocolError     Reason = "protocol_error"     // the peer broke the rules of HTTP/2
	Abuse             Reason = "abuse"              // the peer resets, pings or fragments more than an honest one has reason to
	Drained           Reason = "drained"            // shutdown, or a listener or route that a new configuration no longer has
	IOError           Reason = "io_error"           // reset or another transport error
)
