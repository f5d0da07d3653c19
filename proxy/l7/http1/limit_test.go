package http1

import "strings"

var limitRequests = []refusal{
	{"target too long", head("GET /"+strings.Repeat("a", 16<<10)+" HTTP/1.1", hostLine), 414},
	{"target too long and no end in sight", "GET /" + strings.Repeat("a", 17<<10), 414},
	{"head too large", head(getLine, hostLine, "X: "+strings.Repeat("a", 64<<10)), 431},
	{"head too large and no end in sight", "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10), 431},
	{"too many fields", head(getLine, hostLine, strings.Repeat("X: 1\r\n", 99)+"X: 1"), 431},
}

var limitResponses = []refusal{
	{"head too large", head(okLine, "X: "+strings.Repeat("a", 64<<10)), 502},
	{"head too large and no end in sight", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 64<<10), 502},
	{"status line without end", "HTTP/1.1 200 " + strings.Repeat("a", 64<<10), 502},
	{"too many fields", head(okLine, strings.Repeat("X: 1\r\n", 100)+"X: 1"), 502},
}
