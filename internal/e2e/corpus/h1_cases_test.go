package corpus

import "strings"

// framingCases are lengths that two readers of HTTP/1.1 could read in two ways.
func framingCases() (cases []testCase) {
	add := func(name, send string, w want) {
		cases = append(cases, testCase{class: "framing", name: name, send: send, want: w})
	}
	const none = "0\r\n\r\n"
	// RFC 9112 sections 6.1 and 6.3: beside a length they are refused, whatever the coding; so are all that are not "chunked".
	for _, coding := range []string{
		"Transfer-Encoding: chunked", "Transfer-Encoding: Chunked", "Transfer-Encoding: CHUNKED", "transfer-encoding:chunked", "TRANSFER-ENCODING: chunked",
		"Transfer-Encoding: xchunked", "Transfer-Encoding: chunkedx", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked",
		"Transfer-Encoding: identity", "Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: deflate",
		"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
		"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
		"Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked", "Transfer-Encoding: , , chunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: chunked; a=b",
		"Transfer-Encoding: \"chunked\"", "Transfer-Encoding: 'chunked'", "Transfer-Encoding: chunked chunked", "Transfer-Encoding: chu nked", "Transfer-Encoding: chunk",
		"Transfer-Encoding: \vchunked", "Transfer-Encoding: chunked\v", "Transfer-Encoding: \fchunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: \x00chunked",
		"Transfer-Encoding: chunked\r", "Transfer-Encoding: chunked\x7f", "Transfer-Encoding: \xa0chunked", "Transfer-Encoding: chunked\x85", "Transfer-Encoding: chunKed\xe2\x84\xaa",
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked", "\tTransfer-Encoding: chunked", "Transfer-Encoding\v: chunked",
		"Transfer-Encoding:\r\n chunked", "Transfer-Encoding:\r\n\tchunked", "Transfer-Encoding: chunked\r\n ", "Transfer-Encoding\r\n: chunked", "X-A: 1\nTransfer-Encoding: chunked",
		"X-A: 1\rTransfer-Encoding: chunked", "X-A: 1\r\n\rTransfer-Encoding: chunked", "Transfer_Encoding: chunked", "Transfer-Encoding", "Transfer-Encoding;: chunked", "Transfer-Encoding: ",
		"Transfer Encoding: chunked", "Transfer-Encoding\x00: chunked", "Transfer-Enc\xc3\xb6ding: chunked", ":Transfer-Encoding: chunked", "Transfer-Encoding: chunked\n",
	} {
		name := strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(coding)
		add(name+" and a length", h1("POST", "/ok", "Content-Length: 5", coding)+none, bad(400, 501))
		switch coding {
		case "Transfer-Encoding: chunked", "transfer-encoding:chunked", "TRANSFER-ENCODING: chunked":
			add(name, h1("POST", "/ok", coding)+"5\r\nhello\r\n"+none, to("POST", "/ok", "!content-length").with("hello"))
		case "Transfer-Encoding: Chunked", "Transfer-Encoding: CHUNKED":
			add(name, h1("POST", "/ok", coding)+"5\r\nhello\r\n"+none, to("POST", "/ok").with("hello").or("RFC 9112 section 7: codings know no case; facts/security.md: exactly \"chunked\"", 400, 501))
		case "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding: , , chunked": // empty elements of a list are legal and suspect
			add(name, h1("POST", "/ok", coding)+none, bad(400, 501).because("facts/performance.md section 8: any TE but a single final chunked"))
		default:
			add(name, h1("POST", "/ok", coding)+none, bad(400, 501))
		}
	}
	add("a length and then chunked", h1("POST", "/ok", "Content-Length: 4", "Transfer-Encoding: chunked")+none, bad())
	add("chunked and then a length", h1("POST", "/ok", "Transfer-Encoding: chunked", "Content-Length: 4")+none, bad())
	add("chunked and the length 0", h1("POST", "/ok", "Content-Length: 0", "Transfer-Encoding: chunked")+none, bad())
	add("chunked and a length in a GET", h1("GET", "/ok", "Content-Length: 5", "Transfer-Encoding: chunked")+none, bad())
	add("a hundred fields between both", h1("POST", "/ok", "Content-Length: 5", strings.TrimSuffix(strings.Repeat("X-A: 1\r\n", 90), "\r\n"), "Transfer-Encoding: chunked")+none, bad())
	add("chunked under HTTP/1.0", message("POST /ok HTTP/1.0", "Host: "+app, "Transfer-Encoding: chunked")+none, bad(400, 501))
	add("chunked and a length under HTTP/1.0", message("POST /ok HTTP/1.0", "Host: "+app, "Content-Length: 5", "Transfer-Encoding: chunked")+none, bad())
	for _, length := range []string{
		"Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 0", "Content-Length: 0\r\nContent-Length: 5", "Content-Length: 5\r\ncontent-length: 6",
		"Content-Length: 5, 5", "Content-Length: 5,5", "Content-Length: 0, 5", "Content-Length: 5,", "Content-Length: ,5", "Content-Length: 5 5", "Content-Length: 5;",
		"Content-Length: +5", "Content-Length: -5", "Content-Length: -0", "Content-Length: --5", "Content-Length: 0x5", "Content-Length: 5h", "Content-Length: 5.0", "Content-Length: 5e0",
		"Content-Length: 5_0", "Content-Length: 1 5", "Content-Length: \"5\"", "Content-Length: five", "Content-Length: ", "Content-Length:", "Content-Length: \xd9\xa5",
		"Content-Length: \v5", "Content-Length: 5\v", "Content-Length: 5\f", "Content-Length: 5\x00", "Content-Length: 5\r", "Content-Length: \x005", "Content-Length: 5\xa0",
		"Content-Length: 18446744073709551621", "Content-Length: 9223372036854775808", "Content-Length: 99999999999999999999999999999999", "Content-Length: 4294967301x",
		"Content-Length : 5", "Content-Length\t: 5", " Content-Length: 5", "Content-Length:\r\n 5", "Content-Length: 5\r\n 0", "Content-Length: 5\r\n\t", "Content_Length: 5", "Content Length: 5",
		"Content-Length: 5\r\nContent_Length: 0", "Content-Length", "X-A: 1\nContent-Length: 5", "X-A: 1\rContent-Length: 5",
		"Content-Length: 1" + strings.Repeat("0", 400),
	} {
		name := strings.NewReplacer("\r", "\\r", "\n", "\\n").Replace(length)
		add(name[:min(len(name), 70)], h1("POST", "/ok", length)+"hello", bad(400, 413))
	}
	add("a length with zeros before it", h1("POST", "/ok", "Content-Length: 005")+"hello", to("POST", "/ok", "content-length: 5").with("hello").or("1*DIGIT, octal to nobody who follows RFC 9110", 400))
	add("more zeros before a length than a number has digits", h1("POST", "/ok", "Content-Length: "+strings.Repeat("0", 30)+"5")+"hello", to("POST", "/ok", "content-length: 5").with("hello").or("as above", 400, 413))
	add("blanks around a length", h1("POST", "/ok", "Content-Length: \t 5 \t")+"hello", to("POST", "/ok", "content-length: 5").with("hello"))
	add("the length 0", h1("POST", "/ok", "Content-Length: 0"), to("POST", "/ok", "content-length: 0"))
	add("a POST without length", h1("POST", "/ok"), to("POST", "/ok").or("RFC 9110 section 8.6: a length is only expected", 411))
	add("a GET with a body", h1("GET", "/ok", "Content-Length: 5")+"hello", to("GET", "/ok", "content-length: 5").with("hello"))
	add("a GET whose body looks like a request", h1("GET", "/ok", "Content-Length: 37")+"GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"[:37], to("GET", "/ok", "content-length: 37").with("GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"[:37]))
	add("a chunked GET whose body looks like a request", h1("GET", "/ok", "Transfer-Encoding: chunked")+"26\r\nGET /inside HTTP/1.1\r\nHost: inside\r\n\r\n\r\n0\r\n\r\n", to("GET", "/ok").with("GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"))
	add("a HEAD with a body", h1("HEAD", "/ok", "Content-Length: 5")+"hello", to("HEAD", "/ok").with("hello"))
	add("an OPTIONS with a body", h1("OPTIONS", "*", "Content-Length: 5")+"hello", to("OPTIONS", "*").with("hello"))
	add("a body shorter than its length", h1("POST", "/ok", "Content-Length: 50")+"hello"+unfinished, cut(408))
	add("a body whose length nobody waits for", h1("POST", "/ok", "Content-Length: 1099511627776")+"hello"+unfinished, cut(408, 413))
	add("a head without end", "GET /ok HTTP/1.1\r\nHost: "+app+"\r\nX-A: 1\r\n"+unfinished, bad(408))
	add("a denied request with a body", h1("DELETE", "/ok", "Content-Length: 5")+"hello", denied())
	add("a denied request whose body is a request", h1("DELETE", "/ok", "Content-Length: 37")+"GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"[:37], denied())
	add("a denied chunked request", h1("DELETE", "/ok", "Transfer-Encoding: chunked")+"5\r\nhello\r\n"+none, denied())
	add("a denied request with a bad chunk", h1("DELETE", "/ok", "Transfer-Encoding: chunked")+"5x\r\nhello\r\n"+none, refused(400, 403))
	add("Content-Length in other names", h1("POST", "/ok", "X-Content-Length: 9", "Content-Length: 5", "Content-Length-X: 9")+"hello", to("POST", "/ok", "content-length: 5").with("hello"))
	add("Content-Encoding is no framing", h1("POST", "/ok", "Content-Encoding: chunked", "Content-Length: 5")+"hello", to("POST", "/ok", "content-encoding: chunked").with("hello"))
	add("TE is no framing", h1("POST", "/ok", "TE: chunked", "Content-Length: 5")+"hello", to("POST", "/ok").with("hello").or("", 400))
	add("Expect: 100-continue with the body at once", h1("POST", "/ok", "Expect: 100-continue", "Content-Length: 5")+"hello", to("POST", "/ok").with("hello"))
	add("Expect: 100-continue without body", h1("GET", "/ok", "Expect: 100-continue"), to("GET", "/ok"))
	add("Expect of something else", h1("POST", "/ok", "Expect: 200-ok", "Content-Length: 5")+"hello", bad(417, 400))
	add("Expect twice", h1("POST", "/ok", "Expect: 100-continue", "Expect: 100-continue", "Content-Length: 5")+"hello", to("POST", "/ok").with("hello").or("", 400, 417))
	add("Expect with a list", h1("POST", "/ok", "Expect: 100-continue, y", "Content-Length: 5")+"hello", bad(417, 400).or("only a list that nobody sends", 200))
	add("Expect with blanks", h1("POST", "/ok", "Expect:  100-continue\t", "Content-Length: 5")+"hello", to("POST", "/ok").with("hello"))
	add("Expect and a denial: what follows is the body", h1("DELETE", "/ok", "Expect: 100-continue", "Content-Length: 37")+"GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"[:37], denied())
	add("Expect folded", h1("POST", "/ok", "Expect:", " 100-continue", "Content-Length: 5")+"hello", bad())
	add("Expect under HTTP/1.0", message("POST /ok HTTP/1.0", "Host: "+app, "Expect: 100-continue", "Content-Length: 5")+"hello", to("POST", "/ok").with("hello"))
	for i := range cases {
		if w := &cases[i].want; w.maybe && w.seen == nil {
			w.seen = &seen{method: "POST", host: app, target: "/ok", body: "hello"}
		}
	}
	return cases
}

// chunkCases are bodies in the chunked coding.
func chunkCases() (cases []testCase) {
	add := func(name, body string, w want) {
		cases = append(cases, testCase{class: "chunks", name: name, send: h1("POST", "/ok", "Transfer-Encoding: chunked") + body, want: w})
	}
	for name, body := range map[string]string{
		"no size":                                     "\r\na\r\n0\r\n\r\n",
		"a size that is none":                         "x\r\na\r\n0\r\n\r\n",
		"a size with a sign":                          "+1\r\na\r\n0\r\n\r\n",
		"a negative size":                             "-1\r\na\r\n0\r\n\r\n",
		"a negative zero":                             "1\r\na\r\n-0\r\n\r\n",
		"a size with 0x":                              "0x1\r\na\r\n0\r\n\r\n",
		"a size with an underscore":                   "0_1\r\na\r\n0\r\n\r\n",
		"a size with h":                               "1h\r\na\r\n0\r\n\r\n",
		"a size with a point":                         "1.0\r\na\r\n0\r\n\r\n",
		"a size with a blank before it":               " 1\r\na\r\n0\r\n\r\n",
		"a size with a tab before it":                 "\t1\r\na\r\n0\r\n\r\n",
		"a size with a vertical tab":                  "1\v\r\na\r\n0\r\n\r\n",
		"a size with a blank after it":                "1 \r\na\r\n0\r\n\r\n",
		"a size with NUL":                             "1\x00\r\na\r\n0\r\n\r\n",
		"a size with a comma":                         "1,1\r\na\r\n0\r\n\r\n",
		"a size in two parts":                         "1 1\r\na\r\n0\r\n\r\n",
		"a size over 63 bits":                         "8000000000000001\r\na\r\n0\r\n\r\n",
		"a size over 64 bits":                         "10000000000000001\r\na\r\n0\r\n\r\n",
		"a size of 100 digits":                        strings.Repeat("f", 100) + "\r\na\r\n0\r\n\r\n",
		"a bare LF after a size":                      "1\na\r\n0\r\n\r\n",
		"a bare CR after a size":                      "1\ra\r\n0\r\n\r\n",
		"two CR after a size":                         "1\r\r\na\r\n0\r\n\r\n",
		"a bare LF after a chunk":                     "1\r\na\n0\r\n\r\n",
		"a bare CR after a chunk":                     "1\r\na\r0\r\n\r\n",
		"nothing after a chunk":                       "1\r\na0\r\n\r\n",
		"two octets after a chunk":                    "1\r\naXX0\r\n\r\n",
		"a chunk longer than its size":                "1\r\nab\r\n0\r\n\r\n",
		"a chunk shorter than its size":               "3\r\na\r\n0\r\n\r\n",
		"a bare LF after the last chunk":              "1\r\na\r\n0\n\r\n",
		"a bare LF at the end":                        "1\r\na\r\n0\r\n\n",
		"two bare LF at the end":                      "1\r\na\r\n0\n\n",
		"a bare CR at the end":                        "1\r\na\r\n0\r\n\rX",
		"octets instead of the end":                   "1\r\na\r\n0\r\nXX",
		"an extension with a bare LF":                 "1;a\nb\r\na\r\n0\r\n\r\n",
		"an extension with a bare CR":                 "1;a\rb\r\na\r\n0\r\n\r\n",
		"an extension with NUL":                       "1;a\x00b\r\na\r\n0\r\n\r\n",
		"an extension that ends in LF":                "1;a\na\r\n0\r\n\r\n",
		"an extension over many KiB":                  "1;" + strings.Repeat("a", 100<<10) + "\r\na\r\n0\r\n\r\n",
		"extensions without end":                      strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\na\r\n", 5000) + "0\r\n\r\n",
		"zeros without end":                           strings.Repeat("0", 100<<10) + "1\r\na\r\n0\r\n\r\n",
		"a trailer that is a length with a space":     "1\r\na\r\n0\r\nContent Length: 3\r\n\r\n",
		"a trailer with a space before the colon":     "1\r\na\r\n0\r\nX-A : 3\r\n\r\n",
		"a trailer without name":                      "1\r\na\r\n0\r\n: 3\r\n\r\n",
		"a trailer without colon":                     "1\r\na\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
		"a trailer with a bare LF":                    "1\r\na\r\n0\r\nX-A: 3\n\r\n",
		"a trailer with a bare CR":                    "1\r\na\r\n0\r\nX-A: 3\rX-B: 1\r\n\r\n",
		"a trailer with NUL":                          "1\r\na\r\n0\r\nX-A: \x00\r\n\r\n",
		"a trailer that is folded":                    "1\r\na\r\n0\r\nX-A: 3\r\n 4\r\n\r\n",
		"a trailer that begins with a blank":          "1\r\na\r\n0\r\n X-A: 3\r\n\r\n",
		"trailers over many KiB":                      "1\r\na\r\n0\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n",
		"a thousand trailers":                         "1\r\na\r\n0\r\n" + strings.Repeat("X-A: 1\r\n", 1000) + "\r\n",
		"a request in a trailer behind a bare LF":     "1\r\na\r\n0\r\nX-A: 1\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
		"a request behind a size that LF readers end": "1;\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
	} {
		add(name, body, cut(400, 413, 431))
	}
	add("a size over 32 bits", "100000001\r\na\r\n0\r\n\r\n"+unfinished, cut(400, 408, 413))
	for name, body := range map[string]string{
		"no end":               "1\r\na\r\n",
		"half a chunk":         "5\r\nhe",
		"half a size":          "1\r\na\r\n1",
		"no line after it":     "1\r\na\r\n0\r\n",
		"only CR after it":     "1\r\na\r\n0\r\n\r",
		"half a trailer":       "1\r\na\r\n0\r\nX-A: 1",
		"no line after a size": "1",
	} {
		add("a body that stops: "+name, body+unfinished, cut(408))
	}
	good := to("POST", "/ok", "!content-length").with("a")
	add("one chunk", "1\r\na\r\n0\r\n\r\n", good)
	add("no chunk", "0\r\n\r\n", to("POST", "/ok"))
	add("capital digits", "A\r\n0123456789\r\n0\r\n\r\n", to("POST", "/ok").with("0123456789"))
	add("small digits", "a\r\n0123456789\r\n0\r\n\r\n", to("POST", "/ok").with("0123456789"))
	add("zeros before a size", "0001\r\na\r\n000\r\n\r\n", good)
	add("an extension", "1;a=b\r\na\r\n0;c\r\n\r\n", good)
	add("a quoted extension", "1;a=\"b;c\"\r\na\r\n0\r\n\r\n", good.or("", 400).begins())
	add("a blank before an extension", "1 ;a\r\na\r\n0\r\n\r\n", good.or("RFC 9112 section 7.1.1 knows bad whitespace there", 400).begins())
	add("an extension without name", "1;\r\na\r\n0\r\n\r\n", good.or("grammar wants a name", 400).begins())
	add("a trailer", "1\r\na\r\n0\r\nX-T: 1\r\n\r\n", good.trailing("x-t: 1"))
	for _, name := range []string{"Content-Length: 0", "Transfer-Encoding: chunked", "Host: " + internal, "X-Role: guest", "Connection: close", "TE: trailers", "Trailer: a", "Content-Type: a", "Cookie: spoofed=1", "X-Forwarded-For: spoofed", "X-Request-Id: spoofed", "X_Role: guest"} {
		add("the trailer "+name, "1\r\na\r\n0\r\n"+name+"\r\n\r\n", good.or("RFC 9110 section 6.5.1: dropped or refused", 400).begins().trailing("!"+strings.ToLower(strings.Split(name, ":")[0])))
	}
	add("chunks that hold a request", "26\r\nGET /inside HTTP/1.1\r\nHost: inside\r\n\r\n\r\n0\r\n\r\n", to("POST", "/ok").with("GET /inside HTTP/1.1\r\nHost: inside\r\n\r\n"))
	add("a hundred small chunks", strings.Repeat("1\r\na\r\n", 100)+"0\r\n\r\n", to("POST", "/ok").with(strings.Repeat("a", 100)))
	return cases
}

// lineCases are lines, names and values of fields.
func lineCases() (cases []testCase) {
	add := func(name, send string, w want) {
		cases = append(cases, testCase{class: "lines", name: name, send: send, want: w})
	}
	head := "GET /ok HTTP/1.1\r\nHost: " + app + "\r\n"
	add("a bare LF after the request line", "GET /ok HTTP/1.1\nHost: "+app+"\r\n\r\n", bad())
	add("a bare LF after a field", "GET /ok HTTP/1.1\r\nHost: "+app+"\nX-A: 1\r\n\r\n", bad())
	add("a bare LF at the end", head+"\n", bad())
	add("bare LF everywhere", "GET /ok HTTP/1.1\nHost: "+app+"\n\n", bad())
	add("LF CR", "GET /ok HTTP/1.1\n\rHost: "+app+"\n\r\n\r", bad())
	add("two CR and LF", "GET /ok HTTP/1.1\r\r\nHost: "+app+"\r\r\n\r\r\n", bad())
	add("a bare CR after the request line", "GET /ok HTTP/1.1\rHost: "+app+"\r\n\r\n", bad())
	add("a bare CR at the end", head+"\r"+"X-A: 1\r\n\r\n", bad())
	add("a bare CR in a value", head+"X-A: 1\r2\r\n\r\n", bad())
	add("a bare CR at the end of a value", head+"X-A: 1\r\r\n\r\n", bad())
	add("a bare CR before a name", head+"\rX-A: 1\r\n\r\n", bad())
	add("a bare CR in a name", head+"X\rA: 1\r\n\r\n", bad())
	add("a bare CR before the colon", head+"X-A\r: 1\r\n\r\n", bad())
	add("a bare LF in a value", head+"X-A: 1\nX-Smuggled: smuggled\r\n\r\n", bad())
	add("an empty line of LF only", head+"X-A: 1\n\n", bad())
	add("NUL in a value", head+"X-A: 1\x002\r\n\r\n", bad())
	add("NUL alone as a value", head+"X-A: \x00\r\n\r\n", bad())
	add("NUL in a name", head+"X\x00A: 1\r\n\r\n", bad())
	add("NUL after the request line", "GET /ok HTTP/1.1\x00\r\nHost: "+app+"\r\n\r\n", bad(400, 505))
	add("NUL before the method", "\x00"+head+"\r\n", bad())
	for _, c := range []struct{ name, octet string }{{"bell", "\a"}, {"backspace", "\b"}, {"vertical tab", "\v"}, {"form feed", "\f"}, {"escape", "\x1b"}, {"delete", "\x7f"}, {"01", "\x01"}, {"1f", "\x1f"}} {
		add(c.name+" in a value", head+"X-A: 1"+c.octet+"2\r\n\r\n", bad())
		add(c.name+" in a name", head+"X"+c.octet+"A: 1\r\n\r\n", bad())
	}
	add("a tab in a value", head+"X-A: 1\t2\r\n\r\n", to("GET", "/ok", "x-a: 1\t2"))
	add("blanks around a value", head+"X-A: \t 1 2 \t\r\n\r\n", to("GET", "/ok", "x-a: 1 2"))
	add("no blank before a value", head+"X-A:1\r\n\r\n", to("GET", "/ok", "x-a: 1"))
	add("colons in a value", head+"X-A: :1:2:\r\n\r\n", to("GET", "/ok", "x-a: :1:2:"))
	add("an empty value", head+"X-A:\r\n\r\n", to("GET", "/ok", "x-a: "))
	add("a value of blanks", head+"X-A: \t \r\n\r\n", to("GET", "/ok", "x-a: "))
	add("octets above 127 in a value", head+"X-A: caf\xc3\xa9\xff\r\n\r\n", to("GET", "/ok", "x-a: caf\xc3\xa9\xff").or("obs-text", 400))
	add("a folded line", head+"X-A: 1\r\n 2\r\n\r\n", bad())
	add("a line folded with a tab", head+"X-A: 1\r\n\t2\r\n\r\n", bad())
	add("a line folded into nothing", head+"X-A: 1\r\n \r\n\r\n", bad())
	add("a first line that is folded", "GET /ok HTTP/1.1\r\n Host: "+app+"\r\n\r\n", bad())
	add("a folded request line", "GET /ok\r\n HTTP/1.1\r\nHost: "+app+"\r\n\r\n", bad())
	add("a blank line with a blank before the end", head+" \r\n\r\n", bad())
	add("a space before the colon", head+"X-A : 1\r\n\r\n", bad())
	add("a tab before the colon", head+"X-A\t: 1\r\n\r\n", bad())
	add("a line without colon", head+"X-A\r\n\r\n", bad())
	add("an empty name", head+": 1\r\n\r\n", bad())
	add("a colon alone", head+":\r\n\r\n", bad())
	add("an empty name first", "GET /ok HTTP/1.1\r\n: 1\r\nHost: "+app+"\r\n\r\n", bad())
	for _, c := range `"(),/;<=>?@[\]{} ` {
		add("a name with "+string(c), head+"X"+string(c)+"A: 1\r\n\r\n", bad())
	}
	add("a name above 127", head+"X-\xc3\xa9: 1\r\n\r\n", bad())
	add("a name with the Kelvin sign", head+"X-\xe2\x84\xaa: 1\r\n\r\n", bad())
	add("a name of every token character", head+"X!#$%&'*+-.^`|~9: 1\r\n\r\n", to("GET", "/ok", "x!#$%&'*+-.^`|~9: 1").or("tokens, but no name that anybody has", 400))
	add("a pseudo-header of HTTP/2", head+":path: /smuggled\r\n\r\n", bad())
	add("a pseudo-header of HTTP/2 as a name", head+":method: DELETE\r\n\r\n", bad())
	add("an underscore", head+"X_A: 1\r\n\r\n", bad())
	add("a name of one underscore", head+"_: 1\r\n\r\n", bad())
	add("a request line among the fields", head+"GET /smuggled HTTP/1.1\r\nHost: "+app+"\r\n\r\n", bad())
	add("a head over 64 KiB", head+"X-A: "+strings.Repeat("a", 100<<10)+"\r\n\r\n", bad(431))
	add("a name over 64 KiB", head+strings.Repeat("a", 100<<10)+": 1\r\n\r\n", bad(431))
	add("two hundred fields", head+strings.Repeat("X-A: 1\r\n", 200)+"\r\n", bad(431))
	add("99 fields", head+strings.Repeat("X-A: 1\r\n", 98)+"\r\n", to("GET", "/ok"))
	return cases
}

// requestLineCases are first lines.
func requestLineCases() (cases []testCase) {
	add := func(name, line string, w want) {
		cases = append(cases, testCase{class: "request line", name: name, send: message(line, "Host: "+app), want: w})
	}
	add("a tab for a space", "GET\t/ok\tHTTP/1.1", bad())
	add("two spaces before the target", "GET  /ok HTTP/1.1", bad())
	add("two spaces after the target", "GET /ok  HTTP/1.1", bad())
	add("a space at the end", "GET /ok HTTP/1.1 ", bad(400, 505))
	add("a tab at the end", "GET /ok HTTP/1.1\t", bad(400, 505))
	add("a space at the beginning", " GET /ok HTTP/1.1", bad())
	add("a space in the target", "GET /ok /admin HTTP/1.1", bad())
	add("a version in the target", "GET /ok HTTP/1.1 HTTP/1.1", bad())
	add("a vertical tab for a space", "GET\v/ok HTTP/1.1", bad())
	add("a form feed in the target", "GET /ok\f HTTP/1.1", bad())
	add("no target", "GET HTTP/1.1", bad())
	add("no method", "/ok HTTP/1.1", bad())
	add("no version", "GET /ok", bad(400, 505))
	add("only a method", "GET", bad())
	add("nothing", "", bad().because("RFC 9112 section 2.2: an empty line before a request SHOULD be ignored, then \"Host:\" is the first line"))
	add("HTTP/0.9", "GET /ok HTTP/0.9", bad(400, 505))
	add("HTTP/1.2", "GET /ok HTTP/1.2", bad(400, 505).or("RFC 9110 section 2.5: a higher minor version may be read as 1.1", 200))
	add("HTTP/1.9", "GET /ok HTTP/1.9", bad(400, 505).or("as above", 200))
	add("HTTP/1.10", "GET /ok HTTP/1.10", bad(400, 505))
	add("HTTP/01.1", "GET /ok HTTP/01.1", bad(400, 505))
	add("HTTP/1.01", "GET /ok HTTP/1.01", bad(400, 505))
	add("HTTP/1", "GET /ok HTTP/1", bad(400, 505))
	add("HTTP/1.", "GET /ok HTTP/1.", bad(400, 505))
	add("HTTP/1.1.1", "GET /ok HTTP/1.1.1", bad(400, 505))
	add("HTTP/2.0", "GET /ok HTTP/2.0", bad(400, 505))
	add("HTTP/2", "GET /ok HTTP/2", bad(400, 505))
	add("HTTP/3.0", "GET /ok HTTP/3.0", bad(400, 505))
	add("http/1.1", "GET /ok http/1.1", bad(400, 505))
	add("HTTP/1,1", "GET /ok HTTP/1,1", bad(400, 505))
	add("HTTP 1.1", "GET /ok HTTP 1.1", bad(400, 505))
	add("HTTPS/1.1", "GET /ok HTTPS/1.1", bad(400, 505))
	add("ICY/1.1", "GET /ok ICY/1.1", bad(400, 505))
	add("RTSP/1.0", "GET /ok RTSP/1.0", bad(400, 505))
	add("HTTP/+1.1", "GET /ok HTTP/+1.1", bad(400, 505))
	add("HTTP/1.1x", "GET /ok HTTP/1.1x", bad(400, 505))
	add("HTTP/\xd9\xa1.1", "GET /ok HTTP/\xd9\xa1.1", bad(400, 505))
	add("a target over many KiB", "GET /"+strings.Repeat("a", 100<<10)+" HTTP/1.1", bad(414, 431))
	add("a method over many KiB", strings.Repeat("A", 100<<10)+" /ok HTTP/1.1", bad(400, 414, 431, 501))
	add("a response", "HTTP/1.1 200 OK", bad())
	add("TLS in plaintext", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", bad(400).orSilent())
	add("a PROXY header", "PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\nGET /ok HTTP/1.1", bad())
	type c = testCase
	cases = append(cases,
		c{class: "request line", name: "HTTP/0.9 without version", send: "GET /ok\r\n", want: bad(400, 505)},
		c{class: "request line", name: "the preface of HTTP/2, then HTTP/1.1", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /smuggled HTTP/1.1\r\n", want: bad(400, 505).orSilent()},
		c{class: "request line", name: "half the preface of HTTP/2", send: "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", want: bad(400, 505).orSilent()},
		c{class: "request line", name: "the preface's line with fields", send: "PRI * HTTP/2.0\r\nHost: " + app + "\r\n\r\n", want: bad(400, 505).orSilent()},
		c{class: "request line", name: "one empty line before", send: "\r\n" + h1("GET", "/ok"), want: to("GET", "/ok").or("RFC 9112 section 2.2: SHOULD be ignored", 400)},
		c{class: "request line", name: "many empty lines before", send: strings.Repeat("\r\n", 20000) + h1("GET", "/ok"), want: bad(400, 431).or("as above", 200).like("GET", "/ok")},
		c{class: "request line", name: "a bare LF before", send: "\n" + h1("GET", "/ok"), want: bad()},
		c{class: "request line", name: "a bare CR before", send: "\r" + h1("GET", "/ok"), want: bad()},
		c{class: "request line", name: "HTTP/1.0", send: message("GET /ok HTTP/1.0", "Host: "+app), want: to("GET", "/ok")},
		c{class: "request line", name: "HTTP/1.0 kept alive", send: message("GET /ok HTTP/1.0", "Host: "+app, "Connection: keep-alive"), want: to("GET", "/ok")},
		c{class: "request line", name: "HTTP/1.0 without Host", send: message("GET /ok HTTP/1.0", "X-A: 1"), want: bad().because("there is no host to judge")},
		c{class: "request line", name: "HTTP/1.0 with two Hosts", send: message("GET /ok HTTP/1.0", "Host: "+app, "Host: "+internal), want: bad()},
		c{class: "request line", name: "HTTP/1.0 absolute", send: message("GET http://"+internal+"/ok HTTP/1.0", "X-A: 1"), want: refused(400, 403)},
		c{class: "request line", name: "HTTP/1.0 with an upgrade", send: message("GET /ws/accept HTTP/1.0", "Host: "+app, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
			want: to("GET", "/ws/accept", "!upgrade").because("RFC 9110 section 7.8: ignored under HTTP/1.0").or("or refused", 400, 403)},
	)
	for i := range cases {
		if w := &cases[i].want; w.maybe && w.seen == nil {
			w.seen = &seen{method: "GET", host: app, target: "/ok"}
		}
	}
	return cases
}

// like says what the request would be, were it taken.
func (w want) like(method, target string) want {
	w.seen = &seen{method: method, host: app, target: target}
	return w
}

// orSilent says that the connection may end without an answer: what came is not known to be HTTP.
func (w want) orSilent() want {
	w.silent = true
	return w
}

// upgradeCases try to leave HTTP/1.1 for something that is not judged.
func upgradeCases() (cases []testCase) {
	add := func(name, send string, w want) {
		cases = append(cases, testCase{class: "upgrade", name: name, send: send, want: w})
	}
	websocket := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	plain := to("GET", "/ok", "!upgrade", "!connection", "!http2-settings")
	const reason = "RFC 9110 section 7.8: a server may ignore it, and then it is an ordinary request"
	add("h2c", h1("GET", "/ok", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), plain.or(reason, 400, 403))
	add("h2c in other letters", h1("GET", "/ok", "Connection: upgrade, http2-settings", "Upgrade: H2C", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), plain.or(reason, 400, 403))
	add("h2c that Connection does not name", h1("GET", "/ok", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), plain.or(reason, 400, 403))
	add("h2c behind websocket", h1("GET", "/ok", "Connection: Upgrade", "Upgrade: websocket, h2c"), plain.or(reason, 400, 403))
	add("h2c on a denied path", h1("GET", "/admin", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"), refused(400, 403))
	add("h2c where websocket is allowed", h1("GET", "/ws/refuse", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
		to("GET", "/ws/refuse", "!upgrade", "!http2-settings").or(reason, 400, 403))
	add("h2c with a body", h1("POST", "/ok", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Content-Length: 5")+"hello",
		to("POST", "/ok", "!upgrade").with("hello").or(reason, 400, 403))
	add("TLS", h1("GET", "/ok", "Connection: Upgrade", "Upgrade: TLS/1.0"), plain.or(reason, 400, 403))
	add("websocket where it is not allowed", h1("GET", "/ok", websocket...), plain.or(reason, 400, 403))
	add("websocket on a denied path", h1("GET", "/admin", websocket...), refused(400, 403))
	add("websocket refused by the upstream, a denied request behind it", h1("GET", "/ws/refuse", websocket...), to("GET", "/ws/refuse").closing().or("refused here is right too", 400, 403, 502).even())
	add("websocket with a wrong version", h1("GET", "/ws/refuse", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), to("GET", "/ws/refuse").closing().or("the version is for the upstream to refuse, with 426", 400, 403, 426, 502).even())
	add("websocket by POST", h1("POST", "/ws/refuse", append([]string{"Content-Length: 0"}, websocket...)...), to("POST", "/ws/refuse", "!upgrade").closing().or("RFC 6455 section 4.1: GET", 400, 403, 501, 502))
	add("websocket with a body", h1("GET", "/ws/refuse", append([]string{"Content-Length: 5"}, websocket...)...)+"hello", to("GET", "/ws/refuse").with("hello").closing().or("no handshake has one", 400, 403, 502))
	add("websocket twice", h1("GET", "/ws/refuse", append([]string{"Upgrade: h2c"}, websocket...)...), to("GET", "/ws/refuse", "!upgrade").closing().or("", 400, 403, 502))
	add("websocket with two keys", h1("GET", "/ws/refuse", append([]string{"Sec-WebSocket-Key: eHhoZSBzYW1wbGUgbm9uY2U="}, websocket...)...), to("GET", "/ws/refuse").closing().or("", 400, 403, 502).even())
	add("websocket that Connection does not name", h1("GET", "/ws/refuse", websocket[1:]...), to("GET", "/ws/refuse", "!upgrade").or("", 400, 403))
	add("websocket that the upstream grants", h1("GET", "/ws/accept", websocket...), to("GET", "/ws/accept").tunnels())
	add("CONNECT", message("CONNECT "+app+":80 HTTP/1.1", "Host: "+app+":80"), bad(400, 403, 405, 501))
	add("CONNECT with a path", h1("CONNECT", "/ok"), bad(400, 403, 405, 501))
	add("CONNECT to the upstream's own port", message("CONNECT 127.0.0.1:22 HTTP/1.1", "Host: 127.0.0.1:22"), bad(400, 403, 405, 501))
	add("CONNECT absolute", message("CONNECT http://"+app+"/ok HTTP/1.1", "Host: "+app), bad(400, 403, 405, 501))
	add("CONNECT without port", message("CONNECT "+app+" HTTP/1.1", "Host: "+app), bad(400, 403, 405, 501))
	add("CONNECT with a length", message("CONNECT "+app+":80 HTTP/1.1", "Host: "+app+":80", "Content-Length: 5")+"hello", bad(400, 403, 405, 501))
	add("CONNECT for websocket", h1("CONNECT", "/ws/accept", websocket...), bad(400, 403, 405, 501))
	add("authority as a target of GET", h1("GET", app+":80"), bad())
	return cases
}

// closing says that the connection may end behind the answer.
func (w want) closing() want {
	w.closes = true
	return w
}
