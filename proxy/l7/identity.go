package l7

import "strings"

// StripIdentity removes every field by which a client could claim an identity, an origin, or another target or method than the one
// that is judged: X-Forwarded-Client-Cert, X-Postern-*, X-Forwarded-*, Forwarded, Client-Cert (RFC 9440), X-HTTP-Method-Override
// and their kin, also when spelled with underscores or dots, which CGI-like servers take for dashes. It says how many there were.
func StripIdentity(h *Header) int {
	return h.DelFunc(func(name, _ string) bool { return IsIdentity(name) })
}

// IsIdentity reports that a name, in lower case, is one of those that StripIdentity removes.
func IsIdentity(name string) bool {
	if strings.ContainsAny(name, "_.") {
		name = spellings.Replace(name)
	}
	switch name {
	case "forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "x-original-forwarded-for",
		"client-cert", "client-cert-chain", "remote-user", "x-remote-user",
		"x-original-url", "x-original-uri", "x-original-host", "x-rewrite-url", "x-host",
		"x-http-method-override", "x-http-method", "x-method-override":
		return true
	}
	for _, prefix := range identityPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// SameToCGI reports that a CGI-like server takes the name, in lower case, for another one that has neither underscores nor dots.
func SameToCGI(name, other string) bool {
	return len(name) == len(other) && spellings.Replace(name) == other
}

// spellings are what CGI-like servers take for the same character as a dash.
var spellings = strings.NewReplacer("_", "-", ".", "-")

// identityPrefixes are families of fields that proxies set and services trust.
var identityPrefixes = [...]string{"x-forwarded-", "x-postern-", "x-spiffe-", "x-client-cert", "x-ssl-", "ssl-client-", "x-envoy-"}
