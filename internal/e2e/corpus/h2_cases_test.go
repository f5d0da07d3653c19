package corpus

import "strings"

// h2FieldCases are names and values that HTTP/2 can carry and HTTP/1.1 cannot, or not with the same meaning.
func h2FieldCases() (cases []testCase) {
	add := func(name string, w want, fields ...string) {
		cases = append(cases, testCase{class: "h2 fields", name: name, frames: h2("GET", "/ok", fields...), want: w})
	}
	add("line break in a value", bad(), "x-a", "1\r\nX-Smuggled: smuggled")
	add("LF in a value", bad(), "x-a", "1\nX-Smuggled: smuggled")
	add("CR in a value", bad(), "x-a", "1\rX-Smuggled: smuggled")
	add("a whole request in a value", bad(), "x-a", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	add("a body's length in a value", bad(), "x-a", "1\r\nContent-Length: 5")
	add("chunked in a value", bad(), "x-a", "1\r\nTransfer-Encoding: chunked")
	add("NUL in a value", bad(), "x-a", "1\x002")
	add("line break alone", bad(), "x-a", "\r\n")
	add("line break at the end of a value", bad(), "x-a", "1\r\n")
	for _, c := range []struct{ name, octet string }{{"01", "\x01"}, {"vertical tab", "\v"}, {"form feed", "\f"}, {"escape", "\x1b"}, {"delete", "\x7f"}, {"unit separator", "\x1f"}} {
		add(c.name+" in a value", bad(), "x-a", "1"+c.octet+"2")
		add(c.name+" in a name", bad(), "x"+c.octet+"a", "1")
	}
	add("line break in a name", bad(), "x-a\r\nx-smuggled", "smuggled")
	add("LF in a name", bad(), "x-a\nx-b", "1")
	add("line break and a value in a name", bad(), "x-a: 1\r\ntransfer-encoding: chunked\r\nx-b", "1")
	add("NUL in a name", bad(), "x\x00a", "1")
	add("colon in a name", bad(), "x:a", "1")
	add("colon at the end of a name", bad(), "x-a:", "1")
	add("a field in a name", bad(), "x-role: guest", "1")
	add("a colon alone as a name", bad(), ":", "1")
	add("an empty name", bad(), "", "1")
	add("an empty name first", bad(), "", "1", "x-a", "2")
	add("a space in a name", bad(), "x a", "1")
	add("a space at the end of a name", bad(), "x-role ", "guest")
	add("a space at the beginning of a name", bad(), " x-role", "guest")
	add("a tab in a name", bad(), "x-role\t", "guest")
	add("upper case", bad(), "X-A", "1")
	add("upper case in a denied field", bad(), "X-Role", "guest")
	add("one letter in upper case", bad(), "x-rolE", "guest")
	add("upper case Transfer-Encoding", bad(), "Transfer-Encoding", "chunked")
	for _, c := range `"(),/;<=>?@[\]{}` {
		add("a name with "+string(c), bad(), "x"+string(c)+"a", "1")
	}
	add("a name above 127", bad(), "x-\xc3\xa9", "1")
	add("an underscore", bad(), "x_a", "1")
	add("an underscore in a denied field", bad(), "x_role", "guest")
	// RFC 9113 section 8.2.1: a value MUST NOT begin or end with a space or tab. Envoy lets them past an exact deny, and HTTP/1.1 trims them.
	for name, value := range map[string]string{"a space before": " guest", "a space behind": "guest ", "spaces around": " guest ", "a tab before": "\tguest", "a tab behind": "guest\t"} {
		add("denied value with "+name, bad(), "x-role", value)
		add("harmless value with "+name, bad(), "x-a", value)
	}
	add("a value of one space", bad(), "x-a", " ")
	add("an empty value", to("GET", "/ok", "x-a: "), "x-a", "")
	add("a value with blanks inside", to("GET", "/ok", "x-a: 1 \t2"), "x-a", "1 \t2")
	add("a value above 127", to("GET", "/ok", "x-a: caf\xc3\xa9").or("obs-text", 400), "x-a", "caf\xc3\xa9")
	// RFC 9113 section 8.2.2: connection-specific fields are malformed.
	for _, f := range [][2]string{
		{"connection", "close"}, {"connection", "keep-alive"}, {"connection", "x-role"}, {"connection", ""}, {"keep-alive", "timeout=5"}, {"proxy-connection", "keep-alive"},
		{"transfer-encoding", "chunked"}, {"transfer-encoding", "identity"}, {"transfer-encoding", "Chunked"}, {"transfer-encoding", ""}, {"transfer-encoding", "chunked\r\nx: y"},
		{"upgrade", "h2c"}, {"upgrade", "websocket"}, {"te", "gzip"}, {"te", "chunked"}, {"te", "trailers, gzip"}, {"te", "trailers;q=0.5"}, {"te", "Trailers "}, {"http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"},
	} {
		w := bad()
		if f[0] == "http2-settings" {
			w = to("GET", "/ok", "!http2-settings").or("named by RFC 7540 only, where it goes with Connection", 400)
		}
		add(strings.TrimSpace(f[0]+" "+strings.TrimSpace(f[1])), w, f[0], f[1])
	}
	add("te: trailers", to("GET", "/ok"), "te", "trailers")
	add("te: TRAILERS", to("GET", "/ok").or("a token without case, for some", 400), "te", "TRAILERS")
	add("transfer-encoding behind much else", bad(), append(pairs("x-a", "1", 80), "transfer-encoding", "chunked")...)
	// Cookies may come in crumbs, RFC 9113 section 8.2.3; upstream they are one.
	add("cookie crumbs", to("GET", "/ok", "cookie: a=1; b=2; c=3"), "cookie", "a=1", "cookie", "b=2", "cookie", "c=3")
	add("a crumb with a line break", bad(), "cookie", "a=1", "cookie", "b\r\nX-Smuggled: smuggled")
	add("an empty crumb", to("GET", "/ok").or("nothing to join", 400), "cookie", "a=1", "cookie", "")
	add("two hundred crumbs", bad(431, 400), pairs("cookie", "a=1", 200)...)
	add("two hundred empty crumbs", bad(431, 400), pairs("cookie", "", 200)...)
	add("two hundred fields", bad(431, 400), pairs("x-a", "1", 200)...)
	add("a value over 64 KiB", bad(431, 400), "x-a", strings.Repeat("a", 100<<10))
	add("a name over 64 KiB", bad(431, 400), strings.Repeat("a", 100<<10), "1")
	add("64 KiB in many fields", bad(431, 400), pairs("x-a", strings.Repeat("a", 1000), 90)...)
	add("90 fields", to("GET", "/ok"), pairs("x-a", "1", 90)...)
	add("priority", to("GET", "/ok"), "priority", "u=1")
	add("expect", to("GET", "/ok"), "expect", "100-continue")
	add("expect of something else", bad(417, 400), "expect", "200-ok")
	add("sec-websocket-key without an upgrade", to("GET", "/ok"), "sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version", "13")
	return cases
}

// pairs is a field many times.
func pairs(name, value string, n int) (fields []string) {
	for range n {
		fields = append(fields, name, value)
	}
	return fields
}

// h2PseudoCases are pseudo-headers, RFC 9113 section 8.3.
func h2PseudoCases() (cases []testCase) {
	add := func(name string, w want, fields ...string) {
		cases = append(cases, testCase{class: "h2 pseudo", name: name, frames: block(fields...), want: w})
	}
	const m, s, a, p = ":method", ":scheme", ":authority", ":path"
	add("no :method", bad(), s, "http", a, app, p, "/ok")
	add("no :scheme", bad(), m, "GET", a, app, p, "/ok")
	add("no :path", bad(), m, "GET", s, "http", a, app)
	add("none at all", bad(), "x-a", "1", "host", app)
	add("empty :method", bad(), m, "", s, "http", a, app, p, "/ok")
	add("empty :scheme", bad(), m, "GET", s, "", a, app, p, "/ok")
	add("empty :path", bad(), m, "GET", s, "http", a, app, p, "")
	add("another order", to("GET", "/ok"), p, "/ok", a, app, s, "http", m, "GET")
	add("two :method", bad(), m, "GET", m, "DELETE", s, "http", a, app, p, "/ok")
	add("two :method, the denied first", bad(), m, "DELETE", m, "GET", s, "http", a, app, p, "/ok")
	add("the same :method twice", bad(), m, "GET", m, "GET", s, "http", a, app, p, "/ok")
	add("two :path", bad(), m, "GET", s, "http", a, app, p, "/ok", p, "/admin")
	add("two :path, the denied first", bad(), m, "GET", s, "http", a, app, p, "/admin", p, "/ok")
	add("the same :path twice", bad(), m, "GET", s, "http", a, app, p, "/ok", p, "/ok")
	add("two :scheme", bad(), m, "GET", s, "http", s, "https", a, app, p, "/ok")
	add("an unknown one", bad(), m, "GET", s, "http", a, app, p, "/ok", ":unknown", "1")
	add("an unknown one first", bad(), ":x-role", "guest", m, "GET", s, "http", a, app, p, "/ok")
	add(":status in a request", bad(), m, "GET", s, "http", a, app, p, "/ok", ":status", "200")
	add(":protocol without CONNECT", bad(), m, "GET", s, "http", a, app, p, "/ok", ":protocol", "websocket")
	add(":host", bad(), m, "GET", s, "http", a, app, p, "/ok", ":host", internal)
	add(":PATH", bad(), m, "GET", s, "http", a, app, ":PATH", "/ok")
	add("a second :Path in upper case", bad(), m, "GET", s, "http", a, app, p, "/ok", ":Path", "/admin")
	add(":path behind a field", bad(), m, "GET", s, "http", a, app, "x-a", "1", p, "/ok")
	add(":method behind a field", bad(), s, "http", a, app, p, "/ok", "x-a", "1", m, "GET")
	add(":authority behind a field", bad(), m, "GET", s, "http", p, "/ok", "x-a", "1", a, app)
	add("a second :path behind the fields", bad(), m, "GET", s, "http", a, app, p, "/ok", "x-a", "1", p, "/admin")
	for _, path := range []string{"/ok HTTP/1.1\r\nX-Smuggled: smuggled", "/ok HTTP/1.1\r\n\r\nGET /smuggled", "/ok\r\n", "/ok\n", "/ok\r", "/ok ", " /ok", "/o k", "/ok HTTP/1.1", "/ok\tx", "ok", "http://" + app + "/ok", "//" + internal, "/ok?a b", "/ok?a\r\nb", "/ok#a", "*", "/\x00", "/ok\x7f", "http:/ok", app + ":80"} {
		w := bad()
		if strings.HasPrefix(path, "//") {
			w = to("GET", "/"+internal)
		}
		if strings.HasPrefix(path, "http://") {
			w = bad().because("RFC 9113 section 8.3.1: the path and query parts only")
		}
		add(":path "+strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(path), w, m, "GET", s, "http", a, app, p, path)
	}
	add("asterisk with GET", bad(), m, "GET", s, "http", a, app, p, "*")
	add("asterisk with OPTIONS", to("OPTIONS", "*"), m, "OPTIONS", s, "http", a, app, p, "*")
	add("OPTIONS with an empty :path", bad(), m, "OPTIONS", s, "http", a, app, p, "")
	for _, method := range []string{"GET /smuggled HTTP/1.1\r\nX-A:", "GET ", " GET", "GET\r\n", "GET /ok HTTP/1.1", "G\tT", "GET\n", "get", "G:T"} {
		add(":method "+strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(method), bad(400, 501), m, method, s, "http", a, app, p, "/ok")
	}
	for _, scheme := range []string{"http://" + internal, "http://" + app + "/smuggled?", "ht tp", "http\r\nX-Smuggled: smuggled", "1http", "http:", "httpx", "ftp", "file", "javascript", "\x00", "ws", " http", "http "} {
		w := bad(400, 421)
		add(":scheme "+strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(scheme), w, m, "GET", s, scheme, a, app, p, "/ok")
	}
	add(":scheme https over plaintext", to("GET", "/ok").or("the scheme is the proxy's matter: it has to be corrected, or refused", 400, 421), m, "GET", s, "https", a, app, p, "/ok")
	add(":scheme HTTP", to("GET", "/ok").or("schemes know no case", 400, 421), m, "GET", s, "HTTP", a, app, p, "/ok")
	// CONNECT is off; RFC 8441's only for websocket, on routes that allow it.
	add("CONNECT", bad(400, 403, 405, 501), m, "CONNECT", a, app+":80")
	add("CONNECT to ssh", bad(400, 403, 405, 501), m, "CONNECT", a, "127.0.0.1:22")
	add("CONNECT with :scheme and :path", bad(400, 403, 405, 501), m, "CONNECT", s, "http", a, app, p, "/ok")
	add("CONNECT with :path only", bad(400, 403, 405, 501), m, "CONNECT", a, app, p, "/ok")
	add("CONNECT without :authority", bad(400, 403, 405, 501), m, "CONNECT")
	add("extended CONNECT where it is not allowed", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/ok", "sec-websocket-version", "13")
	add("extended CONNECT on a denied path", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/admin", "sec-websocket-version", "13")
	add("extended CONNECT to a denied host", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, internal, p, "/ws/accept", "sec-websocket-version", "13")
	add("extended CONNECT of connect-udp", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "connect-udp", s, "http", a, app, p, "/ws/accept")
	add("extended CONNECT of WebSocket in other letters", notATunnel("/ws/refuse"), m, "CONNECT", ":protocol", "WebSocket", s, "http", a, app, p, "/ws/refuse", "sec-websocket-version", "13")
	add("extended CONNECT that the upstream does not grant", notATunnel("/ws/refuse"), m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/ws/refuse", "sec-websocket-version", "13")
	add("extended CONNECT of h2c", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "h2c", s, "http", a, app, p, "/ws/accept")
	add("extended CONNECT of nothing", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "", s, "http", a, app, p, "/ws/accept")
	add("extended CONNECT of two", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", ":protocol", "h2c", s, "http", a, app, p, "/ws/accept")
	add("extended CONNECT with a line break", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket\r\nX-Smuggled: smuggled", s, "http", a, app, p, "/ws/accept")
	add("extended CONNECT without :path", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, app)
	add("extended CONNECT without :scheme", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", a, app, p, "/ws/accept")
	add("extended CONNECT without :authority", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", p, "/ws/accept")
	add("extended CONNECT that names a host twice", bad(400, 403, 405, 421, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/ws/accept", "host", internal)
	add("extended CONNECT to a path that leaves the route", bad(400, 403, 405, 501), m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/ws/../admin", "sec-websocket-version", "13")
	cases = append(cases, testCase{class: "h2 pseudo", name: "extended CONNECT that the upstream grants", want: to("GET", "/ws/accept").tunnels(),
		frames: []frame{{fields: []string{m, "CONNECT", ":protocol", "websocket", s, "http", a, app, p, "/ws/accept", "sec-websocket-version", "13"}}, {data: smuggled, end: true}}})
	add("an upgrade by fields", bad(), m, "GET", s, "http", a, app, p, "/ws/accept", "connection", "upgrade", "upgrade", "websocket", "sec-websocket-version", "13", "sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
	return cases
}

// notATunnel is an upgrade that the upstream does not grant, though it answers with 200 over HTTP/1.1: over HTTP/2 that would be a tunnel.
func notATunnel(target string) want {
	w := to("GET", target).or("the upstream is asked, or not", 400, 401, 403, 404, 501, 502).even()
	w.status = w.status[1:]
	return w
}

// h2FramingCases are lengths, bodies and trailers.
func h2FramingCases() (cases []testCase) {
	add := func(name string, w want, frames ...frame) {
		cases = append(cases, testCase{class: "h2 framing", name: name, frames: frames, want: w})
	}
	head := func(fields ...string) frame { return frame{fields: h2head("POST", "/ok", fields...)} }
	last := func(fields ...string) frame { return frame{fields: h2head("POST", "/ok", fields...), end: true} }
	data := func(text string) frame { return frame{data: text} }
	end := func(text string) frame { return frame{data: text, end: true} }
	trailer := func(fields ...string) frame { return frame{fields: fields, end: true} }
	hello := to("POST", "/ok").with("hello")
	const inside = "GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"

	add("no length", hello, head(), end("hello"))
	add("the right length", to("POST", "/ok", "content-length: 5").with("hello"), head("content-length", "5"), end("hello"))
	add("in two frames", hello, head(), data("he"), end("llo"))
	add("an empty frame at the end", hello, head(), data("hello"), end(""))
	add("a body that is a request", to("POST", "/ok").with(inside), head(), end(inside))
	add("a GET whose body is a request", to("GET", "/ok").with(inside), frame{fields: h2head("GET", "/ok")}, end(inside))
	add("a body that ends like chunks", to("POST", "/ok").with("0\r\n\r\n"+inside), head(), end("0\r\n\r\n"+inside))
	add("a length shorter than the body", cut(), head("content-length", "3"), end("hello"))
	add("a length shorter than the first frame, which is a request", cut(), head("content-length", "0"), end(inside))
	add("a length that is passed by a later frame", cut(), head("content-length", "3"), data("hel"), frame{data: "lo", end: true, later: true})
	add("the length 0, and later a body", cut(), head("content-length", "0"), frame{data: "hello", end: true, later: true})
	add("the length 0, an empty frame and a body", cut(), head("content-length", "0"), data(""), end("hello"))
	add("a length that is not reached, and later the end", cut(), head("content-length", "6"), data("hel"), frame{data: "lo", end: true, later: true})
	add("malformed trailers, later", cut(), head("content-length", "5"), data("hello"), frame{fields: []string{":path", "/admin"}, end: true, later: true})
	add("the length 0 and trailers", to("POST", "/ok").or("no body, and the end", 400).begins(), head("content-length", "0"), trailer("x-t", "1"))
	add("a length longer than the body", cut(), head("content-length", "6"), end("hello"))
	add("a length longer than the body in two frames", cut(), head("content-length", "6"), data("hel"), end("lo"))
	add("a length and no body", cut(), last("content-length", "5"))
	add("a length and an empty body", cut(), head("content-length", "5"), end(""))
	add("the length 0 and a body", cut(), head("content-length", "0"), end("hello"))
	add("a length, and trailers instead of the rest", cut(), head("content-length", "5"), data("hel"), trailer("x-t", "1"))
	add("more than the length before trailers", cut(), head("content-length", "3"), data("hello"), trailer("x-t", "1"))
	add("the length 0 and the end", to("POST", "/ok"), last("content-length", "0"))
	for _, lengths := range [][]string{
		{"5", "5"}, {"5", "6"}, {"6", "5"}, {"5", "0"}, {"5, 5"}, {"5,5"}, {"+5"}, {"-5"}, {"0x5"}, {" 5"}, {"5 "}, {""}, {"five"}, {"5_0"}, {"5.0"}, {"5\x00"}, {"5\r\n"}, {"5\r\nTransfer-Encoding: chunked"},
		{"18446744073709551621"}, {"9223372036854775808"}, {"99999999999999999999999999"}, {"5", ""}, {"1e1"}, {"٥"},
	} {
		var fields []string
		for _, l := range lengths {
			fields = append(fields, "content-length", l)
		}
		name := strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace("content-length " + strings.Join(lengths, " and "))
		add(name, bad(400, 413), head(fields...), end("hello"))
	}
	add("zeros before the length", to("POST", "/ok", "content-length: 5").with("hello").or("1*DIGIT", 400), head("content-length", "005"), end("hello"))
	add("content_length", bad(), head("content_length", "5"), end("hello"))
	add("a length and transfer-encoding", bad(), head("content-length", "5", "transfer-encoding", "chunked"), end("hello"))
	add("transfer-encoding and chunks", bad(), head("transfer-encoding", "chunked"), end("5\r\nhello\r\n0\r\n\r\n"))
	add("transfer-encoding and the end of chunks", bad(), head("transfer-encoding", "chunked"), end("0\r\n\r\n"+inside))
	add("a denied request with a body", denied(), frame{fields: h2head("DELETE", "/ok")}, end("hello"))
	add("a denied request with a wrong length", refused(403, 400).resets(), frame{fields: h2head("DELETE", "/ok", "content-length", "3")}, end("hello"))

	add("trailers", hello.trailing("x-t: 1"), head(), data("hello"), trailer("x-t", "1"))
	add("trailers without body", to("POST", "/ok").trailing("x-t: 1"), head(), trailer("x-t", "1"))
	add("empty trailers", hello, head(), data("hello"), trailer([]string{}...).empty())
	for _, f := range [][]string{
		{":path", "/admin"}, {":method", "DELETE"}, {":authority", internal}, {":status", "200"}, {":unknown", "1"}, {"x-t", "1", ":path", "/admin"},
		{"X-T", "1"}, {"x t", "1"}, {"", "1"}, {"x-t", "1\r\nX-Smuggled: smuggled"}, {"x-t", "1\x00"}, {"x-t\r\nx", "1"}, {"x-t:", "1"}, {"connection", "close"}, {"transfer-encoding", "chunked"}, {"x-t", " 1"}, {"x-t", "1 "},
	} {
		name := strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace("malformed trailers " + strings.Join(f, " "))
		add(name, cut(), head(), data("hello"), trailer(f...))
	}
	for _, f := range [][]string{
		{"content-length", "0"}, {"content-length", "5"}, {"host", internal}, {"x-role", "guest"}, {"te", "trailers"}, {"trailer", "x"}, {"content-type", "a"}, {"cookie", "spoofed=1"}, {"expect", "100-continue"},
		{"x-forwarded-for", "spoofed"}, {"x-forwarded-client-cert", "spoofed"}, {"x_forwarded_client_cert", "spoofed"}, {"x-request-id", "spoofed"}, {"x-postern-principal", "spoofed"},
	} {
		add("the trailer "+f[0]+" "+f[1], hello.trailing("!"+f[0]).or("RFC 9110 section 6.5.1: dropped or refused", 400).begins(), head(), data("hello"), trailer(f...))
	}
	add("trailers that do not end the stream", cut(), head(), data("hello"), frame{fields: []string{"x-t", "1"}}, end(""))
	add("trailers twice", cut(), head(), data("hello"), frame{fields: []string{"x-t", "1"}}, trailer("x-t", "2"))
	add("a request as trailers", cut(), head(), data("hello"), last())
	add("trailers over many KiB", cut(400, 431), head(), data("hello"), trailer("x-t", strings.Repeat("a", 60<<10)))
	add("a thousand trailers", cut(400, 431), head(), data("hello"), trailer(pairs("x-t", "1", 1000)...))
	return cases
}

func (w want) resets() want {
	w.reset = true
	return w
}

// empty makes a block without fields of what would be taken for DATA.
func (f frame) empty() frame { return frame{raw: rawFrame(1, 0x5, 1, "")} }

// rawFrame is any frame at all: type, flags, stream and payload.
func rawFrame(kind, flags byte, id uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}) + payload
}

// h2FrameCases hide a request in the order, form or number of frames. The connection or the stream ends; nothing reaches the upstream.
func h2FrameCases() (cases []testCase) {
	add := func(name string, w want, frames ...frame) {
		cases = append(cases, testCase{class: "h2 frames", name: name, frames: frames, want: w})
	}
	raw := func(kind, flags byte, id uint32, payload string) frame {
		return frame{raw: rawFrame(kind, flags, id, payload)}
	}
	const headers, dataFrame, rst, settings, push, ping, goAway, window, continuation = 1, 0, 3, 4, 5, 6, 7, 8, 9
	ok := frame{fields: h2head("GET", "/ok"), end: true}
	add("CONTINUATION", to("GET", "/ok", "x-a: "+strings.Repeat("a", 300)), frame{fields: h2head("GET", "/ok", "x-a", strings.Repeat("a", 300)), end: true, split: 3})
	add("a block cut anywhere", to("GET", "/ok").or("frames of one byte are what a flood is made of", 400), frame{fields: h2head("GET", "/ok"), end: true, split: 60})
	add("a denied request over many frames", denied().resets(), frame{fields: h2head("GET", "/admin"), end: true, split: 20})
	add("padding", to("POST", "/ok").with("hello"), frame{fields: h2head("POST", "/ok"), padding: 100}, frame{data: "hello", padding: 200, end: true})
	add("padding that is counted as length", cut(), frame{fields: h2head("POST", "/ok", "content-length", "25")}, frame{data: "hello", padding: 19, end: true})
	add("padding longer than the frame", cut(), frame{fields: h2head("POST", "/ok")}, raw(dataFrame, 0x9, 1, "\xffhello"))
	add("padding longer than the block", bad(), raw(headers, 0xd, 1, "\xff\x82"))
	add("a block that is no HPACK", bad(), raw(headers, 0x5, 1, "\xff\xff\xff\xff\xff\xff"))
	add("an index of HPACK that is none", bad(), raw(headers, 0x5, 1, "\xfe"))
	add("index 0 of HPACK", bad(), raw(headers, 0x5, 1, "\x80"))
	add("a table larger than allowed", bad(), raw(headers, 0x5, 1, "\x3f\xe1\xff\x03\x82"))
	add("a cut string of HPACK", bad(), raw(headers, 0x5, 1, "\x82\x86\x84\x41\x0fapp"))
	add("a string of bad Huffman code", bad(), raw(headers, 0x5, 1, "\x82\x86\x84\x41\x84\xff\xff\xff\xff"))
	add("HEADERS on stream 0", bad(), raw(headers, 0x5, 0, "\x82\x86\x84"))
	add("HEADERS on stream 2", bad(), raw(headers, 0x5, 2, "\x82\x86\x84"))
	add("DATA on stream 0", bad(), raw(dataFrame, 0x1, 0, "hello"))
	add("DATA on an idle stream", bad(), raw(dataFrame, 0x1, 1, "hello"))
	add("DATA after the end", to("GET", "/ok").or("RFC 9113 section 5.1: an error of the stream, which may have been answered", 400).even(), ok, raw(dataFrame, 0x1, 1, "GET /smuggled HTTP/1.1\r\n\r\n"))
	add("a second request on a stream that ended", to("GET", "/ok").or("as above", 400).even(), ok, frame{fields: h2head("GET", "/ok2"), end: true})
	add("CONTINUATION without HEADERS", bad(), raw(continuation, 0x4, 1, "\x82\x86\x84"))
	add("CONTINUATION of another stream", bad(), raw(headers, 0x1, 1, "\x82\x86"), raw(continuation, 0x4, 3, "\x84"))
	add("a frame between HEADERS and CONTINUATION", bad(), raw(headers, 0x1, 1, "\x82\x86"), raw(ping, 0, 0, "12345678"), raw(continuation, 0x4, 1, "\x84"))
	add("DATA between HEADERS and CONTINUATION", bad(), raw(headers, 0x0, 1, "\x82\x86"), raw(dataFrame, 0x1, 1, "hello"))
	add("an unknown frame between HEADERS and CONTINUATION", bad(), raw(headers, 0x1, 1, "\x82\x86"), raw(0xbb, 0, 0, "a"), raw(continuation, 0x4, 1, "\x84"))
	add("a block without end", bad(408), raw(headers, 0x1, 1, "\x82\x86\x84"))
	add("a thousand empty CONTINUATIONs", bad(), frame{raw: rawFrame(headers, 0x1, 1, "\x82\x86\x84") + strings.Repeat(rawFrame(continuation, 0, 1, ""), 1000)})
	add("CONTINUATIONs over 64 KiB", bad(431, 400), frame{raw: rawFrame(headers, 0x1, 1, "\x82\x86\x84") + strings.Repeat(rawFrame(continuation, 0, 1, "\x00\x03x-a\x7f\x81\x01"+strings.Repeat("a", 256)), 600)})
	add("a frame larger than allowed", bad(), raw(headers, 0x5, 1, strings.Repeat("\x82", 20<<10)))
	add("PUSH_PROMISE of a client", bad(), raw(push, 0x4, 1, "\x00\x00\x00\x02\x82\x86\x84"))
	add("PING on a stream", bad(), raw(ping, 0, 1, "12345678"))
	add("a short PING", bad(), raw(ping, 0, 0, "1234"))
	add("SETTINGS on a stream", bad(), raw(settings, 0, 1, ""))
	add("SETTINGS of five bytes", bad(), raw(settings, 0, 0, "12345"))
	add("an ACK with settings", bad(), raw(settings, 1, 0, "\x00\x04\x00\x00\x00\x00"))
	add("a window over 31 bits", bad(), raw(settings, 0, 0, "\x00\x04\xff\xff\xff\xff"))
	add("frames of 0 bytes at most", bad(), raw(settings, 0, 0, "\x00\x05\x00\x00\x00\x00"))
	add("WINDOW_UPDATE of 0", bad(), raw(window, 0, 0, "\x00\x00\x00\x00"))
	add("WINDOW_UPDATE over 31 bits", bad(), raw(window, 0, 0, "\x7f\xff\xff\xff"))
	add("RST_STREAM of an idle stream", bad(), raw(rst, 0, 1, "\x00\x00\x00\x08"))
	add("RST_STREAM of stream 0", bad(), raw(rst, 0, 0, "\x00\x00\x00\x08"))
	add("a stream that depends on itself", to("GET", "/ok").or("RFC 9113 section 5.3 drops priorities", 400).like("GET", "/"), frame{raw: rawFrame(headers, 0x25, 1, "\x00\x00\x00\x01\x00\x82\x86\x84\x41\x10"+app)})
	add("HTTP/1.1 in the middle", bad(), frame{raw: smuggled})
	add("a frame of an unknown type first", to("GET", "/ok"), raw(0xbb, 0xff, 1, "GET /smuggled HTTP/1.1\r\n\r\n"), ok)
	add("a reserved bit of the stream", to("GET", "/").or("RFC 9113 section 4.1: ignored", 400), raw(headers, 0x5, 0x80000001, "\x82\x86\x84\x41\x10"+app))
	add("GOAWAY and then a request", to("GET", "/ok").or("RFC 9113 section 6.8: the client only says that it takes no streams", 400), raw(goAway, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x00"), ok)
	return cases
}
