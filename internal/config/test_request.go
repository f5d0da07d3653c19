package config

import (
	"errors"
	"fmt"
	"strings"
)

// TestRequest is the request of a policy test: a method and a path in canonical form, or tcp.
type TestRequest struct {
	method string
	path   string
	tcp    bool
}

// ParseTestRequest reads "GET /v1/orders/1", or "tcp".
func ParseTestRequest(s string) (TestRequest, error) {
	if s == "tcp" {
		return TestRequest{tcp: true}, nil
	}
	method, path, ok := strings.Cut(s, " ")
	if !ok {
		return TestRequest{}, errors.New("a request is a method and a path, such as GET /v1/orders/1, or tcp")
	}
	if err := checkMethod(method); err != nil {
		return TestRequest{}, err
	}
	if err := checkCanonicalPath(path); err != nil {
		return TestRequest{}, fmt.Errorf("path %q: %w", path, err)
	}
	return TestRequest{method: method, path: path}, nil
}

// TCP reports that the request is a TCP connection.
func (r TestRequest) TCP() bool { return r.tcp }

// Method of an HTTP request.
func (r TestRequest) Method() string { return r.method }

// Path of an HTTP request, canonical, without query.
func (r TestRequest) Path() string { return r.path }

// IsZero reports that there is no request.
func (r TestRequest) IsZero() bool { return r == TestRequest{} }

// String is the request as it was written.
func (r TestRequest) String() string {
	switch {
	case r.tcp:
		return "tcp"
	case r.method == "":
		return ""
	default:
		return r.method + " " + r.path
	}
}

// MarshalText returns String.
func (r TestRequest) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseTestRequest.
func (r *TestRequest) UnmarshalText(text []byte) error {
	parsed, err := ParseTestRequest(string(text))
	*r = parsed
	return err
}

// checkMethod wants a token (RFC 9110, Section 5.6.2) and refuses a known method in small letters: methods are case-sensitive
// (RFC 9110, Section 9.1), so such a rule would never match.
func checkMethod(method string) error {
	if !isToken(method) {
		return fmt.Errorf("%q is not an HTTP method", method)
	}
	upper := strings.ToUpper(method)
	if upper == method {
		return nil
	}
	for _, known := range methods {
		if upper == known {
			return fmt.Errorf("%q: methods are case-sensitive, write %s", method, known)
		}
	}
	return nil
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !isLower(c) && !isUpper(c) && !isDigit(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
