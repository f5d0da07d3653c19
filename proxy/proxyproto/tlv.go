package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unicode/utf8"
)

// Types of TLVs (section 2.2).
const (
	TypeALPN      byte = 0x01 // the protocol negotiated with the client (RFC 7301)
	TypeAuthority byte = 0x02 // the name that the client asked for, as UTF-8: with TLS, the server name
	TypeChecksum  byte = 0x03 // CRC32c over the header; see Header.Checksum
	TypeNoop      byte = 0x04 // padding, never in Header.TLVs
	TypeUniqueID  byte = 0x05 // an id of the connection, at most 128 bytes
	TypeSSL       byte = 0x20 // an SSL
	TypeNetNS     byte = 0x30 // the name of a network namespace
	// TypeSPIFFEID is postern's own, from the range left to applications (section 2.2.8): the SPIFFE ID of the client whose
	// certificate the sender has verified, as its URI. It is the sender's word.
	TypeSPIFFEID byte = 0xE5
)

// Types within an SSL (section 2.2.6).
const (
	subtypeVersion    byte = 0x21
	subtypeCommonName byte = 0x22
)

// Bits of the first byte of an SSL.
const (
	clientSSL      = 0x01
	clientCertConn = 0x02
	clientCertSess = 0x04
)

const (
	tlvHead = 3 // type and length
	sslHead = 5 // client and verify
	// maxTLVs bounds the walk; there are six types and a few of applications.
	maxTLVs = 64
	// maxName is the longest server name and ALPN name that TLS can carry.
	maxName     = 255
	maxUniqueID = 128
)

// SSL is the value of a TLV of TypeSSL: how the client came over TLS.
type SSL struct {
	// TLS: the client came over it. The rest counts only then.
	TLS bool
	// Certificate: the client presented one on this connection; CertificateInSession: on this or one that it resumes.
	Certificate, CertificateInSession bool
	// Verified: the client presented a certificate, and it was good.
	Verified bool
	// Version is such as "TLSv1.3".
	Version string
	// CommonName is that of the certificate; empty for none. SVIDs need not have one.
	CommonName string
}

// AppendTLV appends the TLV to buf. Its value has at most 65,535 bytes.
func AppendTLV(buf []byte, t TLV) []byte {
	buf = append(buf, t.Type)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(t.Value)))
	return append(buf, t.Value...)
}

// TLV returns the SSL as one.
func (s SSL) TLV() TLV {
	var client byte
	for _, bit := range []struct {
		is   bool
		mask byte
	}{{s.TLS, clientSSL}, {s.Certificate, clientCertConn}, {s.CertificateInSession, clientCertSess}} {
		if bit.is {
			client |= bit.mask
		}
	}
	// "The <verify> field will be zero if the client presented a certificate and it was successfully verified, and non-zero otherwise."
	value := []byte{client, 0, 0, 0, 1}
	if s.Verified {
		value[sslHead-1] = 0
	}
	if s.TLS {
		value = AppendTLV(value, TLV{subtypeVersion, []byte(s.Version)})
	}
	if s.CommonName != "" {
		value = AppendTLV(value, TLV{subtypeCommonName, []byte(s.CommonName)})
	}
	return TLV{TypeSSL, value}
}

// ParseSSL parses the value of a TLV of TypeSSL. Subtypes other than version and common name are passed over.
func ParseSSL(value []byte) (SSL, error) {
	if len(value) < sslHead {
		return SSL{}, errors.New("the SSL extension is shorter than its fixed part")
	}
	client := value[0]
	s := SSL{TLS: client&clientSSL != 0, Certificate: client&clientCertConn != 0, CertificateInSession: client&clientCertSess != 0}
	s.Verified = binary.BigEndian.Uint32(value[1:]) == 0 && (s.Certificate || s.CertificateInSession)
	var seen types
	err := walk(value[sslHead:], func(_ int, t TLV) error {
		if seen.again(t.Type) {
			return fmt.Errorf("the SSL extension has type %#02x twice", t.Type)
		}
		if (t.Type == subtypeVersion || t.Type == subtypeCommonName) && !printable(t.Value) {
			return fmt.Errorf("type %#02x of the SSL extension is no text", t.Type)
		}
		switch t.Type {
		case subtypeVersion:
			s.Version = string(t.Value)
		case subtypeCommonName:
			s.CommonName = string(t.Value)
		}
		return nil
	})
	return s, err
}

// decodeTLVs decodes those of the header b, which begin at from, and verifies the checksum if there is one.
func decodeTLVs(b []byte, from int) (list []TLV, checksum bool, err error) {
	var seen types
	err = walk(b[from:], func(at int, t TLV) error {
		switch {
		case t.Type == TypeNoop:
			return nil
		case registered(t.Type) && seen.again(t.Type):
			return fmt.Errorf("type %#02x occurs twice", t.Type)
		case t.Type == TypeChecksum:
			checksum = true
			return verify(b, from+at, t.Value)
		}
		if err := checkValue(t); err != nil {
			return err
		}
		list = append(list, TLV{t.Type, slices.Clone(t.Value)})
		return nil
	})
	return list, checksum, err
}

// walk calls f for each TLV of b, with the place of its value.
func walk(b []byte, f func(at int, t TLV) error) error {
	at := 0
	for count := 0; at < len(b); count++ {
		if count == maxTLVs {
			return fmt.Errorf("more than %d extensions", maxTLVs)
		}
		if len(b)-at < tlvHead {
			return errors.New("the last extension is cut off")
		}
		kind, size := b[at], int(binary.BigEndian.Uint16(b[at+1:]))
		at += tlvHead
		if size > len(b)-at {
			return fmt.Errorf("type %#02x is longer than what is left", kind)
		}
		if err := f(at, TLV{kind, b[at : at+size]}); err != nil {
			return err
		}
		at += size
	}
	return nil
}

// verify computes the checksum with the field itself as zeros (section 2.2.3).
func verify(header []byte, at int, value []byte) error {
	if len(value) != crc32.Size {
		return errors.New("the checksum has not 4 bytes")
	}
	sum := crc32.Update(0, castagnoli(), header[:at])
	sum = crc32.Update(sum, castagnoli(), make([]byte, crc32.Size))
	sum = crc32.Update(sum, castagnoli(), header[at+crc32.Size:])
	if sum != binary.BigEndian.Uint32(value) {
		return errors.New("the checksum is wrong")
	}
	return nil
}

// checkValue checks the types that are told on, in logs or to the next proxy.
func checkValue(t TLV) error {
	good := true
	switch t.Type {
	case TypeALPN:
		good = len(t.Value) > 0 && len(t.Value) <= maxName
	case TypeAuthority:
		good = len(t.Value) <= maxName && printable(t.Value)
	case TypeUniqueID:
		good = len(t.Value) <= maxUniqueID
	case TypeSPIFFEID:
		good = printable(t.Value)
	case TypeSSL:
		_, err := ParseSSL(t.Value)
		return err
	}
	if !good {
		return fmt.Errorf("the value of type %#02x is not one of its kind", t.Type)
	}
	return nil
}

// printable reports UTF-8 without control characters.
func printable(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(b)
}

// registered reports a type that can occur once: those of the protocol, and postern's own.
func registered(kind byte) bool { return kind < 0xE0 || kind == TypeSPIFFEID }

// types is a set of types.
type types [4]uint64

// again adds the type and reports that it was there before.
func (s *types) again(kind byte) bool {
	word, bit := kind/64, uint64(1)<<(kind%64)
	was := s[word]&bit != 0
	s[word] |= bit
	return was
}
