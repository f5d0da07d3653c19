package nodeattestor

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Token is a join token. It hides itself from logs, formatting and JSON; Text reveals it. The zero value is no token.
type Token struct {
	secret [secretSize]byte
	pin    Pin
}

// Pin is the SHA-256 of a root authority's SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

const (
	secretSize = 32 // bytes: nobody guesses it, so a plain hash of it may be stored
	prefix     = "pst1"
	hidden     = "pst1.[hidden]"
	// maxTokenText bounds what ParseToken looks at.
	maxTokenText = 256
)

var encoding = base64.RawURLEncoding.Strict()

// PinOf returns the pin of a root authority.
func PinOf(root *x509.Certificate) Pin { return sha256.Sum256(root.RawSubjectPublicKeyInfo) }

// Matches reports whether the certificate has the pinned key.
func (p Pin) Matches(cert *x509.Certificate) bool {
	have := PinOf(cert)
	return subtle.ConstantTimeCompare(have[:], p[:]) == 1
}

// String is the hash in lower-case hex.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// newToken makes a token with a fresh secret.
func newToken(pin Pin) Token {
	t := Token{pin: pin}
	_, _ = rand.Read(t.secret[:]) // never fails since Go 1.24
	return t
}

// ParseToken reads the text of a token; white space around it is ignored. The error never repeats any of it.
func ParseToken(text string) (Token, error) {
	if len(text) > maxTokenText {
		return Token{}, fmt.Errorf("parse join token: longer than %d bytes", maxTokenText)
	}
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 3 || parts[0] != prefix {
		return Token{}, errors.New(`parse join token: not of the form "pst1.<secret>.<hash>"`)
	}
	var t Token
	if !decode(t.secret[:], parts[1]) || !decode(t.pin[:], parts[2]) {
		return Token{}, errors.New("parse join token: it is damaged; copy it again, in full")
	}
	return t, nil
}

// decode fills into with exactly as many bytes as it has.
func decode(into []byte, text string) bool {
	if encoding.DecodedLen(len(text)) != len(into) || strings.ContainsAny(text, "\r\n") {
		return false
	}
	n, err := encoding.Decode(into, []byte(text))
	return err == nil && n == len(into)
}

// Text is the line that ParseToken reads. It is a secret.
func (t Token) Text() string {
	return prefix + "." + encoding.EncodeToString(t.secret[:]) + "." + encoding.EncodeToString(t.pin[:])
}

// Pin says which root authority the token may be shown to.
func (t Token) Pin() Pin { return t.pin }

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t == Token{} }

// hash is under what the store knows the token.
func (t Token) hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// String hides the token.
func (t Token) String() string { return hidden }

// GoString hides the token.
func (t Token) GoString() string { return hidden }

// Format hides the token from every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the token.
func (t Token) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the token, from JSON too.
func (t Token) MarshalText() ([]byte, error) { return []byte(hidden), nil }
