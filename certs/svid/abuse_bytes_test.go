package svid

import (
	"bytes"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // to see it refused
	"crypto/ecdsa"
	"crypto/elliptic"
	_ "crypto/md5" //nolint:gosec // to see it refused
	"crypto/rand"
	_ "crypto/sha1" //nolint:gosec // to see it refused
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/internal/testkit"
)

var (
	oidSubjectKeyID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidPolicies       = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidPolicyMappings = asn1.ObjectIdentifier{2, 5, 29, 33}

	algorithmRSAWithSHA256 = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00")
	algorithmRSAWithSHA1   = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00")
	algorithmRSAWithMD5    = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04\x05\x00")
	algorithmECDSAWithSHA1 = []byte("\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01")
	algorithmECDSASHA224   = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x01")
	algorithmECDSASHA384   = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03")
	algorithmDSAWithSHA256 = []byte("\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x02")
	algorithmNone          = []byte("\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x06\x02") // id-alg-noSignature, RFC 8951
)

// rsaSPKI is a SubjectPublicKeyInfo of RSA.
func rsaSPKI(n *big.Int, exponent []byte, after ...byte) []byte {
	modulus, _ := asn1.Marshal(n)
	return rsaInfo(der(tagSequence, modulus, der(tagInteger, exponent)), after...)
}

func rsaInfo(key []byte, after ...byte) []byte {
	algorithm := der(tagSequence, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), []byte(null))
	return der(tagSequence, algorithm, der(tagBits, []byte{0}, key), after)
}

func withKey(key func() crypto.PublicKey) func(testing.TB) presentation {
	return func(t testing.TB) presentation { return tree{leafKey: key()}.grow(t).presented() }
}

func withRawKey(spki func() []byte) func(testing.TB) presentation {
	return withRawLeaf(func(r *rawCertificate) { r.key = spki() })
}

func keyAbuses() []abuse {
	const floor, bound = "below the floor", "made to burn CPU"
	e65537 := []byte{1, 0, 1}
	weak := func(bits uint, e int) func(testing.TB) presentation {
		return withKey(func() crypto.PublicKey { return weakRSA(bits, e) })
	}
	odd := func(bits uint) *big.Int { return weakRSA(bits, 65537).N }
	curve := func(c elliptic.Curve) func(testing.TB) presentation {
		return withKey(func() crypto.PublicKey {
			key, _ := ecdsa.GenerateKey(c, rand.Reader)
			return key.Public()
		})
	}
	ecSPKI := func(curve string, point []byte) []byte {
		return der(tagSequence, der(tagSequence, []byte("\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"), []byte(curve)), der(tagBits, []byte{0}, point))
	}
	const p256, p192 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01"
	return []abuse{
		{"RSA of 512 bits", refused(observe.PeerWeakKey), floor, weak(512, 65537)},
		{"RSA of 1024 bits", refused(observe.PeerWeakKey), floor, weak(1024, 65537)},
		{"RSA of 2047 bits", refused(observe.PeerWeakKey), floor, weak(2047, 65537)},
		{"RSA of 2052 bits", refused(observe.PeerWeakKey), "no generator makes sizes that are no octets", weak(2052, 65537)},
		{"RSA of 3072 bits", accepted, "NIST SP 800-131A", weak(3072, 65537)},
		{"RSA of 8192 bits", accepted, "the bound of crypto/tls", weak(8192, 65537)},
		{"RSA of 8200 bits", refused(observe.PeerWeakKey), bound, weak(8200, 65537)},
		{"RSA of 16384 bits", refused(observe.PeerWeakKey), bound, weak(16384, 65537)},
		{"RSA of 65536 bits", refused(observe.PeerWeakKey), bound, weak(65536, 65537)},
		{"RSA with exponent 1", refused(observe.PeerWeakKey), "no encryption at all", weak(2048, 1)},
		{"RSA with exponent 3", refused(observe.PeerWeakKey), floor, weak(2048, 3)},
		{"RSA with an even exponent", refused(observe.PeerWeakKey), "no RSA key", weak(2048, 65538)},
		{"RSA with the largest exponent", accepted, "FIPS 186-5, A.1.1: odd and above 2^16", weak(2048, 1<<31-1)},
		{"RSA with an exponent beyond 31 bits", refused(observe.PeerWeakKey), bound, withRawKey(func() []byte { return rsaSPKI(odd(2048), []byte{1, 0, 0, 0, 1}) })},
		{"RSA with an exponent of 100 octets", refused(unparsable), "crypto/x509 has ints", withRawKey(func() []byte { return rsaSPKI(odd(2048), bytes.Repeat([]byte{1}, 100)) })},
		{"RSA with a negative exponent", refused(unparsable), "no RSA key", withRawKey(func() []byte { return rsaSPKI(odd(2048), []byte{0xff}) })},
		{"RSA with an even modulus", refused(observe.PeerWeakKey), "no RSA key", withKey(func() crypto.PublicKey {
			key := weakRSA(2048, 65537)
			key.N.SetBit(key.N, 0, 0)
			return key
		})},
		{"RSA with a negative modulus", refused(unparsable), "no RSA key", withRawKey(func() []byte { return rsaSPKI(new(big.Int).Neg(odd(2048)), e65537) })},
		{"RSA with bytes behind its key info", refused(observe.PeerUntrusted), "another hash than the revoked key's", withRawKey(func() []byte {
			return rsaSPKI(odd(2048), e65537, []byte(null)...)
		})},
		{"RSA with a third number", refused(observe.PeerUntrusted), "another hash than the revoked key's", withRawKey(func() []byte {
			modulus, _ := asn1.Marshal(odd(2048))
			return rsaInfo(der(tagSequence, modulus, der(tagInteger, e65537), der(tagInteger, []byte{1})))
		})},
		{"RSA with bytes behind its numbers", refused(observe.PeerUntrusted), "another hash than the revoked key's", withRawKey(func() []byte {
			modulus, _ := asn1.Marshal(odd(2048))
			return rsaInfo(append(der(tagSequence, modulus, der(tagInteger, e65537)), 0, 0))
		})},
		{"P-256 with a second parameter", refused(observe.PeerUntrusted), "another hash than the revoked key's", withRawKey(func() []byte { return ecSPKI(p256+null, testkitPoint()) })},
		{"P-192", refused(unparsable), floor, withRawKey(func() []byte { return ecSPKI(p192, append([]byte{4}, make([]byte, 48)...)) })},
		{"P-224", refused(observe.PeerWeakKey), floor, curve(elliptic.P224())},
		{"P-384", accepted, "above the floor", curve(elliptic.P384())},
		{"P-521", accepted, "above the floor", curve(elliptic.P521())},
		{"a point that is not on its curve", refused(unparsable), "crypto/ecdsa", withRawKey(func() []byte { return ecSPKI(p256, append([]byte{4}, bytes.Repeat([]byte{1}, 64)...)) })},
		{"the point at infinity", refused(unparsable), "crypto/ecdsa", withRawKey(func() []byte { return ecSPKI(p256, []byte{0}) })},
		{"a compressed point", refused(unparsable), "RFC 5480, 2.2: MAY be supported; one key has one encoding here", withRawKey(func() []byte {
			return ecSPKI(p256, append([]byte{2}, testkitPoint()[1:33]...))
		})},
		{"a curve by its parameters", refused(unparsable), "RFC 5480, 2.1.1: MUST NOT be used", withRawKey(func() []byte {
			return ecSPKI("\x30\x03\x02\x01\x01", testkitPoint())
		})},
		{"Ed25519", accepted, "RFC 8410", withKey(func() crypto.PublicKey { return newEd25519().Public() })},
		{"Ed25519 with parameters", refused(unparsable), "RFC 8410, 3: MUST be absent", withRawKey(func() []byte {
			return der(tagSequence, der(tagSequence, []byte("\x06\x03\x2b\x65\x70"), []byte(null)), der(tagBits, []byte{0}, make([]byte, 32)))
		})},
		{"Ed448", refused(observe.PeerWeakKey), "unknown to crypto/x509", withRawKey(func() []byte {
			return der(tagSequence, der(tagSequence, []byte("\x06\x03\x2b\x65\x71")), der(tagBits, []byte{0}, make([]byte, 57)))
		})},
		{"a key that only agrees on keys", refused(observe.PeerWeakKey), "X25519 signs nothing", withRawKey(func() []byte {
			return der(tagSequence, der(tagSequence, []byte("\x06\x03\x2b\x65\x6e")), der(tagBits, []byte{0}, bytes.Repeat([]byte{9}, 32)))
		})},
		{"DSA", refused(observe.PeerWeakKey), "FIPS 186-5 has it no longer", withRawKey(func() []byte {
			p := dsa.Parameters{P: odd(2048), Q: odd(256), G: big.NewInt(2)}
			parameters, _ := asn1.Marshal(p)
			y, _ := asn1.Marshal(big.NewInt(4))
			return der(tagSequence, der(tagSequence, []byte("\x06\x07\x2a\x86\x48\xce\x38\x04\x01"), parameters), der(tagBits, []byte{0}, y))
		})},
	}
}

// testkitPoint is an uncompressed point of P-256.
func testkitPoint() []byte {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	point, _ := key.PublicKey.Bytes()
	return point
}

func signatureAbuses() []abuse {
	const weak, other = "below the floor", "does not hold"
	byRSA := func(algorithm []byte, hash crypto.Hash, pss bool) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			return tree{signingKey: rsaKey(), rawLeaf: func(r *rawCertificate) { r.algorithm, r.hash, r.pss = algorithm, hash, pss }}.grow(t).presented()
		}
	}
	algorithm := func(a []byte, hash crypto.Hash) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) { r.algorithm, r.hash = a, hash })
	}
	forged := func(signature []byte) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) { r.forge = func() []byte { return signature } })
	}
	number := func(n int64) []byte {
		out, _ := asn1.Marshal(big.NewInt(n))
		return out
	}
	return []abuse{
		{"RSA with SHA-256", accepted, "above the floor", byRSA(algorithmRSAWithSHA256, 0, false)},
		{"RSA with SHA-1", refused(observe.PeerWeakKey), weak, byRSA(algorithmRSAWithSHA1, crypto.SHA1, false)},
		{"RSA with MD5", refused(observe.PeerWeakKey), weak, byRSA(algorithmRSAWithMD5, crypto.MD5, false)},
		{"RSA with SHA-1, called SHA-256", refused(observe.PeerUntrusted), other, byRSA(algorithmRSAWithSHA256, crypto.SHA1, false)},
		{"RSA-PSS, called PKCS #1", refused(observe.PeerUntrusted), other, byRSA(algorithmRSAWithSHA256, 0, true)},
		{"RSA-PSS without parameters", refused(observe.PeerWeakKey), "RFC 4055, 3.1: SHA-1 by default", byRSA([]byte("\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"), 0, true)},
		{"ECDSA with SHA-1", refused(observe.PeerWeakKey), weak, algorithm(algorithmECDSAWithSHA1, crypto.SHA1)},
		{"ECDSA with SHA-224", refused(observe.PeerWeakKey), weak, algorithm(algorithmECDSASHA224, crypto.SHA224)},
		{"ECDSA with SHA-384", accepted, "above the floor", algorithm(algorithmECDSASHA384, crypto.SHA384)},
		{"DSA with SHA-256", refused(observe.PeerWeakKey), weak, algorithm(algorithmDSAWithSHA256, 0)},
		{"no signature by name", refused(observe.PeerWeakKey), "allow-list", algorithm(algorithmNone, 0)},
		{"RSA's algorithm, an ECDSA key", refused(observe.PeerUntrusted), other, algorithm(algorithmRSAWithSHA256, 0)},
		{"another algorithm outside than inside", refused(unparsable), "RFC 5280, 4.1.1.2: MUST contain the same", withRawLeaf(func(r *rawCertificate) {
			r.outerAlgorithm = algorithmECDSASHA384
		})},
		{"an empty signature", refused(observe.PeerUntrusted), other, forged(nil)},
		{"a signature of zeros", refused(observe.PeerUntrusted), "r and s are from 1", forged(der(tagSequence, number(0), number(0)))},
		{"a signature of ones", refused(observe.PeerUntrusted), other, forged(der(tagSequence, number(1), number(1)))},
		{"a signature that is negative", refused(observe.PeerUntrusted), other, forged(der(tagSequence, number(-1), number(-1)))},
		{"a signature of 10 KiB", refused(observe.PeerUntrusted), other, forged(make([]byte, 10<<10))},
		{"a signature over other bytes", refused(observe.PeerUntrusted), other, func(t testing.TB) presentation {
			return tree{rawLeaf: func(r *rawCertificate) {
				r.whole = func(d []byte) []byte {
					return bytes.Replace(d, []byte("example.org/workload"), []byte("example.org/workl0ad"), 1)
				}
			}}.grow(t).presented()
		}},
		{"signed by the leaf's own key", refused(observe.PeerUntrusted), "no authority", func(t testing.TB) presentation {
			g := tree{}.grow(t)
			own := parseRaw(t, g.leafDER).sign(t, g.leafKey)
			return g.with(own, g.signingDER)
		}},
		{"signed by nobody but itself, issuer and all", refused(observe.PeerUntrusted), "no authority", func(t testing.TB) presentation {
			g, key := tree{}.grow(t), testkit.NewKey(t)
			_, own := mint(t, leafTemplate(), leafTemplate(), key.Public(), key, func(r *rawCertificate) {
				r.set(oidAuthorityKeyID, false, der(tagSequence, der(0x80, g.signing.SubjectKeyId)))
			})
			return g.with(own)
		}},
		{"an authority with a signature of SHA-1", refused(observe.PeerWeakKey), weak, func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) { r.algorithm, r.hash = algorithmECDSAWithSHA1, crypto.SHA1 }}.grow(t).presented()
		}},
		{"a root with a signature of SHA-1", accepted, "nothing rests on a root's own signature", func(t testing.TB) presentation {
			return tree{rawRoot: func(r *rawCertificate) { r.algorithm, r.hash = algorithmECDSAWithSHA1, crypto.SHA1 }}.grow(t).presented()
		}},
	}
}

func timeAbuses() []abuse {
	const inclusive, form = "RFC 5280, 4.1.2.5: from notBefore through notAfter, inclusive, in seconds", "RFC 5280, 4.1.2.5.1 and .2"
	now := time.Now()
	ended := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour) }
	later := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Hour), now.Add(2*time.Hour) }
	grown := func(x tree) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return x.grow(t).presented() }
	}
	at := func(fromEnd time.Duration) func(testing.TB) presentation {
		return func(t testing.TB) presentation {
			g := tree{}.grow(t)
			leaf, _ := x509.ParseCertificate(g.leafDER)
			p := g.with(g.leafDER, g.signingDER)
			p.now = leaf.NotAfter.Add(fromEnd)
			return p
		}
	}
	validity := func(notBefore, notAfter []byte) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) { r.validity = der(tagSequence, notBefore, notAfter) })
	}
	utc := func(text string) []byte { return der(tagUTCTime, []byte(text)) }
	general := func(text string) []byte { return der(tagTime, []byte(text)) }
	start, end := utc(now.Add(-time.Hour).UTC().Format("060102150405Z")), utc(now.Add(time.Hour).UTC().Format("060102150405Z"))
	year := now.UTC().Format("2006")
	return []abuse{
		{"a leaf that ended", refused(observe.PeerExpired), inclusive, withLeaf(ended)},
		{"a leaf that has not begun", refused(observe.PeerNotYetValid), inclusive, withLeaf(later)},
		{"an authority that ended", refused(observe.PeerExpired), inclusive, grown(tree{signing: ended})},
		{"an authority that has not begun", refused(observe.PeerNotYetValid), inclusive, grown(tree{signing: later})},
		{"a root that ended", refused(observe.PeerExpired), "a root has an end too", grown(tree{root: ended})},
		{"a root that has not begun", refused(observe.PeerNotYetValid), "a root has a beginning too", grown(tree{root: later})},
		{"a leaf that outlives its authority, judged after the authority", refused(observe.PeerExpired), inclusive, func(t testing.TB) presentation {
			p := tree{leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(10 * mintLife) }}.grow(t).presented()
			p.now = now.Add(2 * mintLife)
			return p
		}},
		{"the very last second", accepted, inclusive, at(0)},
		{"half of the last second", accepted, inclusive, at(500 * time.Millisecond)},
		{"the first second after the end", refused(observe.PeerExpired), inclusive, at(time.Second)},
		{"an end before the beginning", refused(observe.PeerExpired), inclusive, validity(start, utc(now.Add(-2*time.Hour).UTC().Format("060102150405Z")))},
		{"no end", accepted, "RFC 5280, 4.1.2.5: 99991231235959Z", validity(start, general("99991231235959Z"))},
		{"a two-digit year of 1950", refused(observe.PeerExpired), form + ": 50 is 1950", validity(utc("500101000000Z"), utc("510101000000Z"))},
		{"an end with fractions", refused(unparsable), form + ": MUST NOT include fractional seconds", validity(start, general("20990101000000.5Z"))},
		{"an end in 2049 or before as GeneralizedTime", refused(observe.PeerUntrusted), form, validity(start, general(year+"1231235959Z"))},
		{"an end without seconds", refused(observe.PeerUntrusted), form + ": MUST include seconds", validity(start, utc(now.Add(time.Hour).UTC().Format("0601021504Z")))},
		{"an end in another zone", refused(observe.PeerUntrusted), form + ": MUST be expressed in Zulu", validity(start, utc(now.Add(time.Hour).UTC().Format("060102150405")+"+0100"))},
		{"an end without zone", refused(unparsable), form, validity(start, utc(now.Add(time.Hour).UTC().Format("060102150405")))},
		{"an end that is no date", refused(unparsable), form, validity(start, utc("991332000000Z"))},
		{"an end that is no time", refused(unparsable), form, validity(start, der(tagInteger, []byte{1}))},
		{"a third time", refused(observe.PeerUntrusted), "RFC 5280, 4.1: two", withRawLeaf(func(r *rawCertificate) { r.validity = der(tagSequence, start, end, end) })},
	}
}

func serialAbuses() []abuse {
	const rule = "RFC 5280, 4.1.2.2: positive, at most 20 octets"
	serial := func(octets ...byte) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) { r.serial = der(tagInteger, octets) })
	}
	return []abuse{
		{"serial number 0", refused(observe.PeerUntrusted), rule, serial(0)},
		{"serial number 1", accepted, rule, serial(1)},
		{"a negative serial number", refused(unparsable), rule, serial(0xff)},
		{"a serial number of 20 octets", accepted, rule, serial(append([]byte{0x7f}, make([]byte, 19)...)...)},
		{"a serial number of 21 octets", refused(observe.PeerUntrusted), rule, serial(append([]byte{0, 0xff}, make([]byte, 19)...)...)},
		{"a serial number of 1000 octets", refused(observe.PeerUntrusted), rule, serial(bytes.Repeat([]byte{1}, 1000)...)},
		{"a serial number with a leading zero", refused(unparsable), "X.690, 8.3.2: no more octets than needed", serial(0, 1)},
		{"no serial number", refused(unparsable), "X.690, 8.3.1", serial()},
		{"serial number 0 of an authority", refused(observe.PeerUntrusted), rule, func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) { r.serial = der(tagInteger, []byte{0}) }}.grow(t).presented()
		}},
	}
}

func identifierAbuses() []abuse {
	const aki, ski = "RFC 5280, 4.2.1.1", "RFC 5280, 4.2.1.2"
	elsewhere := der(tagSequence, der(0x80, bytes.Repeat([]byte{7}, 20)))
	signing := func(edit func(*rawCertificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{rawSigning: edit}.grow(t).presented() }
	}
	root := func(edit func(*rawCertificate)) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{rawRoot: edit}.grow(t).presented() }
	}
	return []abuse{
		{"a leaf without authority key id", refused(observe.PeerUntrusted), aki + ": MUST be included", withRawLeaf(func(r *rawCertificate) { r.drop(oidAuthorityKeyID) })},
		{"a leaf whose authority key id has no key id", refused(observe.PeerUntrusted), aki + ": the keyIdentifier MUST be included", withRawLeaf(func(r *rawCertificate) {
			r.set(oidAuthorityKeyID, false, der(tagSequence, der(0xa1, der(0xa4, der(tagSequence))), der(0x82, []byte{1})))
		})},
		{"a leaf whose authority key id is another's", refused(observe.PeerUntrusted), "revocations of an authority are found by it", withRawLeaf(func(r *rawCertificate) {
			r.set(oidAuthorityKeyID, false, elsewhere)
		})},
		{"a critical authority key id", refused(unparsable), aki + ": MUST mark as non-critical", withRawLeaf(func(r *rawCertificate) {
			r.extensions[r.index(oidAuthorityKeyID)].critical = []byte(derTrue)
		})},
		{"an authority without authority key id", refused(observe.PeerUntrusted), aki, signing(func(r *rawCertificate) { r.drop(oidAuthorityKeyID) })},
		{"an authority whose authority key id is another's", refused(observe.PeerUntrusted), aki, signing(func(r *rawCertificate) { r.set(oidAuthorityKeyID, false, elsewhere) })},
		{"an authority without subject key id", refused(observe.PeerUntrusted), ski + ": MUST appear", signing(func(r *rawCertificate) { r.drop(oidSubjectKeyID) })},
		{"an authority with an empty subject key id", refused(observe.PeerUntrusted), ski, signing(func(r *rawCertificate) { r.set(oidSubjectKeyID, false, der(tagOctets)) })},
		{"an authority whose subject key id is another's", refused(observe.PeerUntrusted), "the leaf's authority key id points elsewhere", signing(func(r *rawCertificate) {
			r.set(oidSubjectKeyID, false, der(tagOctets, bytes.Repeat([]byte{7}, 20)))
		})},
		{"a critical subject key id", refused(unparsable), ski + ": MUST mark as non-critical", signing(func(r *rawCertificate) {
			r.extensions[r.index(oidSubjectKeyID)].critical = []byte(derTrue)
		})},
		{"a leaf without subject key id", accepted, ski + ": SHOULD, in end entities", withRawLeaf(func(r *rawCertificate) { r.drop(oidSubjectKeyID) })},
		{"a root without subject key id", refused(observe.PeerUntrusted), "it could not be revoked by it", root(func(r *rawCertificate) { r.drop(oidSubjectKeyID) })},
		{"a root without authority key id", accepted, aki + ": MAY be omitted when self-signed", root(func(r *rawCertificate) { r.drop(oidAuthorityKeyID) })},
	}
}

func extensionAbuses() []abuse {
	private := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}
	const policies, unknown = "RFC 5280, 6.1: policy processing", "RFC 5280, 4.2"
	add := func(e pkix.Extension) func(*rawCertificate) {
		return func(r *rawCertificate) { r.set(e.Id, e.Critical, e.Value) }
	}
	leafExtension := func(e pkix.Extension) func(testing.TB) presentation { return withRawLeaf(add(e)) }
	signing := func(e pkix.Extension) func(testing.TB) presentation {
		return func(t testing.TB) presentation { return tree{rawSigning: add(e)}.grow(t).presented() }
	}
	explicit := der(tagSequence, der(0x80, []byte{0}))
	policy := der(tagSequence, []byte("\x06\x03\x2a\x03\x04"))
	return []abuse{
		{"an unknown extension", accepted, unknown + ": MAY be ignored", leafExtension(pkix.Extension{Id: private, Value: []byte(null)})},
		{"an unknown critical extension", refused(observe.PeerUntrusted), unknown + ": MUST reject", leafExtension(pkix.Extension{Id: private, Critical: true, Value: []byte(null)})},
		{"an unknown critical extension of an authority", refused(observe.PeerUntrusted), unknown, signing(pkix.Extension{Id: private, Critical: true, Value: []byte(null)})},
		{"an unknown critical extension of a root", refused(observe.PeerUntrusted), unknown, func(t testing.TB) presentation {
			return tree{rawRoot: add(pkix.Extension{Id: private, Critical: true, Value: []byte(null)})}.grow(t).presented()
		}},
		{"an unknown extension twice", refused(unparsable), unknown + ": not more than one instance", withRawLeaf(func(r *rawCertificate) {
			r.extensions = append(r.extensions, rawExtension{id: private, value: []byte(null)}, rawExtension{id: private, value: []byte(null)})
		})},
		{"the key usage twice", refused(unparsable), unknown + ": not more than one instance", withRawLeaf(func(r *rawCertificate) {
			r.extensions = append(r.extensions, rawExtension{id: oidKeyUsage, value: der(tagBits, []byte{1, 6})})
		})},
		{"a freshest CRL, critical", refused(observe.PeerUntrusted), "nobody here would ask it", leafExtension(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Critical: true, Value: der(tagSequence)})},
		{"a policy", accepted, policies, leafExtension(pkix.Extension{Id: oidPolicies, Value: der(tagSequence, policy)})},
		{"a policy twice", refused(unparsable), "RFC 5280, 4.2.1.4: MUST NOT appear more than once", leafExtension(pkix.Extension{Id: oidPolicies, Value: der(tagSequence, policy, policy)})},
		{"a policy required and not there", refused(observe.PeerUntrusted), policies, signing(pkix.Extension{Id: oidPolicyConstraints, Critical: true, Value: explicit})},
		{"policy constraints that are not critical", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.11: MUST mark as critical", signing(pkix.Extension{Id: oidPolicyConstraints, Value: explicit})},
		{"inhibited policies that are not critical", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.14: MUST mark as critical", signing(pkix.Extension{Id: oidInhibitAnyPolicy, Value: der(tagInteger, []byte{0})})},
		{"no extensions", refused(observe.PeerURISANs), "X509-SVID 2", withRawLeaf(func(r *rawCertificate) { r.extensions = nil })},
	}
}

func encodingAbuses() []abuse {
	const exact, once = "crypto/x509 passes over it; other readers may not", "one certificate, one encoding"
	whole := func(change func(d []byte) []byte) func(testing.TB) presentation {
		return withRawLeaf(func(r *rawCertificate) { r.whole = change })
	}
	nothing := []byte(null)
	return []abuse{
		{"a byte behind the certificate", refused(unparsable), once, whole(func(d []byte) []byte { return append(d, 0) })},
		{"a second certificate behind the certificate", refused(unparsable), once, whole(func(d []byte) []byte { return slices.Concat(d, d) })},
		{"the last byte missing", refused(unparsable), once, whole(func(d []byte) []byte { return d[:len(d)-1] })},
		{"no bytes", refused(unparsable), once, whole(func([]byte) []byte { return nil })},
		{"PEM", refused(unparsable), "RFC 8446, 4.4.2: DER", whole(func([]byte) []byte { return []byte("-----BEGIN CERTIFICATE-----\n") })},
		{"an indefinite length", refused(unparsable), "X.690, 10.1", whole(func(d []byte) []byte { return append(append([]byte{0x30, 0x80}, d[4:]...), 0, 0) })},
		{"a length in more octets than needed", refused(unparsable), "X.690, 10.1", whole(func(d []byte) []byte {
			return append([]byte{0x30, 0x83, 0, d[2], d[3]}, d[4:]...)
		})},
		{"an element behind the signature", refused(observe.PeerUntrusted), "nobody signed it: " + exact, withRawLeaf(func(r *rawCertificate) { r.afterSignature = nothing })},
		{"16 bits of the signature that do not count", refused(unparsable), "X.690, 8.6.2.2", withRawLeaf(func(r *rawCertificate) { r.unusedBits = 16 })},
		{"4 bits of the signature that do not count", refused(observe.PeerUntrusted), "nobody signed them: " + exact, withRawLeaf(func(r *rawCertificate) {
			r.unusedBits, r.forge = 4, func() []byte { return []byte{0x30, 0xf0} }
		})},
		{"an element behind the extensions", refused(observe.PeerUntrusted), exact, withRawLeaf(func(r *rawCertificate) { r.afterTBSFields = nothing })},
		{"an element beside the list of extensions", refused(observe.PeerUntrusted), exact, withRawLeaf(func(r *rawCertificate) { r.afterExtensions = nothing })},
		{"an element inside of an extension", refused(observe.PeerUntrusted), exact, withRawLeaf(func(r *rawCertificate) { r.extensions[0].after = nothing })},
		{"unique identifiers", refused(observe.PeerUntrusted), "RFC 5280, 4.1.2.8: MUST NOT generate", withRawLeaf(func(r *rawCertificate) {
			r.uniqueIDs = append(der(0x81, []byte{0, 1}), der(0x82, []byte{0, 1})...)
		})},
		{"version 1", refused(observe.PeerURISANs), "it has no extensions", withRawLeaf(func(r *rawCertificate) { r.version = nil })},
		{"version 2", refused(observe.PeerURISANs), "it has no extensions", withRawLeaf(func(r *rawCertificate) { r.version = der(0xa0, der(tagInteger, []byte{1})) })},
		{"version 4", refused(unparsable), "there is none", withRawLeaf(func(r *rawCertificate) { r.version = der(0xa0, der(tagInteger, []byte{3})) })},
		{"an authority with an element behind the signature", refused(observe.PeerUntrusted), exact, func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) { r.afterSignature = nothing }}.grow(t).presented()
		}},
		{"an authority of version 1", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.9", func(t testing.TB) presentation {
			return tree{rawSigning: func(r *rawCertificate) { r.version, r.extensions = nil, nil }}.grow(t).presented()
		}},
		{"a root of version 1", refused(observe.PeerUntrusted), "RFC 5280, 4.2.1.9", func(t testing.TB) presentation {
			return tree{rawRoot: func(r *rawCertificate) { r.version, r.extensions = nil, nil }}.grow(t).presented()
		}},
		{"sequences 4000 deep in an unknown extension", accepted, "nobody opens it", withRawLeaf(func(r *rawCertificate) {
			deep := []byte(null)
			for len(deep) < 14000 {
				deep = der(tagSequence, deep)
			}
			r.set(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 7}, false, deep)
		})},
		{"sequences 4000 deep in the subject", refused(unparsable), "a name has three levels", withRawLeaf(func(r *rawCertificate) {
			r.subject = []byte(null)
			for len(r.subject) < 14000 {
				r.subject = der(tagSequence, r.subject)
			}
		})},
		{"a public key info of RSA without NULL", refused(unparsable), "RFC 3279, 2.3.1", withRawLeaf(func(r *rawCertificate) {
			r.key = bytes.Replace(rsaSPKI(weakRSA(2048, 65537).N, []byte{1, 0, 1}), []byte(null), []byte("\x04\x00"), 1)
		})},
	}
}
