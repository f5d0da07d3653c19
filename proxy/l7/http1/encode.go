package http1

import (
	"strconv"
	"time"

	"github.com/postern-proxy/postern/proxy/l7"
)

// appendRequestHead writes a request as this engine understands it: the target in origin form, Host from the authority, and
// framing of its own.
func appendRequestHead(out []byte, r *l7.Request) []byte {
	out = append(out, r.Method...)
	out = append(out, ' ')
	out = append(out, r.Path...)
	if r.RawQuery != "" {
		out = append(out, '?')
		out = append(out, r.RawQuery...)
	}
	out = append(out, " HTTP/1.1\r\nhost: "...)
	out = append(out, r.Authority...)
	out = append(out, "\r\n"...)
	out = appendFields(out, &r.Header)
	out = appendRequestFraming(out, r)
	switch {
	case r.Upgrade != "":
		out = append(out, "connection: upgrade\r\nupgrade: "...)
		out = append(out, r.Upgrade...)
		out = append(out, "\r\n"...)
	case r.AcceptsTrailers:
		out = append(out, "connection: te\r\nte: trailers\r\n"...)
	}
	return append(out, "\r\n"...)
}

func appendRequestFraming(out []byte, r *l7.Request) []byte {
	switch {
	case r.Body == nil:
		// RFC 9110, Section 8.6: a method for which content means something says that there is none.
		if r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH" {
			out = append(out, "content-length: 0\r\n"...)
		}
		return out
	case r.ContentLength >= 0:
		out = appendLength(out, r.ContentLength)
	default:
		out = append(out, "transfer-encoding: chunked\r\n"...)
	}
	if r.ExpectContinue {
		out = append(out, "expect: 100-continue\r\n"...)
	}
	return out
}

// appendResponseHead writes a response; the fields that frame it and close the connection come from the caller.
func appendResponseHead(out []byte, r *l7.Response, framing func([]byte) []byte) []byte {
	out = appendStatusLine(out, r.Status, r.Reason)
	out = appendFields(out, &r.Header)
	if _, dated := r.Header.Get("date"); !dated && r.Status >= 200 {
		// RFC 9110, Section 6.6.1: who receives a response without a date and passes it on adds one.
		out = append(out, "date: "...)
		out = time.Now().UTC().AppendFormat(out, "Mon, 02 Jan 2006 15:04:05 GMT")
		out = append(out, "\r\n"...)
	}
	return append(framing(out), "\r\n"...)
}

func appendStatusLine(out []byte, status int, phrase string) []byte {
	if phrase == "" {
		phrase = statusPhrase(status)
	}
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	for i := range len(phrase) {
		if l7.IsValueByte(phrase[i]) {
			out = append(out, phrase[i])
		}
	}
	return append(out, "\r\n"...)
}

// statusPhrase names the statuses that postern gives by itself; an upstream brings its own phrase, and an empty one is as good.
func statusPhrase(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 204:
		return "No Content"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 408:
		return "Request Timeout"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 417:
		return "Expectation Failed"
	case 421:
		return "Misdirected Request"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	default:
		return ""
	}
}

// appendFields writes all fields but those that engines write by themselves: whatever put one into the header, it does not frame
// the message.
func appendFields(out []byte, h *l7.Header) []byte {
	for i := range h.Len() {
		name, value := h.At(i)
		if l7.IsConnectionField(name) {
			continue
		}
		out = append(out, name...)
		out = append(out, ": "...)
		out = append(out, value...)
		out = append(out, "\r\n"...)
	}
	return out
}

// appendTrailer writes the last chunk and the trailer section.
func appendTrailer(out []byte, trailer *l7.Header) []byte {
	out = append(out, "0\r\n"...)
	for i := range trailer.Len() {
		name, value := trailer.At(i)
		if l7.IsForbiddenTrailer(name) {
			continue
		}
		out = append(out, name...)
		out = append(out, ": "...)
		out = append(out, value...)
		out = append(out, "\r\n"...)
	}
	return append(out, "\r\n"...)
}

func appendLength(out []byte, n int64) []byte {
	out = append(out, "content-length: "...)
	out = strconv.AppendInt(out, n, 10)
	return append(out, "\r\n"...)
}
