package svid

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
)

// withNames is a leaf with these SANs.
func withNames(names ...[]byte) func(testing.TB) presentation {
	return withRawLeaf(func(r *rawCertificate) { r.set(oidSubjectAltName, true, der(tagSequence, names...)) })
}

func withLeaf(change func(*x509.Certificate)) func(testing.TB) presentation {
	return func(t testing.TB) presentation { return tree{leaf: change}.grow(t).presented() }
}

func withRawLeaf(change func(*rawCertificate)) func(testing.TB) presentation {
	return func(t testing.TB) presentation { return tree{rawLeaf: change}.grow(t).presented() }
}

func sanAbuses() []abuse {
	two, foreign := uriName("spiffe://example.org/admin"), uriName("spiffe://partner.test/admin")
	good := uriName(mintID)
	const one = "X509-SVID 2: exactly one URI SAN"
	return []abuse{
		{"nothing is wrong", accepted, "the row that shows that the others fail for their own reason", withLeaf(nil)},
		{"two SPIFFE IDs of one trust domain", refused(observe.PeerURISANs), one, withNames(good, two)},
		{"two SPIFFE IDs, the second of a foreign trust domain", refused(observe.PeerURISANs), one, withNames(good, foreign)},
		{"two SPIFFE IDs, the first of a foreign trust domain", refused(observe.PeerURISANs), one, withNames(foreign, good)},
		{"the same SPIFFE ID twice", refused(observe.PeerURISANs), one, withNames(good, good)},
		{"a SPIFFE ID and a web address", refused(observe.PeerURISANs), one, withNames(good, uriName("https://example.org/"))},
		{"a SPIFFE ID between other names", accepted, "X509-SVID 2: MAY contain any number of other SAN fields", withNames(dnsName("a.test"), good,
			generalName(7, []byte{127, 0, 0, 1}), generalName(1, []byte("a@b.test")))},
		{"a DNS name only", refused(observe.PeerURISANs), one, withNames(dnsName("workload.example.org"))},
		{"a DNS name that reads as a SPIFFE ID", refused(observe.PeerURISANs), one, withNames(dnsName(mintID))},
		{"an address only", refused(observe.PeerURISANs), one, withNames(generalName(7, []byte{10, 0, 0, 1}))},
		{"a SPIFFE ID as other name", refused(observe.PeerURISANs), one, withNames(der(0xa0, []byte("\x06\x03\x2a\x03\x04"), der(0xa0, der(0x0c, []byte(mintID)))))},
		{"a SPIFFE ID as registered ID's tag", refused(observe.PeerURISANs), one, withNames(generalName(8, []byte(mintID)))},
		{"no SAN at all, the SPIFFE ID as common name", refused(observe.PeerURISANs), one, withLeaf(func(c *x509.Certificate) {
			c.ExtraExtensions, c.Subject.CommonName = nil, mintID
		})},
		{"an empty SAN", refused(observe.PeerURISANs), one, withNames()},
		{"a constructed URI beside the real one", refused(observe.PeerURISANs), "a reader may take it for a URI, another not", withNames(good, der(0xa6, []byte("spiffe://example.org/admin")))},
		{"a constructed URI alone", refused(observe.PeerURISANs), "IA5String is primitive (X.690, 10.2)", withNames(der(0xa6, []byte(mintID)))},
		{"a universal string among the names", refused(observe.PeerURISANs), "no GeneralName", withNames(good, der(0x16, []byte("spiffe://example.org/admin")))},
		{"a name with a tag that GeneralName has not", refused(observe.PeerURISANs), "no GeneralName", withNames(good, generalName(9, []byte("x")))},
		{"a name that ends too early", refused(unparsable), "crypto/x509 reads the names", withNames(good, []byte{0x86, 0x20, 's'})},
		{"a SAN that is a set", refused(unparsable), "RFC 5280, 4.2.1.6: SEQUENCE OF", withRawLeaf(func(r *rawCertificate) {
			r.set(oidSubjectAltName, true, der(tagSet, good))
		})},
		{"bytes behind the names", refused(observe.PeerURISANs), "one element, as DER", withRawLeaf(func(r *rawCertificate) {
			r.set(oidSubjectAltName, true, append(der(tagSequence, good), two...))
		})},
		{"two SAN extensions", refused(unparsable), "RFC 5280, 4.2: not more than one instance", withRawLeaf(func(r *rawCertificate) {
			r.extensions = append(r.extensions, rawExtension{id: oidSubjectAltName, value: der(tagSequence, two)})
		})},
		{"an empty subject and a critical SAN", accepted, "X509-SVID 3.1: the subject is not required", withLeaf(func(c *x509.Certificate) { c.Subject = pkix.Name{} })},
		{"an empty subject and a SAN that is not critical", refused(observe.PeerUntrusted), "X509-SVID 3.1, RFC 5280, 4.1.2.6", withRawLeaf(func(r *rawCertificate) {
			r.subject = emptyName
			r.uncritical(oidSubjectAltName)
		})},
		{"a subject and a SAN that is not critical", accepted, "RFC 5280, 4.2.1.6", withRawLeaf(func(r *rawCertificate) { r.uncritical(oidSubjectAltName) })},
		{"a subject and a critical SAN", accepted, "RFC 5280, 4.2.1.6: SHOULD mark as non-critical", withLeaf(nil)},
		{"an empty issuer", refused(observe.PeerUntrusted), "RFC 5280, 4.1.2.4: non-empty distinguished name", withRawLeaf(func(r *rawCertificate) { r.issuer = emptyName })},
	}
}

func idAbuses() []abuse {
	const form, length = "SPIFFE-ID 2: one form of trust domain and path", "SPIFFE-ID 2.3"
	path := func(n int) string {
		return "spiffe://example.org/" + strings.Repeat("a", n-len("spiffe://example.org/"))
	}
	all := []abuse{
		{"an ID of 2048 bytes", accepted, length + ": MUST support up to 2048 bytes", withNames(uriName(path(2048)))},
		{"an ID of 2049 bytes", refused(observe.PeerInvalidID), length, withNames(uriName(path(2049)))},
		{"an ID of 15000 bytes", refused(observe.PeerInvalidID), length, withNames(uriName(path(15000)))},
		{"a trust domain of 256 bytes", refused(observe.PeerInvalidID), length + ": 255 at most", withNames(uriName("spiffe://" + strings.Repeat("a", 256) + "/x"))},
		{"a trust domain nobody knows", refused(observe.PeerForeignTrustDomain), "no bundle, no roots", presenting(func(g *grown) [][]byte {
			return [][]byte{g.leafUnder(g.root, g.rootKey, func(c *x509.Certificate) {
				c.ExtraExtensions = []pkix.Extension{sanExtension(uriName("spiffe://partner.test/x"))}
			})}
		})},
		{"a trust domain nobody knows, with an authority of ours", refused(observe.PeerUntrusted), "X509-SVID 3.2: of the trust domain of its leaves", withNames(uriName("spiffe://partner.test/x"))},
		{"a path in upper case", accepted, "SPIFFE-ID 2.2: paths are case-sensitive and may have letters of both", withNames(uriName("spiffe://example.org/A"))},
	}
	for _, x := range []struct {
		name, uri string
		want      observe.Reason
	}{
		{"parent segments", "spiffe://example.org/a/../admin", observe.PeerInvalidID},
		{"a current segment", "spiffe://example.org/./admin", observe.PeerInvalidID},
		{"encoded parent segments", "spiffe://example.org/%2e%2e/admin", observe.PeerInvalidID},
		{"an encoded letter", "spiffe://example.org/%61dmin", observe.PeerInvalidID},
		{"an encoded slash", "spiffe://example.org/a%2fb", observe.PeerInvalidID},
		{"a bad percent", "spiffe://example.org/a%zz", unparsable},
		{"a query", "spiffe://example.org/workload?admin=1", observe.PeerInvalidID},
		{"an empty query", "spiffe://example.org/workload?", observe.PeerInvalidID},
		{"a fragment", "spiffe://example.org/workload#admin", observe.PeerInvalidID},
		{"an empty fragment", "spiffe://example.org/workload#", observe.PeerInvalidID},
		{"a space", "spiffe://example.org/work load", observe.PeerInvalidID},
		{"a line feed", "spiffe://example.org/workload\nadmin", unparsable},
		{"a NUL", "spiffe://example.org/workload\x00.evil.test", unparsable},
		{"UTF-8", "spiffe://example.org/wörkload", unparsable},
		{"a byte above ASCII", "spiffe://example.org/\xff", unparsable},
		{"a backslash", `spiffe://example.org\workload`, unparsable},
		{"a backslash in the path", `spiffe://example.org/a\b`, observe.PeerInvalidID},
		{"a trust domain in upper case", "spiffe://EXAMPLE.org/workload", observe.PeerInvalidID},
		{"a scheme in upper case", "SPIFFE://example.org/workload", observe.PeerInvalidID},
		{"another scheme", "https://example.org/workload", observe.PeerInvalidID},
		{"no scheme", "example.org/workload", observe.PeerInvalidID},
		{"no authority", "spiffe:/workload", observe.PeerInvalidID},
		{"an opaque part", "spiffe:example.org/workload", observe.PeerInvalidID},
		{"three slashes", "spiffe:///example.org/workload", observe.PeerInvalidID},
		{"nothing", "", observe.PeerInvalidID},
		{"an empty path", "spiffe://example.org", observe.PeerInvalidID},
		{"a root path", "spiffe://example.org/", observe.PeerInvalidID},
		{"a trailing slash", "spiffe://example.org/workload/", observe.PeerInvalidID},
		{"an empty segment", "spiffe://example.org//workload", observe.PeerInvalidID},
		{"user information", "spiffe://admin@example.org/workload", observe.PeerInvalidID},
		{"empty user information", "spiffe://@example.org/workload", observe.PeerInvalidID},
		{"a port", "spiffe://example.org:443/workload", observe.PeerInvalidID},
		{"a trailing dot of the trust domain", "spiffe://example.org./workload", unparsable},
		{"a wildcard trust domain", "spiffe://*.org/workload", observe.PeerInvalidID},
		{"a path parameter", "spiffe://example.org/workload;admin=1", observe.PeerInvalidID},
		{"a wildcard path", "spiffe://example.org/*", observe.PeerInvalidID},
		{"an address as trust domain", "spiffe://[::1]/workload", observe.PeerInvalidID},
		{"a leading space", " spiffe://example.org/workload", unparsable},
		{"a terminal's escape sequence", "spiffe://example.org/\x1b[31m", unparsable},
		{"quotes", `spiffe://example.org/"x" level=error`, observe.PeerInvalidID},
	} {
		all = append(all, abuse{"an ID with " + x.name, refused(x.want), form, withNames(uriName(x.uri))})
	}
	return all
}

func usageAbuses() []abuse {
	const ku, eku, ca = "X509-SVID 4.3", "the usage of its role must be there (standards.md, X509-SVID 4.4)", "X509-SVID 5.2: cA MUST be false"
	usage := func(u x509.KeyUsage) func(testing.TB) presentation {
		return withLeaf(func(c *x509.Certificate) { c.KeyUsage = u })
	}
	extended := func(u ...x509.ExtKeyUsage) func(testing.TB) presentation {
		return withLeaf(func(c *x509.Certificate) { c.ExtKeyUsage = u })
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	private := []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
	oidEKU := oidExtKeyUsage
	return []abuse{
		{"no key usage", refused(observe.PeerKeyUsage), ku + ": MUST set digitalSignature", usage(0)},
		{"key encipherment only", refused(observe.PeerKeyUsage), ku + ": MUST set digitalSignature", usage(x509.KeyUsageKeyEncipherment)},
		{"all that a leaf may do", accepted, ku + ": MAY set keyEncipherment and keyAgreement",
			usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement)},
		{"certificate signing beside", refused(observe.PeerKeyUsage), ku + ": MUST NOT set keyCertSign", usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign)},
		{"CRL signing beside", refused(observe.PeerKeyUsage), ku + ": MUST NOT set cRLSign", usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign)},
		{"a key usage without bits", refused(observe.PeerKeyUsage), ku, withRawLeaf(func(r *rawCertificate) { r.set(oidKeyUsage, true, der(tagBits, []byte{0})) })},
		{"a key usage that is no string of bits", refused(unparsable), "RFC 5280, 4.2.1.3", withRawLeaf(func(r *rawCertificate) { r.set(oidKeyUsage, true, der(tagOctets, []byte{0x80})) })},
		{"a key usage with bytes behind it", refused(observe.PeerUntrusted), "one element, as DER", withRawLeaf(func(r *rawCertificate) {
			r.set(oidKeyUsage, true, append(der(tagBits, []byte{7, 0x80}), der(tagBits, []byte{1, 0x06})...))
		})},
		{"a key usage that is not critical", accepted, "criticality speaks to readers that do not know it; we do", withRawLeaf(func(r *rawCertificate) { r.uncritical(oidKeyUsage) })},
		{"no extended key usage", refused(observe.PeerExtKeyUsage), eku, extended()},
		{"an empty extended key usage", refused(observe.PeerExtKeyUsage), "RFC 5280, 4.2.1.12: SIZE (1..MAX)", withRawLeaf(func(r *rawCertificate) { r.set(oidEKU, false, der(tagSequence)) })},
		{"code signing only", refused(observe.PeerExtKeyUsage), eku, extended(x509.ExtKeyUsageCodeSigning)},
		{"any extended key usage only", refused(observe.PeerExtKeyUsage), eku, extended(x509.ExtKeyUsageAny)},
		{"any extended key usage beside both", accepted, "RFC 5280, 4.2.1.12", extended(append(both, x509.ExtKeyUsageAny)...)},
		{"for servers only", verdict{asClient: observe.PeerExtKeyUsage}, eku, extended(x509.ExtKeyUsageServerAuth)},
		{"for clients only", verdict{asServer: observe.PeerExtKeyUsage}, eku, extended(x509.ExtKeyUsageClientAuth)},
		{"a private usage only", refused(observe.PeerExtKeyUsage), eku, withLeaf(func(c *x509.Certificate) { c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, private })},
		{"a private usage beside both", accepted, "RFC 5280, 4.2.1.12", withLeaf(func(c *x509.Certificate) { c.UnknownExtKeyUsage = private })},
		{"a critical extended key usage", accepted, "X509-SVID 4.4: MAY be marked as critical", withRawLeaf(func(r *rawCertificate) {
			r.extensions[r.index(oidEKU)].critical = []byte(derTrue)
		})},
		{"an authority as leaf", refused(observe.PeerIsCA), ca, withLeaf(func(c *x509.Certificate) { c.IsCA = true })},
		{"an authority as leaf, with the usages of one", refused(observe.PeerIsCA), ca, withLeaf(func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
		})},
		{"the signing authority itself", refused(observe.PeerIsCA), ca, func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return g.with(g.signingDER)
		}},
		{"the root itself", refused(observe.PeerIsCA), ca, func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return g.with(g.rootDER)
		}},
		{"no basic constraints", accepted, "X509-SVID 4.1: cA is false unless said", withRawLeaf(func(r *rawCertificate) { r.drop(oidBasicConstraints) })},
		{"basic constraints that are not critical", accepted, "RFC 5280, 4.2.1.9: MAY, in end entities", withRawLeaf(func(r *rawCertificate) { r.uncritical(oidBasicConstraints) })},
		{"a path length on a leaf", accepted, "RFC 5280, 4.2.1.9: meaningful only if cA is asserted", withRawLeaf(func(r *rawCertificate) {
			r.set(oidBasicConstraints, true, der(tagSequence, der(tagInteger, []byte{0})))
		})},
		{"basic constraints with bytes behind them", refused(observe.PeerUntrusted), "one element, as DER", withRawLeaf(func(r *rawCertificate) {
			r.set(oidBasicConstraints, true, append(der(tagSequence), der(tagSequence, []byte(derTrue))...))
		})},
		{"basic constraints with a BOOLEAN of BER", refused(unparsable), "X.690, 11.1: TRUE is FF", withRawLeaf(func(r *rawCertificate) {
			r.set(oidBasicConstraints, true, der(tagSequence, der(tagBoolean, []byte{1})))
		})},
	}
}

func nameConstraintAbuses() []abuse {
	const rule = "RFC 5280, 4.2.1.10"
	on := func(critical bool, value []byte) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) { r.set(oidNameConstraints, critical, value) }}.grow(t).presented()
		}
	}
	names := func(n ...[]byte) [][]byte { return n }
	own, foreign := uriName("example.org"), uriName("partner.test")
	directory := der(0xa4, der(tagSequence))
	return []abuse{
		{"name constraints in a leaf", refused(observe.PeerUntrusted), rule + ": only in a CA certificate", withRawLeaf(func(r *rawCertificate) {
			r.set(oidNameConstraints, true, constraints(names(own), nil))
		})},
		{"name constraints in a leaf that are not critical", refused(observe.PeerUntrusted), rule + ": only in a CA certificate", withRawLeaf(func(r *rawCertificate) {
			r.set(oidNameConstraints, false, constraints(names(own), nil))
		})},
		{"an authority that may name our trust domain", accepted, rule, on(true, constraints(names(own), nil))},
		{"an authority that may name another trust domain only", refused(observe.PeerUntrusted), rule, on(true, constraints(names(foreign), nil))},
		{"an authority that may not name our trust domain", refused(observe.PeerUntrusted), rule, on(true, constraints(nil, names(own)))},
		{"permitted and excluded at once", refused(observe.PeerUntrusted), rule + ": excluded wins", on(true, constraints(names(own), names(own)))},
		{"permitted below our trust domain only", refused(observe.PeerUntrusted), rule + ": a leading period asks for one label more", on(true, constraints(names(uriName(".example.org")), nil))},
		{"constraints that are not critical", refused(observe.PeerUntrusted), rule + ": MUST mark as critical", on(false, constraints(names(own), nil))},
		{"constraints of a kind that the leaf has not", accepted, rule, on(true, constraints(names(dnsName("a.test")), nil))},
		{"constraints on directory names", refused(observe.PeerUntrusted), "crypto/x509 cannot judge them, so they are refused", on(true, constraints(names(directory), nil))},
		{"constraints that constrain nothing", refused(unparsable), rule + ": one of both MUST be present", on(true, der(tagSequence))},
		{"constraints of the root", refused(observe.PeerUntrusted), rule, func(t testing.TB) presentation {
			return tree{rawRoot: func(r *rawCertificate) { r.set(oidNameConstraints, true, constraints(names(foreign), nil)) }}.grow(t).presented()
		}},
		{"a DNS name outside of the constraints", refused(observe.PeerUntrusted), rule + ": holds for all names", func(t testing.TB) presentation {
			return tree{
				rawSigning: func(r *rawCertificate) {
					r.set(oidNameConstraints, true, constraints(names(own, dnsName("a.test")), nil))
				},
				leaf: func(c *x509.Certificate) {
					c.ExtraExtensions = []pkix.Extension{sanExtension(uriName(mintID), dnsName("b.test"))}
				},
			}.grow(t).presented()
		}},
	}
}
