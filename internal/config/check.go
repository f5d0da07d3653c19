package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// checker collects what the sections of a decoded document say wrongly of each other.
type checker struct {
	source   *source
	bad      map[string]bool
	errs     Errors
	warnings Errors
	config   *Config

	clusters        map[string]bool // names that routes can lead to
	clustersUnclear bool            // a name was wrong and may be the one that a route means
}

// full reports that no further error will be told, so that no hint needs to be found.
func (k *checker) full() bool { return len(k.errs) > maxErrors }

func (k *checker) fail(path string, code Code, message, hint string) {
	if k.bad[path] {
		return
	}
	k.bad[path] = true
	if len(k.errs) <= maxErrors {
		k.errs = append(k.errs, k.error(path, code, message, hint))
	}
}

func (k *checker) warn(path string, code Code, message, hint string) {
	if len(k.warnings) > maxErrors {
		return
	}
	k.warnings = append(k.warnings, k.error(path, code, message, hint))
}

func (k *checker) error(path string, code Code, message, hint string) Error {
	at := k.source.at(path)
	return Error{File: k.source.file, Line: at.Line, Column: at.Column, Path: path, Code: code, Message: message, Hint: hint}
}

// anyBad reports that one of the paths was already found wrong, so that what depends on it is not worth telling.
func (k *checker) anyBad(paths ...string) bool {
	for _, path := range paths {
		if k.bad[path] {
			return true
		}
	}
	return false
}

// name checks the form of a name and that it is the only one of its kind. It returns whether the name can be used.
func (k *checker) name(path, name string, seen map[string]string) {
	if name == "" {
		return
	}
	if !isName(name) {
		k.fail(path, CodeFormat, fmt.Sprintf("%q is not a name", abbreviate(name)), "a name has up to 63 letters, digits, -, _ and ., and begins with a letter or digit")
		return
	}
	if before, twice := seen[name]; twice {
		k.fail(path, CodeDuplicate, fmt.Sprintf("the name %q stands there twice, first in line %d", name, k.source.at(before).Line), "")
		return
	}
	seen[name] = path
}

// between checks a duration that is written or a default. The bounds are inclusive.
func (k *checker) between(path string, value, least, most time.Duration) {
	if value < least || value > most {
		k.fail(path, CodeRange, formatDuration(value)+" is not between "+formatDuration(least)+" and "+formatDuration(most), "")
	}
}

// orZero is between for a key whose 0 has a meaning of its own.
func (k *checker) orZero(path string, value, least, most time.Duration) {
	if value != 0 {
		k.between(path, value, least, most)
	}
}

func (k *checker) count(path string, value, least, most int) {
	if value < least || value > most {
		k.fail(path, CodeRange, fmt.Sprintf("%d is not between %d and %d", value, least, most), "")
	}
}

func (k *checker) size(path string, value, least, most Size) {
	if value < least || value > most {
		k.fail(path, CodeRange, fmt.Sprintf("%s is not between %s and %s", value, least, most), "")
	}
}

// own checks an identity that this process presents.
func (k *checker) own(path string, id spiffeid.ID) {
	domain := k.config.TrustDomain
	switch {
	case id.IsZero():
	case id.Path() == "":
		k.fail(path, CodeFormat, fmt.Sprintf("%q is a trust domain, not an identity in it", id), "add a path")
	case !domain.IsZero() && id.TrustDomain() != domain:
		k.fail(path, CodeForeignDomain, fmt.Sprintf("%q is not in this process's trust domain %q", id, domain.Name()), "spiffe://"+domain.Name()+id.Path())
	}
}

// dialled checks an address to connect to.
func (k *checker) dialled(path string, at Address) {
	ip, isIP := at.AddrPort()
	switch {
	case at.network != "tcp":
	case at.port == 0:
		k.fail(path, CodeRange, "port 0 cannot be connected to", "")
	case isIP && ip.Addr().IsUnspecified():
		k.fail(path, CodeFormat, "every address of the machine can be listened on, not connected to", "127.0.0.1:"+strconv.Itoa(int(at.port)))
	}
}

// headers checks names of header fields that are matched.
func (k *checker) headers(path string, fields map[string]string) {
	if _, there := fields["host"]; there {
		k.fail(path+".host", CodeFormat, "the host is not matched as a header field, since a request can say it in several ways", "use hosts")
	}
}

// methods checks a list of HTTP methods.
func (k *checker) methods(path string, list []string) {
	for i, method := range list {
		at := index(path, i)
		if k.anyBad(at) {
			continue
		}
		if err := checkMethod(method); err != nil {
			k.fail(at, CodeFormat, err.Error(), "")
		}
	}
}

// unique checks that a list says nothing twice.
func unique[T interface{ String() string }](k *checker, path string, list []T) {
	seen := make(map[string]bool, len(list))
	for i, item := range list {
		text := item.String()
		if text != "" && seen[text] {
			k.fail(index(path, i), CodeDuplicate, fmt.Sprintf("%q stands there twice", abbreviate(text)), "remove one of them")
		}
		seen[text] = true
	}
}

var errNotName = errors.New("not a name")

func isName(s string) bool {
	for i, c := range []byte(s) {
		alnum := isLower(c) || isUpper(c) || isDigit(c)
		if !alnum && (i == 0 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return s != "" && len(s) <= 63
}
