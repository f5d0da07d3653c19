package canonical

import (
	"strconv"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

// Request brings method, authority and path of the request into canonical form, and sets Host. It returns which relaxations of the
// profile the path needed; see Path. The error is an *l7.Error with reason BadRequest, AmbiguousPath or UpgradeRefused; the request
// is then not to be forwarded.
func Request(r *l7.Request, p Profile) (used Profile, err error) {
	if err := Method(r.Method); err != nil {
		return 0, err
	}
	if r.Method == "CONNECT" {
		return 0, refuse(observe.UpgradeRefused, "CONNECT is not allowed")
	}
	host, port, err := Host(r.Authority)
	if err != nil {
		return 0, err
	}
	if err := checkScheme(r.Scheme); err != nil {
		return 0, err
	}
	r.Host = host
	r.Authority = authority(r.Authority, host, port, r.Scheme)
	if r.Path == "*" {
		return 0, checkAsterisk(r.Method, r.RawQuery)
	}
	path, used, err := Path(r.Path, p)
	if err != nil {
		return 0, err
	}
	r.Path = path
	return used, checkQuery(r.RawQuery)
}

// Method accepts a token without lower-case letters. Methods are case-sensitive (RFC 9110, Section 9.1), but services exist that
// take "get" for GET, and a rule for one would not see the other.
func Method(method string) error {
	if !l7.IsToken(method) {
		return refuse(observe.BadRequest, "method is not a token")
	}
	for i := range len(method) {
		if method[i]-'a' < 26 {
			return refuse(observe.BadRequest, "method with lower-case letters")
		}
	}
	return nil
}

func checkScheme(scheme string) error {
	if scheme != "http" && scheme != "https" {
		return refuse(observe.BadRequest, "scheme is neither http nor https")
	}
	return nil
}

// checkAsterisk: "*" is the server as a whole, and of OPTIONS only (RFC 9112, Section 3.2.4).
func checkAsterisk(method, query string) error {
	if method != "OPTIONS" || query != "" {
		return refuse(observe.BadRequest, `"*" is a target of OPTIONS only`)
	}
	return nil
}

// checkQuery keeps out what could end the request line or begin a fragment.
func checkQuery(query string) error {
	for i := range len(query) {
		if b := query[i]; b <= ' ' || b >= 0x7f || b == '#' {
			return refuse(observe.BadRequest, "query with a forbidden character")
		}
	}
	return nil
}

// authority is host and port without the port that the scheme implies. It returns given when that is the same.
func authority(given, host string, port uint16, scheme string) string {
	if port == 0 || port == 80 && scheme == "http" || port == 443 && scheme == "https" {
		return host
	}
	var room [5]byte
	digits := strconv.AppendUint(room[:0], uint64(port), 10)
	split := len(given) - len(digits)
	if split == len(host)+1 && given[:len(host)] == host && given[split:] == string(digits) {
		return given
	}
	return host + ":" + string(digits)
}

func refuse(reason observe.Reason, text string) *l7.Error { return l7.NewError(reason, text) }
