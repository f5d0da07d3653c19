package http1

var lineEndRequests = []refusal{
	{"folded line", head(getLine, hostLine, "X: 1", " Content-Length: 5"), 400},
	{"line folded with a tab", head(getLine, hostLine, "X: 1", "\tmore"), 400},
	{"space before the first field", head(getLine, " "+hostLine), 400},
	{"bare CR in a value", head(getLine, hostLine, "X: a\rb"), 400},
	{"CR before CR LF", head(getLine, hostLine, "X: a\r"), 400},
	{"LF ends the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
	{"LF ends a field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400},
	{"LF ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
	{"LF only, no end in sight", "GET / HTTP/1.1\nHost: a\n\n", 400},
	{"CR ends the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", 400},
	{"LF within a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\n 2\r\n\r\n", 400},
	{"transfer coding behind a folded line", head(getLine, hostLine, "Transfer-Encoding:", " chunked"), 400},
	{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
}

var lineEndResponses = []refusal{
	{"folded line", head(okLine, "X: 1", " 2"), 502},
	{"LF ends a field", "HTTP/1.1 200 OK\r\nX: 1\n\r\n", 502},
	{"bare CR", head(okLine, "X: a\rb"), 502},
	{"CR before CR LF", head(okLine, "X: a\r"), 502},
	{"line folded with a tab", head(okLine, "X: 1", "\t2"), 502},
	{"space before the first field", head(okLine, " X: 1"), 502},
	{"LF ends the status line", "HTTP/1.1 200 OK\nX: 1\r\n\r\n", 502},
	{"LF ends the head", "HTTP/1.1 200 OK\r\nX: 1\r\n\n", 502},
	{"LF only, no end in sight", "HTTP/1.1 200 OK\nX: 1\n", 502},
	{"CR in the phrase", head("HTTP/1.1 200 O\rK"), 502},
	{"empty line first", "\r\n" + head(okLine), 502},
}
