package authz_test

import (
	"testing"

	"github.com/postern-proxy/postern/authz"
)

func TestOnlyADecisionThatWasMadeAndAllowsYieldsAPermit(t *testing.T) {
	if (authz.Permit{}).Valid() {
		t.Error("the zero permit is valid")
	}
	for name, d := range map[string]authz.Decision{
		"zero":             {},
		"made by nobody":   {Effect: authz.Allow, ID: 1},
		"made, but denies": authz.Decided(authz.Decision{Effect: authz.Deny, ID: 1}),
	} {
		if p, ok := d.Permit(); ok || p.Valid() {
			t.Errorf("%s: it yields a permit", name)
		}
	}
	p, ok := authz.Decided(authz.Decision{Effect: authz.Allow, ID: 7}).Permit()
	if !ok || !p.Valid() || p.Decision() != 7 {
		t.Errorf("permit of decision %s: %v", p.Decision(), ok)
	}
}

func TestDecisionIDsAreUniqueAndReadBack(t *testing.T) {
	ids := authz.NewIDs()
	seen := map[authz.ID]bool{}
	for range 10_000 {
		id := ids.Next()
		if id == 0 || seen[id] {
			t.Fatalf("id %s is zero or stands twice", id)
		}
		seen[id] = true
		if back, err := authz.ParseID(id.String()); err != nil || back != id {
			t.Fatalf("%s reads back as %s: %v", id, back, err)
		}
	}
	for _, bad := range []string{"", "x", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg"} {
		if _, err := authz.ParseID(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
