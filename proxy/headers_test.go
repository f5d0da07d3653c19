package proxy

import (
	"slices"
	"testing"

	"github.com/postern-proxy/postern/proxy/l7"
)

func TestOnlyTrustedHopsAreBelieved(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []string
		hops   int
		want   []string
	}{
		{"none trusted", []string{"1.1.1.1"}, 0, nil},
		{"the last one", []string{"1.1.1.1, 2.2.2.2"}, 1, []string{"2.2.2.2"}},
		{"over several fields", []string{"1.1.1.1", "2.2.2.2, 3.3.3.3"}, 2, []string{"2.2.2.2", "3.3.3.3"}},
		{"fewer than hops", []string{"1.1.1.1"}, 3, []string{"1.1.1.1"}},
		{"what is no address ends the list", []string{"1.1.1.1, evil, 3.3.3.3"}, 3, []string{"3.3.3.3"}},
		{"nothing there", nil, 2, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &l7.Header{}
			for _, v := range test.values {
				h.Add("X-Forwarded-For", v)
			}
			if got := trustedFor(h, test.hops); !slices.Equal(got, test.want) {
				t.Fatalf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestRequestIDOfAClientMustBePlain(t *testing.T) {
	for id, want := range map[string]bool{"abc-1.2:3_4": true, "": false, "a b": false, "a\"b": false, "a/b": false, "é": false, "@": false, "[": false} {
		if plainID(id) != want {
			t.Errorf("plainID(%q) = %v", id, !want)
		}
	}
}
