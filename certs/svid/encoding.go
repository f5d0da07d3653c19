package svid

import (
	"bytes"
	"crypto/x509"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Tags of a TBSCertificate (RFC 5280, Section 4.1).
var (
	tagVersion    = asn1.Tag(0).Constructed().ContextSpecific()
	tagExtensions = asn1.Tag(3).Constructed().ContextSpecific()

	idCE = []byte{0x55, 0x1d} // 2.5.29, the arc of RFC 5280's extensions
)

// Lengths of times (Section 4.1.2.5).
const (
	lenUTCTime         = len("YYMMDDHHMMSSZ")
	lenGeneralizedTime = len("YYYYMMDDHHMMSSZ")
)

// checkEncoding refuses certificates that say more, or say it otherwise, than Section 4.1 of RFC 5280 lets them. crypto/x509 reads
// the fields that it expects and passes over what follows them in the same sequence. Of the outermost sequence that part is not even
// signed: anybody could append to a certificate and have another one. A public key with something appended to it would have another
// hash than the one that was revoked.
func checkEncoding(cert *x509.Certificate) error {
	if len(cert.Raw) == 0 {
		return errors.New("certificate was not parsed")
	}
	if !exactCertificate(cert.Raw) {
		return errors.New("certificate holds more than its fields, or a signature that is no string of octets")
	}
	if !exactTBSCertificate(cert.RawTBSCertificate) {
		return errors.New("certificate holds unique identifiers, times in another form, or more than its fields")
	}
	if !exactPublicKey(cert.RawSubjectPublicKeyInfo, cert.PublicKeyAlgorithm) {
		return errors.New("public key is not in its one encoding")
	}
	return nil
}

func exactCertificate(der []byte) bool {
	input := cryptobyte.String(der)
	var fields cryptobyte.String
	var signature []byte
	return input.ReadASN1(&fields, asn1.SEQUENCE) && input.Empty() &&
		fields.SkipASN1(asn1.SEQUENCE) && // tbsCertificate
		fields.SkipASN1(asn1.SEQUENCE) && // signatureAlgorithm
		fields.ReadASN1BitStringAsBytes(&signature) && fields.Empty()
}

func exactTBSCertificate(der []byte) bool {
	input := cryptobyte.String(der)
	var fields, validity, extensions cryptobyte.String
	return input.ReadASN1(&fields, asn1.SEQUENCE) && input.Empty() &&
		fields.SkipASN1(tagVersion) &&
		fields.SkipASN1(asn1.INTEGER) && // serialNumber
		fields.SkipASN1(asn1.SEQUENCE) && // signature
		fields.SkipASN1(asn1.SEQUENCE) && // issuer
		fields.ReadASN1(&validity, asn1.SEQUENCE) && exactTime(&validity) && exactTime(&validity) && validity.Empty() &&
		fields.SkipASN1(asn1.SEQUENCE) && // subject
		fields.SkipASN1(asn1.SEQUENCE) && // subjectPublicKeyInfo
		fields.ReadASN1(&extensions, tagExtensions) && fields.Empty() &&
		exactExtensions(extensions)
}

// exactPublicKey takes a key without more than its fields. That each field has one form crypto/x509 sees to already: uncompressed
// points, named curves, NULL beside RSA, nothing beside Ed25519.
func exactPublicKey(der []byte, algorithm x509.PublicKeyAlgorithm) bool {
	input := cryptobyte.String(der)
	var fields, id, parameters, numbers cryptobyte.String
	var tag asn1.Tag
	var key []byte
	if !input.ReadASN1(&fields, asn1.SEQUENCE) || !fields.ReadASN1(&id, asn1.SEQUENCE) ||
		!fields.ReadASN1BitStringAsBytes(&key) || !fields.Empty() {
		return false
	}
	if !id.SkipASN1(asn1.OBJECT_IDENTIFIER) || !id.Empty() && (!id.ReadAnyASN1(&parameters, &tag) || !id.Empty()) {
		return false
	}
	if algorithm != x509.RSA {
		return true
	}
	input = key
	return input.ReadASN1(&numbers, asn1.SEQUENCE) && input.Empty() &&
		numbers.SkipASN1(asn1.INTEGER) && numbers.SkipASN1(asn1.INTEGER) && numbers.Empty()
}

// exactExtensions takes extensions without more than their fields, and values of RFC 5280's that are one element each.
func exactExtensions(input cryptobyte.String) bool {
	var list cryptobyte.String
	if !input.ReadASN1(&list, asn1.SEQUENCE) || !input.Empty() {
		return false
	}
	for !list.Empty() {
		var fields, id, value, element cryptobyte.String
		var tag asn1.Tag
		if !list.ReadASN1(&fields, asn1.SEQUENCE) || !fields.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
			!fields.SkipOptionalASN1(asn1.BOOLEAN) || !fields.ReadASN1(&value, asn1.OCTET_STRING) || !fields.Empty() {
			return false
		}
		if bytes.HasPrefix(id, idCE) && (!value.ReadAnyASN1(&element, &tag) || !value.Empty()) {
			return false
		}
	}
	return true
}

// exactTime takes a time in Zulu with seconds and without fractions: UTCTime through 2049, GeneralizedTime from 2050.
func exactTime(validity *cryptobyte.String) bool {
	var text cryptobyte.String
	var tag asn1.Tag
	if !validity.ReadAnyASN1(&text, &tag) || len(text) == 0 || text[len(text)-1] != 'Z' {
		return false
	}
	switch tag {
	case asn1.UTCTime:
		return len(text) == lenUTCTime
	case asn1.GeneralizedTime:
		return len(text) == lenGeneralizedTime && string(text[:4]) >= "2050"
	default:
		return false
	}
}
