package interop

import (
	"strings"
	"testing"
)

// verifier is a program that judges a chain against a bundle, for a peer in one role.
type verifier struct {
	name    string
	command func(t *testing.T, c chain) []string
	accepts string // stands in the answer when the chain is good
}

// verifiers are independent implementations of RFC 5280's path validation.
var verifiers = []verifier{
	{"openssl, as client", openssl("sslclient"), ": OK"},
	{"openssl, as server", openssl("sslserver"), ": OK"},
	{"GnuTLS, as client", certtool("1.3.6.1.5.5.7.3.2"), "Verified. The certificate is trusted."},
	{"GnuTLS, as server", certtool("1.3.6.1.5.5.7.3.1"), "Verified. The certificate is trusted."},
	{"Python cryptography, as client", func(t *testing.T, c chain) []string {
		return []string{python(t), "testdata/verify.py", c.SVID, c.Bundle}
	}, "accepted spiffe://"},
}

func openssl(purpose string) func(*testing.T, chain) []string {
	return func(t *testing.T, c chain) []string {
		return []string{need(t, "openssl"), "verify", "-x509_strict", "-purpose", purpose,
			"-no-CApath", "-no-CAstore", "-CAfile", c.Bundle, "-untrusted", c.SVID, c.SVID}
	}
}

func certtool(purpose string) func(*testing.T, chain) []string {
	return func(t *testing.T, c chain) []string {
		return []string{need(t, "certtool"), "--verify", "--verify-profile", "high", "--verify-purpose", purpose,
			"--load-ca-certificate", c.Bundle, "--infile", c.SVID}
	}
}

func TestForeignVerifiersAcceptTheDefaultChain(t *testing.T) {
	c := start(t).fetch(t)
	for _, v := range verifiers {
		t.Run(v.name, func(t *testing.T) { v.want(t, c, true) })
	}
}

func TestForeignVerifiersRefuseTheChainOfAnotherAuthority(t *testing.T) {
	ours, other := start(t).fetch(t), start(t).fetch(t)
	ours.Bundle = other.Bundle
	for _, v := range verifiers {
		t.Run(v.name, func(t *testing.T) { v.want(t, ours, false) })
	}
}

func (v verifier) want(t *testing.T, c chain, accepted bool) {
	t.Helper()
	command := v.command(t, c)
	out, err := output(t, command[0], command[1:]...)
	if got := err == nil && strings.Contains(out, v.accepts); got != accepted {
		t.Errorf("accepted %t, want %t: %s\n%v\n%s", got, accepted, strings.Join(command, " "), err, out)
	}
}
