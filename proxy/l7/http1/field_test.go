package http1

var fieldRequests = []refusal{
	// RFC 9112, Section 5.1: "No whitespace is allowed between the field name and colon ... MUST reject".
	{"space before the colon", head(getLine, hostLine, "Content-Length : 1"), 400},
	{"tab before the colon", head(getLine, hostLine, "X\t: 1"), 400},
	{"empty name", head(getLine, hostLine, ": x"), 400},
	{"no colon", head(getLine, hostLine, "nonsense"), 400},
	{"name with a control", head(getLine, hostLine, "X\x00Y: 1"), 400},
	{"name above ASCII", head(getLine, hostLine, "X\xff: 1"), 400},
	{"name with parentheses", head(getLine, hostLine, "X(Y): 1"), 400},
	{"underscore in a name", head(getLine, hostLine, "X_Forwarded_For: 1"), 400},
	{"NUL in a value", head(getLine, hostLine, "X: a\x00b"), 400},
	{"escape in a value", head(getLine, hostLine, "X: a\x1bb"), 400},
	{"delete in a value", head(getLine, hostLine, "X: a\x7fb"), 400},
}

var fieldResponses = []refusal{
	{"space before the colon", head(okLine, "X : 1"), 502},
	{"NUL", head(okLine, "X: a\x00b"), 502},
	{"tab before the colon", head(okLine, "X\t: 1"), 502},
	{"space before the colon of the length", head(okLine, "Content-Length : 1"), 502},
	{"empty name", head(okLine, ": x"), 502},
	{"no colon", head(okLine, "nonsense"), 502},
	{"name with a control", head(okLine, "X\x00Y: 1"), 502},
	{"name above ASCII", head(okLine, "X\xff: 1"), 502},
	{"name with a space", head(okLine, "X Y: 1"), 502},
	{"escape in a value", head(okLine, "X: a\x1bb"), 502},
	{"delete in a value", head(okLine, "X: a\x7fb"), 502},
}
