package svid

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/postern-proxy/postern/certs/revocation"
	"github.com/postern-proxy/postern/internal/testkit"
)

// presentation is what a peer presents and what the verifier knows of it.
type presentation struct {
	chain   [][]byte // leaf first
	roots   [][]byte // the bundle of example.org; what does not parse is left out, as when a bundle is loaded
	revoked []revocation.Revocation
	now     time.Time // zero: now
	options VerifyOptions
}

// tree is a hierarchy of root, signing authority and leaf, correct but for what a test changes: first the template, then the bytes.
type tree struct {
	root, signing, leaf          func(*x509.Certificate)
	rawRoot, rawSigning, rawLeaf func(*rawCertificate)
	rootKey, signingKey          crypto.Signer // by default P-256
	leafKey                      crypto.PublicKey
}

// grown is a tree with its certificates, and the keys to sign more.
type grown struct {
	t                   testing.TB
	root, signing       *x509.Certificate // before changes of their bytes
	rootKey, signingKey crypto.Signer
	leafKey             crypto.Signer // nil if the tree brought a public key
	rootDER, signingDER []byte
	leafDER             []byte
}

var mintDomain = spiffeid.RequireTrustDomainFromString("example.org")

const (
	mintLife = 2 * time.Hour
	mintID   = "spiffe://example.org/workload"
)

func (x tree) grow(t testing.TB) *grown {
	t.Helper()
	g := &grown{t: t, rootKey: x.rootKey, signingKey: x.signingKey}
	if g.rootKey == nil {
		g.rootKey = testkit.NewKey(t)
	}
	if g.signingKey == nil {
		g.signingKey = testkit.NewKey(t)
	}
	leafKey := x.leafKey
	if leafKey == nil {
		g.leafKey = testkit.NewKey(t)
		leafKey = g.leafKey.Public()
	}
	root := authorityTemplate("root")
	apply(x.root, root)
	g.root, g.rootDER = mint(t, root, root, g.rootKey.Public(), g.rootKey, x.rawRoot)
	signing := authorityTemplate("signing")
	apply(x.signing, signing)
	g.signing, g.signingDER = mint(t, signing, g.root, g.signingKey.Public(), g.rootKey, x.rawSigning)
	leaf := leafTemplate()
	apply(x.leaf, leaf)
	_, g.leafDER = mint(t, leaf, g.signing, leafKey, g.signingKey, x.rawLeaf)
	return g
}

// presented is the usual presentation: the leaf and its signing authority, against the root.
func (g *grown) presented() presentation {
	return presentation{chain: [][]byte{g.leafDER, g.signingDER}, roots: [][]byte{g.rootDER}}
}

// with is the usual presentation with this chain.
func (g *grown) with(chain ...[]byte) presentation {
	return presentation{chain: chain, roots: [][]byte{g.rootDER}}
}

// authority makes another authority: named and keyed as given, signed by an issuer.
func (g *grown) authority(name string, key crypto.PublicKey, issuer *x509.Certificate, issuerKey crypto.Signer, change func(*x509.Certificate)) (*x509.Certificate, []byte) {
	g.t.Helper()
	template := authorityTemplate(name)
	apply(change, template)
	return mint(g.t, template, issuer, key, issuerKey, nil)
}

// leafUnder makes another leaf.
func (g *grown) leafUnder(issuer *x509.Certificate, issuerKey crypto.Signer, change func(*x509.Certificate)) []byte {
	g.t.Helper()
	template := leafTemplate()
	apply(change, template)
	_, der := mint(g.t, template, issuer, testkit.NewKey(g.t).Public(), issuerKey, nil)
	return der
}

func apply(change func(*x509.Certificate), template *x509.Certificate) {
	if change != nil {
		change(template)
	}
}

func authorityTemplate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-mintLife), NotAfter: now.Add(mintLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		URIs: []*url.URL{mintDomain.ID().URL()},
	}
}

func leafTemplate() *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: randomSerial(), Subject: pkix.Name{CommonName: "workload"},
		NotBefore: now.Add(-mintLife), NotAfter: now.Add(mintLife),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{sanExtension(uriName(mintID))},
	}
}

func randomSerial() *big.Int {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return serial.Add(serial, big.NewInt(1))
}

// mint signs a template. The certificate is as it was before edit changed its bytes, so that it can be an issuer in any case.
func mint(t testing.TB, template, issuer *x509.Certificate, key crypto.PublicKey, issuerKey crypto.Signer, edit func(*rawCertificate)) (*x509.Certificate, []byte) {
	t.Helper()
	if template.SubjectKeyId == nil {
		if id, err := SubjectKeyID(key); err == nil {
			template.SubjectKeyId = id
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	if edit == nil {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		return cert, der
	}
	raw := parseRaw(t, der)
	edit(raw)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return cert, raw.sign(t, issuerKey)
}

// rawCertificate is a certificate as DER elements, to change what x509.CreateCertificate would not write.
type rawCertificate struct {
	version, serial, algorithm, issuer, validity, subject, key []byte
	uniqueIDs                                                  []byte
	extensions                                                 []rawExtension

	afterExtensions, afterTBSFields, afterSignature []byte                // what nobody expects there
	outerAlgorithm                                  []byte                // nil: as inside
	hash                                            crypto.Hash           // 0: SHA-256
	pss                                             bool                  // RSA-PSS instead of PKCS #1 v1.5
	forge                                           func() []byte         // the signature, if not a real one
	unusedBits                                      byte                  // of the signature's BIT STRING
	whole                                           func(d []byte) []byte // changes the finished certificate
}

type rawExtension struct {
	id       asn1.ObjectIdentifier
	critical []byte // the BOOLEAN's element, if there
	value    []byte
	after    []byte
}

// der is an element with this tag byte.
func der(tag byte, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	out := []byte{tag}
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}

const (
	tagBoolean    = 0x01
	tagInteger    = 0x02
	tagBits       = 0x03
	tagOctets     = 0x04
	tagUTCTime    = 0x17
	tagTime       = 0x18
	tagSequence   = 0x30
	tagSet        = 0x31
	derTrue, null = "\x01\x01\xff", "\x05\x00"
)

func oid(t testing.TB, id asn1.ObjectIdentifier) []byte {
	t.Helper()
	out, err := asn1.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// elements splits the content of a sequence.
func elements(t testing.TB, content []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for len(content) > 0 {
		var element asn1.RawValue
		rest, err := asn1.Unmarshal(content, &element)
		if err != nil {
			t.Fatalf("split: %v", err)
		}
		out, content = append(out, element.FullBytes), rest
	}
	return out
}

// inside is the content of an element.
func inside(t testing.TB, element []byte) []byte {
	t.Helper()
	var value asn1.RawValue
	if _, err := asn1.Unmarshal(element, &value); err != nil {
		t.Fatalf("open: %v", err)
	}
	return value.Bytes
}

func parseRaw(t testing.TB, cert []byte) *rawCertificate {
	t.Helper()
	f := elements(t, inside(t, elements(t, inside(t, cert))[0]))
	r := &rawCertificate{version: f[0], serial: f[1], algorithm: f[2], issuer: f[3], validity: f[4], subject: f[5], key: f[6]}
	for _, e := range elements(t, inside(t, inside(t, f[7]))) {
		var x pkix.Extension
		if _, err := asn1.Unmarshal(e, &x); err != nil {
			t.Fatal(err)
		}
		r.extensions = append(r.extensions, rawExtension{id: x.Id, critical: criticality(x.Critical), value: x.Value})
	}
	return r
}

func criticality(critical bool) []byte {
	if critical {
		return []byte(derTrue)
	}
	return nil
}

// set puts an extension, in the place of the one it replaces.
func (r *rawCertificate) set(id asn1.ObjectIdentifier, critical bool, value []byte) {
	e := rawExtension{id: id, critical: criticality(critical), value: value}
	if i := r.index(id); i >= 0 {
		r.extensions[i] = e
		return
	}
	r.extensions = append(r.extensions, e)
}

func (r *rawCertificate) drop(id asn1.ObjectIdentifier) {
	r.extensions = slices.DeleteFunc(r.extensions, func(e rawExtension) bool { return e.id.Equal(id) })
}

func (r *rawCertificate) uncritical(id asn1.ObjectIdentifier) {
	r.extensions[r.index(id)].critical = nil
}

func (r *rawCertificate) index(id asn1.ObjectIdentifier) int {
	return slices.IndexFunc(r.extensions, func(e rawExtension) bool { return e.id.Equal(id) })
}

func (r *rawCertificate) tbs(t testing.TB) []byte {
	var list []byte
	for _, e := range r.extensions {
		list = append(list, der(tagSequence, oid(t, e.id), e.critical, der(tagOctets, e.value), e.after)...)
	}
	var extensions []byte
	if r.extensions != nil {
		extensions = der(0xa3, der(tagSequence, list), r.afterExtensions)
	}
	return der(tagSequence, r.version, r.serial, r.algorithm, r.issuer, r.validity, r.subject, r.key, r.uniqueIDs, extensions, r.afterTBSFields)
}

func (r *rawCertificate) sign(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	tbs := r.tbs(t)
	if r.outerAlgorithm == nil {
		r.outerAlgorithm = r.algorithm
	}
	signature := r.signature(t, tbs, key)
	out := der(tagSequence, tbs, r.outerAlgorithm, der(tagBits, []byte{r.unusedBits}, signature), r.afterSignature)
	if r.whole != nil {
		out = r.whole(out)
	}
	return out
}

func (r *rawCertificate) signature(t testing.TB, tbs []byte, key crypto.Signer) []byte {
	if r.forge != nil {
		return r.forge()
	}
	hash := r.hash
	if hash == 0 {
		hash = crypto.SHA256
	}
	var options crypto.SignerOpts = hash
	var message []byte
	if _, isEd := key.(ed25519.PrivateKey); isEd {
		message, options = tbs, crypto.Hash(0)
	} else {
		h := hash.New()
		h.Write(tbs)
		message = h.Sum(nil)
	}
	if r.pss {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	signature, err := key.Sign(rand.Reader, message, options)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	return signature
}

// General names and the extensions that tests write by hand.

func generalName(tag byte, content []byte) []byte { return der(0x80|tag, content) }
func uriName(uri string) []byte                   { return generalName(6, []byte(uri)) }
func dnsName(name string) []byte                  { return generalName(2, []byte(name)) }

func sanExtension(names ...[]byte) pkix.Extension {
	return pkix.Extension{Id: oidSubjectAltName, Critical: true, Value: der(tagSequence, names...)}
}

// constraints is a name constraints extension; permitted and excluded are general names.
func constraints(permitted, excluded [][]byte) []byte {
	subtrees := func(tag byte, names [][]byte) []byte {
		if len(names) == 0 {
			return nil
		}
		var list []byte
		for _, name := range names {
			list = append(list, der(tagSequence, name)...)
		}
		return der(tag, list)
	}
	return der(tagSequence, subtrees(0xa0, permitted), subtrees(0xa1, excluded))
}

// rsaKey takes long to make, and is made once.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newEd25519() ed25519.PrivateKey {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return key
}
