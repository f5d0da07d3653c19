package corpus

import "strings"

// fieldCases are fields that policy looks at: x-role: guest is denied, x-tier: gold is wanted.
func fieldCases() (cases []testCase) {
	const any = "facts/security.md: match each value, deny if any matches"
	for _, row := range []struct {
		name   string
		want   want
		fields []string
	}{
		{"guest", denied(), []string{"X-Role", "guest"}},
		{"guest in another case of the name", denied(), []string{"x-ROLE", "guest"}},
		{"guest first", denied().because(any), []string{"X-Role", "guest", "X-Role", "staff"}},
		{"guest last", denied().because(any), []string{"X-Role", "staff", "X-Role", "guest"}},
		{"guest in the middle of many", denied().because(any), []string{"X-Role", "a", "X-Role", "b", "X-Role", "guest", "X-Role", "c"}},
		{"guest behind an empty one", denied().because(any), []string{"X-Role", "", "X-Role", "guest"}},
		{"guest in a list", denied().because("RFC 9110 section 5.3: one line with a comma is two lines"), []string{"X-Role", "staff, guest"}},
		{"guest in a list without blanks", denied().because("as above"), []string{"X-Role", "guest,staff"}},
		{"guest in a list with empty ones", denied().because("as above"), []string{"X-Role", ",,guest,"}},
		{"guest in a list of the second line", denied().because("as above"), []string{"X-Role", "a", "X-Role", "b ,\tguest"}},
		{"guest with an underscore", bad(), []string{"X_Role", "guest"}},
		{"guest with both names", bad(), []string{"X-Role", "staff", "x_role", "guest"}},
		{"guests", to("GET", "/ok", "x-role: guests"), []string{"X-Role", "guests"}},
		{"Guest in other letters", to("GET", "/ok", "x-role: GUEST").because("values are compared by their letters"), []string{"X-Role", "GUEST"}},
		{"empty role", to("GET", "/ok", "x-role: "), []string{"X-Role", ""}},
		{"two roles", to("GET", "/ok", "x-role: a", "x-role: b"), []string{"X-Role", "a", "X-Role", "b"}},
		{"nominated by Connection", to("GET", "/ok", "!x-role").or("no Connection over HTTP/2; over HTTP/1.1 it is taken away before the request is judged", 400, 403), []string{"X-Role", "guest", "Connection", "x-role"}},
		{"a name with a dot", bad().because("x.role is x-role to some").or("a token like any other", 200), []string{"X.Role", "a"}},
	} {
		w := row.want
		if w.maybe && w.seen == nil {
			w.seen = &seen{method: "GET", host: app, target: "/ok"}
		}
		cases = append(cases, both("values", open, row.name, "GET", "/ok", w, row.fields...)...)
	}
	for _, row := range []struct {
		name   string
		want   want
		fields []string
	}{
		{"gold", to("GET", "/ok", "x-tier: gold"), []string{"X-Tier", "gold"}},
		{"no tier", denied(), nil},
		{"empty tier", denied(), []string{"X-Tier", ""}},
		{"Gold", denied(), []string{"X-Tier", "Gold"}},
		{"gold and more", denied(), []string{"X-Tier", "gold x"}},
		{"gold in a list", denied().because("an allow asks for the exact value: to look into lists could only widen it"), []string{"X-Tier", "gold, silver"}},
		{"gold and another field", to("GET", "/ok", "x-tier: gold", "x-tier: silver").or("docs/config.md: one field of the name has the value", 403), []string{"X-Tier", "gold", "X-Tier", "silver"}},
		{"gold quoted", denied(), []string{"X-Tier", `"gold"`}},
		{"gold with an underscore", bad(), []string{"X_Tier", "gold"}},
		{"gold and underscore", bad(), []string{"X-Tier", "gold", "X_Tier", "silver"}},
		{"gold nominated by Connection", refused(400, 403).because("what is judged is what is forwarded: without the field, the request is not allowed"), []string{"X-Tier", "gold", "Connection", "x-tier"}},
		{"gold nominated by Connection in other letters", refused(400, 403), []string{"X-Tier", "gold", "Connection", "keep-alive, X-TIER"}},
		{"gold nominated by the second Connection", refused(400, 403), []string{"X-Tier", "gold", "Connection", "keep-alive", "Connection", "x-tier"}},
	} {
		cases = append(cases, both("values", exact, row.name, "GET", "/ok", row.want, row.fields...)...)
	}
	for i := range cases {
		cases[i].want.reset = true
	}
	return cases
}

// identityCases are fields by which a caller claims to be somebody. The claim never reaches the upstream.
func identityCases() (cases []testCase) {
	const claim = "By=spiffe://example.test/spoofed;URI=spiffe://example.test/spoofed"
	underscore := "underscore variants: refused, or gone"
	for _, on := range []string{open, mutual} {
		for _, row := range []struct {
			name   string
			want   want
			fields []string
		}{
			{"XFCC", to("GET", "/ok"), []string{"X-Forwarded-Client-Cert", claim}},
			{"XFCC in other letters", to("GET", "/ok"), []string{"x-forwarded-CLIENT-cert", claim}},
			{"XFCC twice", to("GET", "/ok"), []string{"X-Forwarded-Client-Cert", claim, "X-Forwarded-Client-Cert", claim}},
			{"XFCC empty", to("GET", "/ok"), []string{"X-Forwarded-Client-Cert", ""}},
			{"XFCC with underscores", to("GET", "/ok").or(underscore, 400), []string{"X_Forwarded_Client_Cert", claim}},
			{"XFCC with one underscore", to("GET", "/ok").or(underscore, 400), []string{"X-Forwarded_Client-Cert", claim}},
			{"XFCC named by Connection", to("GET", "/ok").or("no Connection over HTTP/2", 400), []string{"Connection", "x-forwarded-client-cert"}},
			{"XFCC named by Connection and there", to("GET", "/ok").or("no Connection over HTTP/2", 400), []string{"Connection", "keep-alive, X-Forwarded-Client-Cert", "X-Forwarded-Client-Cert", claim}},
			{"XFF", to("GET", "/ok", "x-forwarded-for: "+theClient), []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "spoofed"}},
			{"XFF named by Connection", to("GET", "/ok", "x-forwarded-for: "+theClient).or("no Connection over HTTP/2", 400), []string{"X-Forwarded-For", "spoofed", "Connection", "x-forwarded-for"}},
			{"XFF with underscores", to("GET", "/ok", "x-forwarded-for: "+theClient).or(underscore, 400), []string{"X_Forwarded_For", "spoofed"}},
			{"X-Forwarded-Proto, -Port, -Prefix, -Uri", to("GET", "/ok", "!x-forwarded-port", "!x-forwarded-prefix"), []string{"X-Forwarded-Proto", "spoofed", "X-Forwarded-Port", "spoofed", "X-Forwarded-Prefix", "/spoofed", "X-Forwarded-Uri", "/spoofed"}},
			{"Forwarded", to("GET", "/ok", "!forwarded"), []string{"Forwarded", "for=spoofed;host=spoofed;proto=spoofed"}},
			{"X-Real-IP and relatives", to("GET", "/ok", "!x-real-ip"), []string{"X-Real-IP", "spoofed"}},
			{"True-Client-IP and relatives", to("GET", "/ok").or("no header of postern's; whoever believes it has to say so", 400), []string{"True-Client-IP", "6.6.6.6"}},
			{"X-Postern-*", to("GET", "/ok", "!x-postern-principal"), []string{"X-Postern-Principal", "spoofed", "X-Postern-Decision", "spoofed", "x-postern-anything", "spoofed"}},
			{"x_postern_*", to("GET", "/ok").or(underscore, 400), []string{"x_postern_principal", "spoofed"}},
			{"X-Request-Id", to("GET", "/ok").because("a caller with an SVID may choose it, but not so"), []string{"X-Request-Id", "spoofed, <spoofed>"}},
			{"X-Request-Id twice", to("GET", "/ok"), []string{"X-Request-Id", "spoofed1", "X-Request-Id", "spoofed2"}},
			{"x_request_id", to("GET", "/ok").or(underscore, 400), []string{"x_request_id", "spoofed"}},
			{"X-Request-Id named by Connection", to("GET", "/ok").or("no Connection over HTTP/2", 400), []string{"Connection", "x-request-id"}},
			{"X-Original-URL and X-Rewrite-URL", to("GET", "/ok", "!x-original-url", "!x-rewrite-url").because("some frameworks take it for the path, so that it would be /admin that was not judged").or("refusing is right too", 400, 403),
				[]string{"X-Original-URL", "/admin", "X-Rewrite-URL", "/admin"}},
		} {
			cases = append(cases, both("identity", on, row.name, "GET", "/ok", row.want, row.fields...)...)
		}
	}
	type c = testCase
	return append(cases,
		c{class: "identity", name: "XFCC with a dot", send: h1("GET", "/ok", "X.Forwarded.Client.Cert: spoofed"), want: to("GET", "/ok").or("gone or refused", 400)},
		c{class: "identity", name: "XFCC with a space before the colon", send: h1("GET", "/ok", "X-Forwarded-Client-Cert : spoofed"), want: bad()},
		c{class: "identity", name: "XFCC folded", send: h1("GET", "/ok", "X-Forwarded-Client-Cert:", " spoofed"), want: bad()},
		c{class: "identity", name: "XFCC behind a fold", send: h1("GET", "/ok", "X-A: 1", "\tX-Forwarded-Client-Cert: spoofed"), want: bad()},
		c{class: "identity", name: "XFCC behind a bare CR", send: h1("GET", "/ok", "X-A: 1\rX-Forwarded-Client-Cert: spoofed"), want: bad()},
		c{class: "identity", name: "XFCC as a trailer", send: h1("POST", "/ok", "TE: trailers", "Transfer-Encoding: chunked", "Trailer: X-Forwarded-Client-Cert") + "1\r\na\r\n0\r\nX-Forwarded-Client-Cert: spoofed\r\n\r\n",
			want: to("POST", "/ok").with("a").or("dropped or refused", 400).begins()},
		c{class: "identity", name: "XFCC as a trailer", frames: []frame{{fields: h2head("POST", "/ok", "trailer", "x-forwarded-client-cert")}, {data: "a"}, {fields: []string{"x-forwarded-client-cert", "spoofed"}, end: true}},
			want: to("POST", "/ok").with("a").or("dropped or refused", 400).begins()},
		c{class: "identity", name: "host, role and authorization as trailers", frames: []frame{{fields: h2head("POST", "/ok")}, {data: "a"}, {fields: []string{"host", internal, "x-role", "guest", "authorization", "spoofed", "x-request-id", "spoofed"}, end: true}},
			want: to("POST", "/ok").with("a").or("dropped or refused", 400).begins()},
		c{class: "identity", name: "host, role and authorization as trailers", send: h1("POST", "/ok", "Transfer-Encoding: chunked") + "1\r\na\r\n0\r\nHost: " + internal + "\r\nX-Role: guest\r\nAuthorization: spoofed\r\nX-Request-Id: spoofed\r\n\r\n",
			want: to("POST", "/ok").with("a").or("dropped or refused", 400).begins()},
		c{class: "identity", name: "host named by Connection", send: h1("GET", "/ok", "Connection: host"), want: to("GET", "/ok").or("ignored or refused", 400)},
		c{class: "identity", name: "Content-Length named by Connection", send: h1("POST", "/ok", "Content-Length: 5", "Connection: content-length") + "hello", want: to("POST", "/ok").with("hello").or("ignored or refused", 400)},
		c{class: "identity", name: "Transfer-Encoding named by Connection", send: h1("POST", "/ok", "Transfer-Encoding: chunked", "Connection: transfer-encoding") + "1\r\na\r\n0\r\n\r\n", want: to("POST", "/ok").with("a").or("ignored or refused", 400)},
		c{class: "identity", name: "Authorization and Cookie named by Connection", send: h1("GET", "/ok", "Authorization: Bearer a", "Cookie: a=b", "Connection: authorization, cookie"), want: to("GET", "/ok", "!authorization", "!cookie").or("gone or refused", 400)},
		c{class: "identity", name: "Connection with what is no token", send: h1("GET", "/ok", "Connection: x-a;b, \"c\", d e"), want: to("GET", "/ok").or("nobody can say what it names", 400)},
		c{class: "identity", name: "Keep-Alive and Proxy-Connection", send: h1("GET", "/ok", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive"), want: to("GET", "/ok", "!keep-alive", "!proxy-connection")},
		c{class: "identity", name: "Proxy-Authorization", send: h1("GET", "/ok", "Proxy-Authorization: Basic spoofed"), want: to("GET", "/ok").because("credentials for a proxy are for this one").or("", 400, 407)},
		c{class: "identity", name: "a thousand names in Connection", send: h1("GET", "/ok", "Connection: "+strings.Repeat("a,", 1000)+"b"), want: to("GET", "/ok").or("bounded", 400, 431)},
	)
}
