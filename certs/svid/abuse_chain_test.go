package svid

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

// presenting lets a test put the chain together from a correct tree.
func presenting(chain func(g *grown) [][]byte) func(testing.TB) presentation {
	return func(t testing.TB) presentation {
		g := tree{}.grow(t)
		return g.with(chain(g)...)
	}
}

// deep is a leaf beneath n authorities, the lowest first; the root signed the highest.
func (g *grown) deep(n int) [][]byte {
	issuer, issuerKey := g.root, g.rootKey
	var authorities [][]byte
	for i := range n {
		key := testkit.NewKey(g.t)
		cert, der := g.authority(fmt.Sprintf("authority %d", i), key.Public(), issuer, issuerKey, nil)
		authorities = append([][]byte{der}, authorities...)
		issuer, issuerKey = cert, key
	}
	return append([][]byte{g.leafUnder(issuer, issuerKey, nil)}, authorities...)
}

func chainAbuses() []abuse {
	const most, extraneous = "four certificates at most", "RFC 8446, 4.4.2: peers may send certificates out of order and extraneous ones"
	return []abuse{
		{"nothing", refused(observe.PeerNoCertificate), "mutual TLS", presenting(func(*grown) [][]byte { return nil })},
		{"a leaf directly beneath the root", accepted, "an authority needs no other", presenting(func(g *grown) [][]byte { return [][]byte{g.leafUnder(g.root, g.rootKey, nil)} })},
		{"three authorities", accepted, most, presenting(func(g *grown) [][]byte { return g.deep(3) })},
		{"four authorities", refused(observe.PeerChainTooLong), most, presenting(func(g *grown) [][]byte { return g.deep(4) })},
		{"29 authorities", refused(observe.PeerChainTooLong), most, presenting(func(g *grown) [][]byte { return g.deep(29) })},
		{"30 times the leaf", refused(observe.PeerChainTooLong), most, presenting(func(g *grown) [][]byte {
			return bytes.SplitAfter(bytes.Repeat(g.leafDER, 30), g.leafDER)[:30]
		})},
		{"the root sent along", accepted, "RFC 8446, 4.4.2: MAY be omitted", presenting(func(g *grown) [][]byte { return [][]byte{g.leafDER, g.signingDER, g.rootDER} })},
		{"root before signing authority", accepted, extraneous, presenting(func(g *grown) [][]byte { return [][]byte{g.leafDER, g.rootDER, g.signingDER} })},
		{"three authorities out of order", accepted, extraneous, presenting(func(g *grown) [][]byte {
			c := g.deep(3)
			return [][]byte{c[0], c[2], c[3], c[1]}
		})},
		{"the signing authority three times", accepted, extraneous, presenting(func(g *grown) [][]byte { return [][]byte{g.leafDER, g.signingDER, g.signingDER, g.signingDER} })},
		{"no signing authority", refused(observe.PeerUntrusted), "no path", presenting(func(g *grown) [][]byte { return [][]byte{g.leafDER} })},
		{"a middle authority missing", refused(observe.PeerUntrusted), "no path", presenting(func(g *grown) [][]byte {
			c := g.deep(3)
			return [][]byte{c[0], c[1], c[3]}
		})},
		{"the authority before the leaf", refused(observe.PeerIsCA), "RFC 8446, 4.4.2: the sender's certificate MUST come first", presenting(func(g *grown) [][]byte { return [][]byte{g.signingDER, g.leafDER} })},
		{"the leaf twice", refused(observe.PeerUntrusted), "what is no authority has no place behind the leaf", presenting(func(g *grown) [][]byte { return [][]byte{g.leafDER, g.leafDER, g.signingDER} })},
		{"another leaf sent along", refused(observe.PeerUntrusted), "what is no authority has no place behind the leaf", presenting(func(g *grown) [][]byte {
			return [][]byte{g.leafDER, g.signingDER, g.leafUnder(g.signing, g.signingKey, nil)}
		})},
		{"an unrelated authority of our trust domain", accepted, extraneous, presenting(func(g *grown) [][]byte {
			return [][]byte{g.leafDER, g.signingDER, tree{}.grow(g.t).signingDER}
		})},
		{"an unrelated authority of another trust domain", refused(observe.PeerUntrusted), "X509-SVID 3.2: of the trust domain of its leaves", presenting(func(g *grown) [][]byte {
			_, der := g.authority("partner", testkit.NewKey(g.t).Public(), g.root, g.rootKey, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "partner.test"}} })
			return [][]byte{g.leafDER, g.signingDER, der}
		})},
		{"an unrelated authority that ended", refused(observe.PeerExpired), "what is presented is judged, needed or not", presenting(func(g *grown) [][]byte {
			_, der := g.authority("old", testkit.NewKey(g.t).Public(), g.root, g.rootKey, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
			return [][]byte{g.leafDER, g.signingDER, der}
		})},
		{"an unrelated authority with a giant key", refused(observe.PeerWeakKey), "before any signature is checked", presenting(func(g *grown) [][]byte {
			_, der := g.authority("giant", weakRSA(16384, 65537), g.root, g.rootKey, nil)
			return [][]byte{g.leafDER, g.signingDER, der}
		})},
		{"a leaf signed by a leaf", refused(observe.PeerUntrusted), "RFC 5280, 6.1.4: cA must be asserted", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			leaf, err := x509.ParseCertificate(g.leafDER)
			if err != nil {
				t.Fatal(err)
			}
			return g.with(g.leafUnder(leaf, g.leafKey, nil), g.leafDER, g.signingDER)
		}},
		{"the leaf itself in the bundle", refused(observe.PeerUntrusted), "a leaf is not its own authority", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return presentation{chain: [][]byte{g.leafDER}, roots: [][]byte{g.leafDER}}
		}},
		{"the leaf in the bundle, beside its root", refused(observe.PeerUntrusted), "a leaf is not its own authority", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return presentation{chain: [][]byte{g.leafDER, g.signingDER}, roots: [][]byte{g.rootDER, g.leafDER}}
		}},
		{"the signing authority in the bundle, without its root", accepted, "a bundle may hold any authority", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return presentation{chain: [][]byte{g.leafDER, g.signingDER}, roots: [][]byte{g.signingDER}}
		}},
		{"an empty bundle", refused(observe.PeerUntrusted), "no authority", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			return presentation{chain: [][]byte{g.leafDER, g.signingDER}}
		}},
		{"a hierarchy of the same names with other keys", refused(observe.PeerUntrusted), "names are not keys", func(t testing.TB) presentation {
			p := tree{}.grow(t).presented()
			p.roots = tree{}.grow(t).presented().roots
			return p
		}},
		{"a hierarchy of the same names and key ids with other keys", refused(observe.PeerUntrusted), "key ids are not keys", func(t testing.TB) presentation {
			real := tree{}.grow(t)
			forged := tree{root: func(c *x509.Certificate) { c.SubjectKeyId = real.root.SubjectKeyId }}.grow(t)
			return real.with(forged.leafDER, forged.signingDER)
		}},
		{"a hierarchy of the same names and key ids, its root sent along", refused(observe.PeerUntrusted), "a root comes from the bundle", func(t testing.TB) presentation {
			real := tree{}.grow(t)
			forged := tree{root: func(c *x509.Certificate) { c.SubjectKeyId = real.root.SubjectKeyId }}.grow(t)
			return real.with(forged.leafDER, forged.signingDER, forged.rootDER)
		}},
	}
}

func authorityAbuses() []abuse {
	const bc, ku, id = "RFC 5280, 4.2.1.9", "X509-SVID 4.3: signing certificates MUST set keyCertSign", "X509-SVID 3.2"
	signing := func(change func(*x509.Certificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{signing: change}.grow(t).presented() }
	}
	rawSigning := func(edit func(*rawCertificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{rawSigning: edit}.grow(t).presented() }
	}
	root := func(change func(*x509.Certificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{root: change}.grow(t).presented() }
	}
	rawRoot := func(edit func(*rawCertificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{rawRoot: edit}.grow(t).presented() }
	}
	uri := func(uris ...string) func(testing.TB) presentation {
		return signing(func(c *x509.Certificate) {
			c.URIs = nil
			var names [][]byte
			for _, u := range uris {
				names = append(names, uriName(u))
			}
			if names != nil {
				c.ExtraExtensions = []pkix.Extension{sanExtension(names...)}
			}
		})
	}
	hostile := "\x1b[31m\n level=error " + strings.Repeat("x", 3000)
	noBits := der(tagBits, []byte{0})
	notCA := der(tagSequence)
	return []abuse{
		{"an authority without SPIFFE ID", accepted, id + ": SHOULD itself be an SVID", uri()},
		{"an authority with a path", refused(observe.PeerUntrusted), id + ": MUST NOT have a path", uri("spiffe://example.org/authority")},
		{"an authority of another trust domain", refused(observe.PeerUntrusted), id, uri("spiffe://partner.test")},
		{"an authority of two trust domains", refused(observe.PeerUntrusted), "X509-SVID 2", uri("spiffe://example.org", "spiffe://partner.test")},
		{"an authority with a web address", refused(observe.PeerUntrusted), id, uri("https://example.org")},
		{"an authority with a hostile URI", refused(observe.PeerUntrusted), "its text stays out of logs", uri(`spiffe://example.org/" level=error`)},
		{"a hostile name of an authority that signed nothing", refused(observe.PeerUntrusted), "its text stays out of logs", presenting(func(g *grown) [][]byte {
			key := testkit.NewKey(g.t)
			_, der := g.authority(hostile, testkit.NewKey(g.t).Public(), g.root, g.rootKey, nil)
			issuer, _ := g.authority(hostile, key.Public(), g.root, g.rootKey, nil)
			return [][]byte{g.leafUnder(issuer, key, nil), der}
		})},
		{"a hostile DNS name beyond the constraints", refused(observe.PeerUntrusted), "its text stays out of logs", func(t testing.TB) presentation {
			return tree{
				rawSigning: func(r *rawCertificate) {
					r.set(oidNameConstraints, true, constraints([][]byte{dnsName("a.test")}, nil))
				},
				rawLeaf: func(r *rawCertificate) {
					r.set(oidSubjectAltName, true, der(tagSequence, uriName(mintID), dnsName(hostile)))
				},
			}.grow(t).presented()
		}},
		{"an authority that is none", refused(observe.PeerUntrusted), bc, rawSigning(func(r *rawCertificate) { r.set(oidBasicConstraints, true, notCA) })},
		{"an authority without basic constraints", refused(observe.PeerUntrusted), bc + ": MUST include", rawSigning(func(r *rawCertificate) { r.drop(oidBasicConstraints) })},
		{"an authority with basic constraints that are not critical", refused(observe.PeerUntrusted), bc + ": MUST mark as critical", rawSigning(func(r *rawCertificate) { r.uncritical(oidBasicConstraints) })},
		{"an authority without key usage", refused(observe.PeerUntrusted), ku, signing(func(c *x509.Certificate) { c.KeyUsage = 0 })},
		{"an authority with an empty key usage", refused(observe.PeerUntrusted), ku, rawSigning(func(r *rawCertificate) { r.set(oidKeyUsage, true, noBits) })},
		{"an authority for CRLs only", refused(observe.PeerUntrusted), ku, signing(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })},
		{"an authority without subject", refused(observe.PeerUntrusted), "RFC 5280, 4.1.2.6: MUST be populated", signing(func(c *x509.Certificate) { c.Subject = pkix.Name{} })},
		{"an authority for servers only", verdict{asClient: observe.PeerExtKeyUsage}, "its extended key usage holds for all beneath it", signing(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})},
		{"an authority for code only", refused(observe.PeerExtKeyUsage), "its extended key usage holds for all beneath it", signing(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		})},
		{"an authority with an empty extended key usage", refused(observe.PeerExtKeyUsage), "RFC 5280, 4.2.1.12: SIZE (1..MAX)", rawSigning(func(r *rawCertificate) { r.set(oidExtKeyUsage, false, der(tagSequence)) })},
		{"an authority with path length 0 above another", refused(observe.PeerChainTooLong), bc, func(t testing.TB) presentation {
			g := tree{signing: func(c *x509.Certificate) { c.MaxPathLenZero = true }}.grow(t)
			key := testkit.NewKey(t)
			lower, der := g.authority("lower", key.Public(), g.signing, g.signingKey, nil)
			return g.with(g.leafUnder(lower, key, nil), der, g.signingDER)
		}},
		{"an authority with path length 0 above a leaf", accepted, bc, signing(func(c *x509.Certificate) { c.MaxPathLenZero = true })},
		{"a root with path length 0 above an authority", refused(observe.PeerChainTooLong), bc + ", asked of roots too", root(func(c *x509.Certificate) { c.MaxPathLenZero = true })},
		{"a path length that is negative", refused(unparsable), bc, rawSigning(func(r *rawCertificate) {
			r.set(oidBasicConstraints, true, der(tagSequence, []byte(derTrue), der(tagInteger, []byte{0xff})))
		})},
		{"a path length of 100 octets", refused(unparsable), bc, rawSigning(func(r *rawCertificate) {
			r.set(oidBasicConstraints, true, der(tagSequence, []byte(derTrue), der(tagInteger, bytes.Repeat([]byte{1}, 100))))
		})},
		{"a root without key usage", accepted, "the bundle vouches for it; many tools leave it out", root(func(c *x509.Certificate) { c.KeyUsage = 0 })},
		{"a root with an empty key usage", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.3", rawRoot(func(r *rawCertificate) { r.set(oidKeyUsage, true, noBits) })},
		{"a root for CRLs only", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.3", rawRoot(func(r *rawCertificate) { r.set(oidKeyUsage, true, der(tagBits, []byte{1, 2})) })},
		{"a root that is no authority", refused(observe.PeerUntrusted), bc, rawRoot(func(r *rawCertificate) { r.set(oidBasicConstraints, true, notCA) })},
		{"a root with basic constraints that are not critical", refused(observe.PeerUntrusted), bc, rawRoot(func(r *rawCertificate) { r.uncritical(oidBasicConstraints) })},
		{"a root with a weak key", refused(observe.PeerWeakKey), "the floor holds to the top", func(t testing.TB) presentation {
			key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return tree{rootKey: key}.grow(t).presented()
		}},
	}
}

// circle is a leaf beneath n authorities of one name and one key that signed each other; SANs tell them apart.
func (g *grown) circle(n int, name string) [][]byte {
	key := testkit.NewKey(g.t)
	self, _ := g.authority(name, key.Public(), g.root, g.rootKey, nil)
	self.RawIssuer = self.RawSubject
	chain := [][]byte{g.leafUnder(self, key, nil)}
	for i := range n {
		_, der := g.authority(name, key.Public(), self, key, func(c *x509.Certificate) { c.DNSNames = []string{fmt.Sprintf("%d.test", i)} })
		chain = append(chain, withAuthorityKeyID(g.t, der, self.SubjectKeyId, key))
	}
	return chain
}

func loopAbuses() []abuse {
	const work = "bounded work"
	return []abuse{
		{"two authorities that signed each other", refused(observe.PeerUntrusted), "a circle has no root", presenting(func(g *grown) [][]byte {
			a, b := testkit.NewKey(g.t), testkit.NewKey(g.t)
			certA, _ := g.authority("A", a.Public(), g.root, g.rootKey, nil)
			certB, _ := g.authority("B", b.Public(), g.root, g.rootKey, nil)
			_, derA := g.authority("A", a.Public(), certB, b, nil)
			_, derB := g.authority("B", b.Public(), certA, a, nil)
			return [][]byte{g.leafUnder(certA, a, nil), derA, derB}
		})},
		{"two authorities that signed each other, and the root one of them", accepted, "there is a path", presenting(func(g *grown) [][]byte {
			a, b := testkit.NewKey(g.t), testkit.NewKey(g.t)
			certA, _ := g.authority("A", a.Public(), g.root, g.rootKey, nil)
			certB, signedB := g.authority("B", b.Public(), g.root, g.rootKey, nil)
			_, derA := g.authority("A", a.Public(), certB, b, nil)
			_, derB := g.authority("B", b.Public(), certA, a, nil)
			return [][]byte{g.leafUnder(certA, a, nil), derA, derB, signedB}
		})},
		{"an authority signed by an old and a new root", accepted, "as during a change of roots", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			key := testkit.NewKey(t)
			newRoot, newDER := mint(t, authorityTemplate("new root"), authorityTemplate("new root"), key.Public(), key, nil)
			_, again := g.authority("signing", g.signingKey.Public(), newRoot, key, nil)
			return presentation{chain: [][]byte{g.leafDER, g.signingDER, again}, roots: [][]byte{g.rootDER, newDER}}
		}},
		{"an authority signed by an old and a new root, the old one gone", accepted, "as during a change of roots", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			key := testkit.NewKey(t)
			newRoot, newDER := mint(t, authorityTemplate("new root"), authorityTemplate("new root"), key.Public(), key, nil)
			_, again := g.authority("signing", g.signingKey.Public(), newRoot, key, nil)
			return presentation{chain: [][]byte{g.leafDER, g.signingDER, again}, roots: [][]byte{newDER}}
		}},
		{"an authority that signed itself", refused(observe.PeerUntrusted), "a circle has no root", presenting(func(g *grown) [][]byte { return g.circle(1, "circle") })},
		{"two authorities of one name and key that signed each other", refused(observe.PeerUntrusted), "a circle has no root", presenting(func(g *grown) [][]byte { return g.circle(2, "circle") })},
		{"three authorities of one name and key that signed each other", refused(observe.PeerChainTooLong), work + ": crypto/x509 would check fifteen signatures", presenting(func(g *grown) [][]byte { return g.circle(3, "circle") })},
		{"three authorities of the root's name that signed each other", refused(observe.PeerChainTooLong), work, presenting(func(g *grown) [][]byte { return g.circle(3, "root") })},
	}
}

// withAuthorityKeyID signs a certificate again, with this authority key id: x509.CreateCertificate leaves it out of self-issued ones.
func withAuthorityKeyID(t testing.TB, cert, id []byte, key crypto.Signer) []byte {
	t.Helper()
	r := parseRaw(t, cert)
	r.set(oidAuthorityKeyID, false, der(tagSequence, der(0x80, id)))
	return r.sign(t, key)
}

func costAbuses() []abuse {
	const size = "16 KiB for one certificate"
	filler := func(n int) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) {
			r.set(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}, false, make([]byte, n))
		})
	}
	// names are n DNS names, each of another kind of the alphabet soup that constraint checkers dislike.
	names := func(n int) [][]byte {
		out := [][]byte{uriName(mintID)}
		for i := range n {
			out = append(out, dnsName(fmt.Sprintf("n%d.test", i)))
		}
		return out
	}
	constrained := func(count, subtrees int) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			permitted := [][]byte{uriName("example.org"), dnsName("test")}
			var excluded [][]byte
			for i := range subtrees {
				excluded = append(excluded, dnsName(fmt.Sprintf("x%d.test", i)))
			}
			return tree{
				leaf:       func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{sanExtension(names(count)...)} },
				rawSigning: func(r *rawCertificate) { r.set(oidNameConstraints, true, constraints(permitted, excluded)) },
			}.grow(t).presented()
		}
	}
	// policies is a graph of policies in which each of n stands for each: n*n mappings.
	policies := func(n int) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			var list, mappings []byte
			for i := range n {
				list = append(list, der(tagSequence, policyID(i))...)
				for j := range n {
					mappings = append(mappings, der(tagSequence, policyID(i), policyID(j))...)
				}
			}
			edit := func(r *rawCertificate) {
				r.set(oidPolicies, false, der(tagSequence, list))
				r.set(oidPolicyMappings, true, der(tagSequence, mappings))
			}
			g := tree{rawSigning: edit}.grow(t)
			issuer, issuerKey, chain := g.signing, g.signingKey, [][]byte{g.signingDER}
			for range 2 {
				key := testkit.NewKey(t)
				template := authorityTemplate(fmt.Sprintf("below %d", len(chain)))
				cert, der := mint(t, template, issuer, key.Public(), issuerKey, edit)
				issuer, issuerKey, chain = cert, key, append([][]byte{der}, chain...)
			}
			return g.with(append([][]byte{g.leafUnder(issuer, issuerKey, nil)}, chain...)...)
		}
	}
	return []abuse{
		{"a certificate of 15 KiB", accepted, size, filler(15000)},
		{"a certificate of 17 KiB", refused(observe.PeerChainTooLong), size, filler(17000)},
		{"a certificate of 1 MiB", refused(observe.PeerChainTooLong), size, filler(1 << 20)},
		{"an authority of 1 MiB", refused(observe.PeerChainTooLong), size, func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) {
				r.set(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}, false, make([]byte, 1<<20))
			}}.grow(t).presented()
		}},
		{"1000 names beside the SPIFFE ID", accepted, "X509-SVID 2: any number; bounded by " + size, withNames(names(1000)...)},
		{"2000 names beside the SPIFFE ID", refused(observe.PeerChainTooLong), size, withNames(names(2000)...)},
		{"1000 SPIFFE IDs", refused(observe.PeerChainTooLong), size, func(t testing.TB) presentation {
			var ids [][]byte
			for i := range 1000 {
				ids = append(ids, uriName(fmt.Sprintf("%s/%d", mintID, i)))
			}
			return withNames(ids...)(t)
		}},
		{"1000 names against 800 constraints", accepted, "crypto/x509 sorts them; bounded by " + size, constrained(1000, 800)},
		{"5000 constraints", refused(observe.PeerChainTooLong), size, constrained(1, 5000)},
		{"600 policies that stand for each other in three authorities", refused(observe.PeerChainTooLong), size, policies(60)},
		{"20 policies that stand for each other in three authorities", accepted, "crypto/x509 builds a graph, not a tree", policies(20)},
	}
}

func policyID(i int) []byte { return []byte{0x06, 0x04, 0x2a, 0x03, 0x04, byte(i)} }

func revocationAbuses() []abuse {
	const rule = "what is revoked is refused wherever it stands in the path"
	revoked := func(what func(g *grown, leaf *x509.Certificate) revocation.Revocation) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			g := tree{}.grow(t)
			leaf, err := x509.ParseCertificate(g.leafDER)
			if err != nil {
				t.Fatal(err)
			}
			p := g.presented()
			r := what(g, leaf)
			r.ID = "r1"
			p.revoked = []revocation.Revocation{r}
			return p
		}
	}
	by := func(kind revocation.Kind, value string) revocation.Revocation {
		return revocation.Revocation{Kind: kind, Value: value}
	}
	return []abuse{
		{"the leaf's serial number revoked", refused(observe.PeerRevoked), rule, revoked(func(_ *grown, leaf *x509.Certificate) revocation.Revocation {
			return by(revocation.Serial, revocation.SerialString(leaf.SerialNumber))
		})},
		{"the authority's serial number revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Serial, revocation.SerialString(g.signing.SerialNumber))
		})},
		{"the root's serial number revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Serial, revocation.SerialString(g.root.SerialNumber))
		})},
		{"the leaf's key revoked", refused(observe.PeerRevoked), rule, revoked(func(_ *grown, leaf *x509.Certificate) revocation.Revocation {
			return by(revocation.Key, revocation.KeyString(leaf))
		})},
		{"the authority's key revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Key, revocation.KeyString(g.signing))
		})},
		{"the root's key revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Key, revocation.KeyString(g.root))
		})},
		{"the SPIFFE ID revoked", refused(observe.PeerRevoked), rule, revoked(func(*grown, *x509.Certificate) revocation.Revocation { return by(revocation.SPIFFEID, mintID) })},
		{"the authority revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Authority, revocation.AuthorityString(g.signing.SubjectKeyId))
		})},
		{"the root revoked", refused(observe.PeerRevoked), rule, revoked(func(g *grown, _ *x509.Certificate) revocation.Revocation {
			return by(revocation.Authority, revocation.AuthorityString(g.root.SubjectKeyId))
		})},
		{"the leaf's own key id revoked as an authority", accepted, "a leaf is no authority", revoked(func(_ *grown, leaf *x509.Certificate) revocation.Revocation {
			return by(revocation.Authority, revocation.AuthorityString(leaf.SubjectKeyId))
		})},
		{"another SPIFFE ID revoked", accepted, "it is another", revoked(func(*grown, *x509.Certificate) revocation.Revocation {
			return by(revocation.SPIFFEID, mintID+"/more")
		})},
		{"a revocation that ended", accepted, "it ended", revoked(func(*grown, *x509.Certificate) revocation.Revocation {
			r := by(revocation.SPIFFEID, mintID)
			r.Until = time.Now().Add(-time.Minute)
			return r
		})},
		{"the old of two roots revoked", refused(observe.PeerRevoked), "every path is asked", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			key := testkit.NewKey(t)
			newRoot, newDER := mint(t, authorityTemplate("new root"), authorityTemplate("new root"), key.Public(), key, nil)
			_, again := g.authority("signing", g.signingKey.Public(), newRoot, key, nil)
			return presentation{
				chain: [][]byte{g.leafDER, again, g.signingDER}, roots: [][]byte{newDER, g.rootDER},
				revoked: []revocation.Revocation{{ID: "r1", Kind: revocation.Authority, Value: revocation.AuthorityString(g.root.SubjectKeyId)}},
			}
		}},
	}
}
