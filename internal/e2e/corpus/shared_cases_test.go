package corpus

import (
	"slices"
	"strings"
)

// requestCases is the corpus.
func requestCases() []testCase {
	return slices.Concat(pathCases(), hostCases(), methodCases(), fieldCases(), identityCases(), relaxCases(),
		framingCases(), chunkCases(), lineCases(), requestLineCases(), upgradeCases(),
		h2FieldCases(), h2PseudoCases(), h2FramingCases(), h2FrameCases())
}

// both makes two cases of a request that can be said in both protocols.
func both(class, on, name, method, target string, w want, fields ...string) []testCase {
	var lines []string
	for i := 0; i+1 < len(fields); i += 2 {
		lines = append(lines, fields[i]+": "+fields[i+1])
	}
	lower := slices.Clone(fields)
	for i := 0; i < len(lower); i += 2 {
		lower[i] = strings.ToLower(lower[i])
	}
	return []testCase{
		{class: class, on: on, name: name, send: h1(method, target, lines...), want: w},
		{class: class, on: on, name: name, frames: h2(method, target, lower...), want: w},
	}
}

// pathCases are spellings of paths. /admin is denied; what has one canonical form is judged and forwarded in that form, what two readers
// read in two ways is refused.
func pathCases() (cases []testCase) {
	for _, row := range []struct {
		target string
		want   want
	}{
		{"/admin", denied()},
		{"/admin/", denied()},
		{"/admin/users", denied()},
		{"/admin?x=/public", denied()},
		{"/public/../admin", denied()},
		{"/public/./../admin/.", denied()},
		{"//admin", denied()},
		{"///admin", denied()},
		{"/.//admin", denied()},
		{"/./admin", denied()},
		{"/a//..//admin", denied().because("slashes are merged first, as most servers do: /a/../admin")},
		{"/%61dmin", denied()},
		{"/%61%64%6d%69%6e", denied()},
		{"/%2e%2e/admin", denied()},
		{"/public/%2e%2e/admin", denied()},
		{"/public/%2E%2e/admin", denied()},
		{"/public/.%2e/admin", denied()},
		{"/public/%2e/../admin", denied()},
		{"/../../admin", denied()},
		{"/admin/..", to("GET", "/")},
		{"/admin/../ok", to("GET", "/ok")},
		{"/admin/%2e%2e/ok", to("GET", "/ok")},
		{"/a/b/../../ok", to("GET", "/ok")},
		{"/a/.", to("GET", "/a/")},
		{"/a/..", to("GET", "/")},
		{"/..", to("GET", "/")},
		{"/a//b", to("GET", "/a/b")},
		{"/a/b//", to("GET", "/a/b/")},
		{"/%7Ea%2D%5f", to("GET", "/~a-_")},
		{"/caf%c3%a9", to("GET", "/caf%C3%A9")},
		{"/a%20b", to("GET", "/a%20b")},
		{"/a+b", to("GET", "/a+b")},
		{"/a:b@c!$&'()*+,=d", to("GET", "/a:b@c!$&'()*+,=d")},
		{"/ADMIN", to("GET", "/ADMIN").because("paths are compared by their letters, RFC 3986 section 6.2.2.1")},
		{"/...", to("GET", "/...")},
		{"/.a/..b", to("GET", "/.a/..b")},
		{"/administrator", to("GET", "/administrator")},
		{"/%3f", to("GET", "/%3F")},
		{"/a%3Fadmin", to("GET", "/a%3Fadmin")},
		{"/a%23b", to("GET", "/a%23b")},
		{"/public/..%2fadmin", bad()},
		{"/public%2f..%2fadmin", bad()},
		{"/public%2F..%2Fadmin", bad()},
		{"/%2fadmin", bad()},
		{"/%2Fadmin", bad()},
		{"/a%2fb", bad()},
		{"/admin%2fusers", bad()},
		{"/public/%2e%2e%2fadmin", bad()},
		{"/public/..;/admin", bad()},
		{"/public/..;a=b/admin", bad()},
		{"/admin;a=b", bad()},
		{"/;/admin", bad()},
		{"/a;b", bad()},
		{"/a%3bb", bad().because("a server that decodes before it looks for parameters reads /a")},
		{`/\admin`, bad()},
		{`\admin`, bad()},
		{`/public\..\admin`, bad()},
		{"/public%5c..%5cadmin", bad()},
		{"/public/..%5Cadmin", bad()},
		{"/adm%2569n", bad()},
		{"/%252e%252e/admin", bad()},
		{"/public/%252e%252e%252fadmin", bad()},
		{"/a%255cb", bad()},
		{"/a%25", to("GET", "/a%25")},
		{"/a%25zz", to("GET", "/a%25zz")},
		{"/admin%00", bad()},
		{"/admin%00.html", bad()},
		{"/%00/admin", bad()},
		{"/a%01", bad()},
		{"/a%0a", bad()},
		{"/a%0d%0aX-Smuggled:%20smuggled", bad()},
		{"/a%09b", bad()},
		{"/a%7f", bad()},
		{"/a%80", bad()},
		{"/%ff", bad()},
		{"/%c0%af..%c0%afadmin", bad()},
		{"/%c0%ae%c0%ae/admin", bad()},
		{"/%e0%80%afadmin", bad()},
		{"/%f0%80%80%af", bad()},
		{"/%ed%a0%80", bad().because("a surrogate is no UTF-8")},
		{"/%c3", bad()},
		{"/%c0%80", bad()},
		{"/%u002e%u002e/admin", bad()},
		{"/%zz", bad()},
		{"/%", bad()},
		{"/%6", bad()},
		{"/a%2", bad()},
		{"/%2%65%2e/admin", bad()},
		{"/a\x80", bad()},
		{"/caf\xc3\xa9", bad()},
		{"/a\x01", bad()},
		{"/a\x7f", bad()},
		{"/a\x00", bad()},
		{"/a#b", bad()},
		{"/#/../admin", bad()},
		{"#", bad()},
		{"/a?b#c", bad()},
		// RFC 3986 knows no such octets in a path: refused, or encoded before the path is judged, which is one form too.
		{`/a"b`, to("GET", "/a%22b").or("", 400)},
		{"/a<b>", to("GET", "/a%3Cb%3E").or("", 400)},
		{"/a[b]", to("GET", "/a%5Bb%5D").or("", 400)},
		{"/a{b}", to("GET", "/a%7Bb%7D").or("", 400)},
		{"/a|b^c`d", to("GET", "/a%7Cb%5Ec%60d").or("", 400)},
		{"", bad()},
		{"admin", bad()},
		{"../admin", bad()},
		{"ok", bad()},
		{"?x", bad()},
		{"*", bad().because("only OPTIONS has an asterisk, RFC 9112 section 3.2.4")},
		{"/*", to("GET", "/*")},
		{"**", bad()},
		{"%2fadmin", bad()},
		{"%2Fok", bad()},
		// Queries are no part of what is judged, and are forwarded as they came.
		{"/ok?", to("GET", "/ok").because("an empty query says nothing")},
		{"/ok?x=..%2fadmin&y=", to("GET", "/ok?x=..%2fadmin&y=")},
		{"/ok?/../admin", to("GET", "/ok?/../admin")},
		{"/ok??a", to("GET", "/ok??a")},
		{"/ok?a;b", to("GET", "/ok?a;b")},
		{"/ok?%zz", to("GET", "/ok?%zz").or("no escape, but nothing that is judged", 400)},
		{"/ok?%00", to("GET", "/ok?%00").or("as above", 400)},
		{"/ok?%0d%0aX-Smuggled:%20a", to("GET", "/ok?%0d%0aX-Smuggled:%20a").or("as above", 400)},
		{`/ok?a\b`, to("GET", `/ok?a\b`).or("against RFC 3986, but nothing that is judged", 400)},
		{"/ok?a\x80", bad()},
		{"/ok?a\x00", bad()},
		{"/ok?a[0]=1", to("GET", "/ok?a[0]=1").or("brackets in queries are against RFC 3986, and everywhere", 400)},
		{"/ok?a|b", to("GET", "/ok?a|b").or("as above", 400)},
		{`/ok?a="b"`, to("GET", `/ok?a="b"`).or("as above", 400)},
		{"/ok?http://" + internal + "/admin", to("GET", "/ok?http://"+internal+"/admin")},
	} {
		cases = append(cases, both("path", open, "path "+row.target, "GET", row.target, row.want)...)
	}
	for _, row := range []struct {
		target string
		want   want
	}{
		{"/ok", to("GET", "/ok")},
		{"/ok/a", to("GET", "/ok/a")},
		{"/ok/a%20b", to("GET", "/ok/a%20b")},
		{"/o%6b", to("GET", "/ok")},
		{"/x/../ok", to("GET", "/ok")},
		{"//ok", to("GET", "/ok")},
		{"/ok/", denied()},
		{"/ok/.", denied()},
		{"/ok//a", to("GET", "/ok/a")},
		{"/ok/a/b", denied()},
		{"/ok/a/../b", to("GET", "/ok/b")},
		{"/ok/..", denied()},
		{"/ok/../x", denied()},
		{"/OK", denied()},
		{"/ok%20", denied()},
		{"/ok.", denied()},
		{"/ok%3F", denied()},
		{"/ok%2fa", bad()},
		{"/ok%2f..%2fx", bad()},
		{"/x?/ok", denied()},
		{"/ok?../x", to("GET", "/ok?../x")},
	} {
		cases = append(cases, both("exact path", exact, "path "+row.target, "GET", row.target, row.want, "X-Tier", "gold")...)
	}
	return cases
}

// methodCases are spellings of methods. DELETE is denied.
func methodCases() (cases []testCase) {
	for _, row := range []struct {
		method string
		want   want
	}{
		{"DELETE", denied()},
		{"delete", bad(400, 501)},
		{"Delete", bad(400, 501)},
		{"get", bad(400, 501)},
		{"PATCH", to("PATCH", "/ok")},
		{"OPTIONS", to("OPTIONS", "/ok")},
		{"HEAD", to("HEAD", "/ok")},
		{"TRACE", bad(400, 403, 405, 501).or("it echoes what the proxy added, but a policy can name it", 200)},
		{"TRACK", bad(400, 403, 405, 501).or("a token that means nothing", 200)},
		{"PURGE", bad(400, 501).or("a token like any other", 200)},
		{"PROPFIND", bad(400, 501).or("a token like any other", 200)},
		{"GE T", bad()},
		{"G(T", bad()},
		{"G\x00T", bad()},
		{"GET\x7f", bad()},
		{"G\xc3\x89T", bad()},
		{"GET,DELETE", bad()},
		{"GET/", bad()},
		{"\"GET\"", bad()},
		{strings.Repeat("A", 200), bad(400, 414, 431, 501)},
		{"PRI", bad(400, 405, 501, 505).or("RFC 9113 section 11.6 reserves it, with the target * alone", 200)},
	} {
		w := row.want
		if w.maybe && w.seen == nil {
			w.seen = &seen{method: row.method, host: app, target: "/ok"}
		}
		name := "method " + row.method[:min(len(row.method), 20)]
		cases = append(cases, testCase{class: "method", name: name, send: h1(row.method, "/ok"), want: w},
			testCase{class: "method", name: name, frames: h2(row.method, "/ok"), want: w})
	}
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		cases = append(cases, both("method", open, name, "POST", "/ok", to("POST", "/ok", "!"+strings.ToLower(name)).because(
			"some frameworks take it for the method, so that it would be DELETE that was not judged").or("refusing is right too", 400, 403),
			name, "DELETE", "Content-Length", "0")...)
	}
	cases = append(cases, both("method", open, "asterisk", "OPTIONS", "*", to("OPTIONS", "*"))...)
	cases = append(cases, both("method", open, "GET with asterisk and query", "OPTIONS", "*?x", bad())...)
	cases = append(cases, both("method", exact, "OPTIONS where GET is allowed", "OPTIONS", "/ok", denied(), "X-Tier", "gold")...)
	cases = append(cases, both("method", exact, "HEAD where GET is allowed", "HEAD", "/ok", denied(), "X-Tier", "gold")...)
	return cases
}

// begins says that the head may be at the upstream before the end is refused.
func (w want) begins() want {
	w.begun = true
	return w
}
