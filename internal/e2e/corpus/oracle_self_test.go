package corpus

import (
	"strings"
	"testing"
)

// An oracle that sees nothing would let every case pass: each of these bytes at an upstream is a finding.
func TestTheOracleSeesWhatIsSmuggled(t *testing.T) {
	const head = "POST /ok HTTP/1.1\r\nhost: " + app + "\r\nx-request-id: 1\r\n"
	const second = "GET /smuggled HTTP/1.1\r\nhost: " + app + "\r\n\r\n"
	for name, raw := range map[string]string{
		"a length and chunked":           head + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":                    head + "content-length: 0\r\ncontent-length: 5\r\n\r\nhello",
		"a signed length":                head + "content-length: +5\r\n\r\nhello",
		"chunked that only some see":     head + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked with a space":           head + "transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + second,
		"chunked with an underscore":     head + "transfer_encoding: chunked\r\n\r\n0\r\n\r\n" + second,
		"chunked behind a bare LF":       head + "x-a: 1\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked behind a bare CR":       head + "x-a: 1\rtransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n",
		"a folded length":                head + "x-a: 1\r\n content-length: 5\r\ncontent-length: 0\r\n\r\n",
		"a size with 0x":                 head + "transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
		"a bare LF in chunks":            head + "transfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
		"bytes behind the message":       head + "content-length: 0\r\n\r\nhello",
		"a second request":               head + "content-length: 0\r\n\r\n" + second,
		"a denied path":                  strings.Replace(head, "/ok", "/public/..;/admin", 1) + "\r\n",
		"a denied path behind a slash":   strings.Replace(head, "/ok", "/x%2f..%2fadmin", 1) + "\r\n",
		"a denied path, decoded twice":   strings.Replace(head, "/ok", "/%252561dmin", 1) + "\r\n",
		"a denied host":                  strings.Replace(head, app, "Internal.example.test.", 1) + "\r\n",
		"two hosts":                      head + "host: " + internal + "\r\n\r\n",
		"no host":                        "POST /ok HTTP/1.1\r\nx-request-id: 1\r\n\r\n",
		"a denied role":                  head + "x-role: staff\r\nX-ROLE: guest\r\n\r\n",
		"a denied role in a list":        head + "x-role: staff ,guest\r\n\r\n",
		"a denied role as a trailer":     head + "transfer-encoding: chunked\r\n\r\n0\r\nx-role: guest\r\n\r\n",
		"a claim":                        head + "x-forwarded-for: spoofed\r\n\r\n",
		"an identity":                    head + "x-forwarded-client-cert: a\r\n\r\n",
		"a name with an underscore":      head + "x_forwarded_client_cert: a\r\n\r\n",
		"a field of the connection":      head + "connection: close\r\n\r\n",
		"another method than the log's":  strings.Replace(head, "POST", "PUT", 1) + "\r\n",
		"another path than the log's":    strings.Replace(head, "/ok", "/ok/", 1) + "\r\n",
		"another host than the log's":    strings.Replace(head, app, "a."+app, 1) + "\r\n",
		"an absolute target":             strings.Replace(head, "/ok", "http://"+app+"/ok", 1) + "\r\n",
		"a request with an id of nobody": strings.Replace(head, "id: 1", "id: 2", 1) + "\r\n",
		"the same request twice":         strings.Repeat(head+"\r\n", 2),
		"a lower minor version":          strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + "\r\n",
	} {
		if len(findings(raw)) == 0 {
			t.Errorf("%s: nothing was found in %q", name, raw)
		}
	}
	for _, raw := range []string{head + "\r\n", head + "content-length: 5\r\n\r\nhello", head + "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"} {
		if found := findings(raw); len(found) > 0 {
			t.Errorf("%q is right, and yet %q was found", raw, found)
		}
	}
}

// findings is what the test would say of an upstream that got these bytes, for one request that was allowed as POST /ok.
func findings(raw string) (all []string) {
	requests, all := readEveryWay([]byte(raw), 0)
	arrived := map[string]int{}
	for i := range requests {
		id := requests[i].value("x-request-id")
		if arrived[id]++; id != "1" || arrived[id] > 1 {
			all = append(all, "a request that is not on record")
		}
		all = append(all, forbidden(open+"-h1", &requests[i])...)
		all = append(all, differs(&requests[i], &line{Method: "POST", Host: app, Path: "/ok", Effect: "allow"})...)
	}
	return all
}
