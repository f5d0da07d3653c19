package app

import "testing"

func TestMemoryIsGivenBackAfterManyConnectionsHaveEnded(t *testing.T) {
	for _, c := range []struct {
		name      string
		most, now int
		want      bool
	}{
		{"a flood is over", 9100, 100, true},
		{"half of it", 9100, 4550, true},
		{"a third of it", 9100, 6000, false},
		{"a few connections ended", 300, 20, false},
		{"nothing ended", 9100, 9100, false},
	} {
		if got := worthCollecting(c.most, c.now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
