package corpus

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// record is a message as a reader understood it.
type record struct {
	first          string // request line or status line
	method, target string
	fields         []field
	body           string
	trailers       []field
	whole          bool // false: the bytes end in the middle
	upgraded       bool // the bytes after it are no HTTP
}

type field struct{ name, value string }

// values returns the values of a field; the name is in lower case.
func (r *record) values(name string) []string { return valuesOf(r.fields, name) }

func valuesOf(fields []field, name string) (values []string) {
	for _, f := range fields {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

// value is the only value, or all of them with a mark between that no honest value has.
func (r *record) value(name string) string { return strings.Join(r.values(name), "<AND>") }

// host is the authority of a request.
func (r *record) host() string {
	if authority := r.values(":authority"); len(authority) > 0 {
		return strings.Join(append(authority, r.values("host")...), "<AND>")
	}
	return r.value("host")
}

// name is the host without a port: RFC 9110 section 7.2 has the port forwarded, and no rule can name one.
func (r *record) name() string {
	host := r.host()
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') && strings.Trim(host[i+1:], "0123456789") == "" {
		return host[:i]
	}
	return host
}

// reader is a way to read HTTP/1.1. The zero value is strict.
type reader struct {
	name        string
	bareLF      bool // LF alone ends a line
	bareCR      bool // so does CR
	folds       bool // a line that begins with a blank continues the one before
	lengthFirst bool // Content-Length beats Transfer-Encoding
	lastLength  bool // the last Content-Length of several counts
	anyChunked  bool // a field that looks like Transfer-Encoding and has "chunked" somewhere
	looseNumber bool // numbers as strtol reads them: blanks, sign, 0x, and an end wherever it likes
	looseNames  bool // blanks around names, NUL ends them, "_" is "-"
}

var readers = []reader{
	{name: "strict"},
	{name: "LF ends a line", bareLF: true},
	{name: "CR ends a line", bareLF: true, bareCR: true},
	{name: "folds lines", folds: true},
	{name: "Content-Length first", lengthFirst: true},
	{name: "the last Content-Length", lastLength: true, lengthFirst: true, looseNumber: true},
	{name: "chunked anywhere", anyChunked: true, looseNames: true},
	{name: "everything loose", bareLF: true, folds: true, anyChunked: true, looseNumber: true, looseNames: true},
	{name: "loose, Content-Length first", bareLF: true, folds: true, lengthFirst: true, looseNumber: true, looseNames: true},
}

var (
	errMore = errors.New("the bytes end in the middle of a message")
	errForm = errors.New("no HTTP")
)

// request reads one request from the front of the bytes.
func (r reader) request(in []byte) (rec record, rest []byte, err error) {
	line, rest, err := r.line(in)
	if err != nil {
		return rec, nil, err
	}
	rec.first = line
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return rec, nil, errForm
	}
	rec.method, rec.target = parts[0], parts[1]
	if rec.fields, rest, err = r.block(rest); err != nil {
		return rec, nil, err
	}
	rest, err = r.content(&rec, rest, false)
	return rec, rest, err
}

// response reads one response to a request of the method; ended says that no more bytes will come.
func (r reader) response(in []byte, method string, ended bool) (rec record, rest []byte, err error) {
	line, rest, err := r.line(in)
	if err != nil {
		return rec, nil, err
	}
	rec.first = line
	if !strings.HasPrefix(line, "HTTP/1.1 ") || len(line) < 13 || line[12] != ' ' {
		return rec, nil, errForm
	}
	if rec.fields, rest, err = r.block(rest); err != nil {
		return rec, nil, err
	}
	switch status := rec.status(); {
	case status == 101:
		rec.upgraded, rec.whole = true, true
		return rec, rest, nil
	case status < 200 || status == 204 || status == 304 || method == "HEAD":
		rec.whole = true
		return rec, rest, nil
	case rec.values("content-length") == nil && rec.values("transfer-encoding") == nil:
		rec.body, rec.whole = string(rest), ended // which nobody can tell from a cut one: see lies_test.go
		if !ended {
			return rec, nil, errMore
		}
		return rec, nil, nil
	}
	rest, err = r.content(&rec, rest, true)
	return rec, rest, err
}

func (r *record) status() int {
	status, _ := strconv.Atoi(strings.Split(r.first+"  ", " ")[1])
	return status
}

// line takes a line from the front.
func (r reader) line(in []byte) (string, []byte, error) {
	for i, c := range in {
		switch {
		case c == '\r' && i+1 < len(in) && in[i+1] == '\n':
			return string(in[:i]), in[i+2:], nil
		case c == '\n' && r.bareLF, c == '\r' && r.bareCR && i+1 < len(in):
			return string(in[:i]), in[i+1:], nil
		case c == '\n' && !r.bareLF:
			return "", nil, errForm
		}
	}
	return "", nil, errMore
}

// block reads fields to the empty line.
func (r reader) block(in []byte) (fields []field, rest []byte, err error) {
	for {
		line, rest, err := r.line(in)
		if err != nil {
			return fields, nil, err
		}
		in = rest
		if line == "" {
			return fields, rest, nil
		}
		if r.folds && len(fields) > 0 && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1].value += " " + strings.Trim(line, " \t")
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if !found {
			return fields, nil, errForm
		}
		if r.looseNames {
			name, _, _ = strings.Cut(name, "\x00")
			name = strings.ReplaceAll(strings.Trim(name, " \t\v\f\r"), "_", "-")
		}
		fields = append(fields, field{name, strings.Trim(value, " \t")})
	}
}

// content reads the body.
func (r reader) content(rec *record, in []byte, response bool) ([]byte, error) {
	lengths, codings := rec.values("content-length"), rec.values("transfer-encoding")
	chunked := r.chunked(codings)
	switch {
	case !r.anyChunked && !r.lengthFirst && !r.lastLength && (len(lengths) > 1 || len(codings) > 1 || len(lengths) > 0 && len(codings) > 0):
		return nil, errForm
	case len(codings) > 0 && !chunked && !r.anyChunked && !r.lengthFirst:
		return nil, errForm
	}
	if chunked && (len(lengths) == 0 || !r.lengthFirst) {
		return r.chunks(rec, in)
	}
	if len(lengths) == 0 {
		rec.whole = !response
		return in, nil
	}
	text := lengths[0]
	if r.lastLength {
		text = lengths[len(lengths)-1]
	}
	n, ok := r.number(text, 10)
	if !ok {
		return nil, errForm
	}
	rec.body = string(in[:min(n, int64(len(in)))])
	if int64(len(in)) < n {
		return nil, errMore
	}
	rec.whole = true
	return in[n:], nil
}

func (r reader) chunked(codings []string) bool {
	if r.anyChunked {
		return strings.Contains(strings.ToLower(strings.Join(codings, ",")), "chunked")
	}
	return slices.Equal(codings, []string{"chunked"})
}

// chunks reads a chunked body with its trailers.
func (r reader) chunks(rec *record, in []byte) ([]byte, error) {
	for {
		line, rest, err := r.line(in)
		if err != nil {
			return nil, err
		}
		size, ok := r.number(line, 16)
		if !ok {
			return nil, errForm
		}
		if size == 0 {
			in = rest
			break
		}
		rec.body += string(rest[:min(size, int64(len(rest)))])
		if int64(len(rest)) < size+2 {
			return nil, errMore
		}
		end := rest[size:]
		if !bytes.HasPrefix(end, []byte("\r\n")) {
			return nil, errForm
		}
		in = end[2:]
	}
	trailers, rest, err := r.block(in)
	if err != nil {
		return nil, err
	}
	rec.trailers, rec.whole = trailers, true
	return rest, nil
}

// number reads digits: nothing but digits, unless the reader is loose.
func (r reader) number(text string, base int) (int64, bool) {
	if r.looseNumber {
		text = strings.TrimLeft(text, " \t\v\f")
		text = strings.TrimLeft(text, "+")
		if base == 16 {
			text = strings.TrimPrefix(strings.TrimPrefix(text, "0x"), "0X")
		}
		end := strings.IndexFunc(text, func(c rune) bool {
			return !strings.ContainsRune("0123456789abcdefABCDEF"[:map[int]int{10: 10, 16: 22}[base]], c)
		})
		if end >= 0 {
			text = text[:end]
		}
	}
	n, err := strconv.ParseUint(text, base, 62)
	return int64(n), err == nil //nolint:gosec // 62 bits
}

// all reads requests to the end. An upgraded connection is read up to the head that upgraded it.
func (r reader) all(in []byte, upgrades int) (list []record, err error) {
	for len(in) > 0 {
		rec, rest, err := r.request(in)
		list = append(list, rec)
		if err != nil {
			return list, err
		}
		in = rest
		if rec.values("upgrade") != nil && upgrades > 0 {
			return list, nil
		}
	}
	return list, nil
}
