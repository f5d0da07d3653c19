package canonical

import (
	"testing"

	"github.com/postern-proxy/postern/internal/observe"
	"github.com/postern-proxy/postern/proxy/l7"
)

func TestHostHasOneForm(t *testing.T) {
	rows := []struct {
		authority, host string
		port            uint16
	}{
		{"example.org", "example.org", 0},
		{"EXAMPLE.org", "example.org", 0},
		{"example.org.", "example.org", 0},
		{"example.org.:8080", "example.org", 8080},
		{"Example.Org:443", "example.org", 443},
		{"example.org:", "example.org", 0},
		{"my_service", "my_service", 0},
		{"127.0.0.1:80", "127.0.0.1", 80},
		{"[::1]:8080", "[::1]", 8080},
		{"[0:0:0:0:0:0:0:1]", "[::1]", 0},
		{"[2001:DB8::A]", "[2001:db8::a]", 0},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", 0},
	}
	for _, row := range rows {
		host, port, err := Host(row.authority)
		if err != nil || host != row.host || port != row.port {
			t.Errorf("%q becomes %q, %d, %v", row.authority, host, port, err)
		}
		if again, _, err := Host(host); err != nil || again != host {
			t.Errorf("%q becomes %q, %v: not idempotent", host, again, err)
		}
	}
}

func TestHostsThatAreNoneAreRefused(t *testing.T) {
	long := ""
	for range 64 {
		long += "aaa."
	}
	for _, authority := range []string{
		"", ":80", ".", "..", "a..b", ".a", "a..", "u@a", "u:p@a", "a b", "a,b", "a/b", "a\\b", "a%2e", "a\x00", "ä", "a:b", "a:0",
		"a:080", "a:65536", "a:+1", "a:-1", "a:1:2", "::1", "[::1", "::1]", "[::1]x", "[::1%25eth0]", "[127.0.0.1]", "[]", "[a]", "a]:1", "*", long,
	} {
		if host, port, err := Host(authority); err == nil || l7.ReasonOf(err, "") != observe.BadRequest {
			t.Errorf("%q becomes %q, %d, %v", authority, host, port, err)
		}
	}
}

func TestMethods(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PURGE", "M-SEARCH", "VERSION-CONTROL"} {
		if err := Method(method); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	for _, method := range []string{"", "get", "Get", "GET ", "G\x00T", "G/T"} {
		if err := Method(method); l7.ReasonOf(err, "") != observe.BadRequest {
			t.Errorf("%q: %v", method, err)
		}
	}
}

func request(method, scheme, authority, path, query string) *l7.Request {
	return &l7.Request{Method: method, Scheme: scheme, Authority: authority, Path: path, RawQuery: query}
}

func TestRequestIsForwardedAsItIsJudged(t *testing.T) {
	r := request("GET", "https", "Example.org.:443", "/public/%2e%2e//adm%69n", "q=%2F..;x")
	if _, err := Request(r, 0); err != nil {
		t.Fatal(err)
	}
	if r.Host != "example.org" || r.Authority != "example.org" || r.Path != "/admin" || r.RawQuery != "q=%2F..;x" {
		t.Errorf("%+v", r)
	}
	for authority, want := range map[string]string{"a:80": "a", "a:443": "a:443", "A:8080": "a:8080", "a:8080": "a:8080", "a:": "a", "[::1]:80": "[::1]"} {
		r := request("GET", "http", authority, "/", "")
		if _, err := Request(r, 0); err != nil || r.Authority != want {
			t.Errorf("%q becomes %q, %v; want %q", authority, r.Authority, err, want)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	rows := []struct {
		name    string
		request *l7.Request
		reason  observe.Reason
	}{
		{"CONNECT", request("CONNECT", "https", "a:443", "", ""), observe.UpgradeRefused},
		{"lower-case method", request("get", "http", "a", "/", ""), observe.BadRequest},
		{"no host", request("GET", "http", "", "/", ""), observe.BadRequest},
		{"no scheme", request("GET", "", "a", "/", ""), observe.BadRequest},
		{"other scheme", request("GET", "gopher", "a", "/", ""), observe.BadRequest},
		{"no path", request("GET", "http", "a", "", ""), observe.BadRequest},
		{"asterisk of GET", request("GET", "http", "a", "*", ""), observe.BadRequest},
		{"asterisk with query", request("OPTIONS", "http", "a", "*", "x"), observe.BadRequest},
		{"fragment in the query", request("GET", "http", "a", "/", "x#y"), observe.BadRequest},
		{"line end in the query", request("GET", "http", "a", "/", "x\r\ny"), observe.BadRequest},
		{"ambiguous path", request("GET", "http", "a", "/a%2fb", ""), observe.AmbiguousPath},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if _, err := Request(row.request, 0); err == nil || l7.ReasonOf(err, "") != row.reason {
				t.Errorf("%v, want %s", err, row.reason)
			}
		})
	}
	if _, err := Request(request("OPTIONS", "http", "a", "*", ""), 0); err != nil {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("GET", "Example.org:80", "/a/%2e%2e/b", "q")
	f.Add("OPTIONS", "[::1]:443", "*", "")
	f.Add("POST", "a.", "//", "a=b")
	f.Fuzz(func(t *testing.T, method, authority, path, query string) {
		for _, scheme := range []string{"http", "https"} {
			once := request(method, scheme, authority, path, query)
			if _, err := Request(once, 0); err != nil {
				return
			}
			twice := request(once.Method, scheme, once.Authority, once.Path, once.RawQuery)
			if _, err := Request(twice, 0); err != nil || twice.Authority != once.Authority || twice.Host != once.Host || twice.Path != once.Path {
				t.Fatalf("%q %q become %+v and then %+v, %v", authority, path, once, twice, err)
			}
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	for name, path := range map[string]string{"canonical": "/api/v1/users/42/orders", "to be decoded": "/api/v1/caf%c3%a9/./x"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := &l7.Request{}
			for b.Loop() {
				*r = l7.Request{Method: "GET", Scheme: "https", Authority: "orders.example.org:8443", Path: path, RawQuery: "page=2"}
				if _, err := Request(r, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
