package workloadattestor

import (
	"context"
	"strings"
	"testing"
)

const sampleStatus = "Name:\torders\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\nPPid:\t1\n" +
	"Uid:\t1000\t1001\t1002\t1003\nGid:\t100\t101\t102\t103\nFDSize:\t64\nGroups:\t4 24 27 \nNStgid:\t4711\n"

func TestStatusGivesEffectiveIDs(t *testing.T) {
	id, err := parseStatus([]byte(sampleStatus))
	if err != nil {
		t.Fatal(err)
	}
	if id.pid != 4711 || id.uid != 1001 || id.gid != 101 || len(id.supplementary) != 3 || id.dead {
		t.Errorf("read %+v", id)
	}
}

func TestStatusThatSaysTooLittleIsRefused(t *testing.T) {
	for _, test := range []struct{ name, from, to string }{
		{"no uid", "Uid:\t1000\t1001\t1002\t1003\n", ""},
		{"three uids", "1000\t1001\t1002\t1003", "1000\t1001\t1002"},
		{"a uid that is no number", "\t1001\t", "\troot\t"},
		{"a negative uid", "\t1001\t", "\t-1\t"},
		{"a uid beyond 32 bits", "\t1001\t", "\t4294967296\t"},
		{"no groups line", "Groups:\t4 24 27 \n", ""},
		{"a group that is no number", "4 24 27", "4 x 27"},
		{"no thread group", "Tgid:\t4711\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(sampleStatus, test.from, test.to, 1)
			if id, err := parseStatus([]byte(text)); err == nil {
				t.Errorf("accepted: %+v", id)
			}
		})
	}
}

func TestZombieIsDead(t *testing.T) {
	for _, state := range []string{"Z (zombie)", "X (dead)"} {
		id, err := parseStatus([]byte(strings.Replace(sampleStatus, "S (sleeping)", state, 1)))
		if err != nil || !id.dead {
			t.Errorf("state %q: %+v, %v", state, id, err)
		}
	}
}

// A process chooses its name; the kernel escapes newlines in it. Whatever stands there, a line of ours is only one that begins with its
// key, and nothing panics.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(sampleStatus))
	f.Add([]byte("Name:\tx\\nUid:\t0\t0\t0\t0\n"))
	f.Add([]byte("State:\n"))
	f.Add([]byte("Uid:\t\nGid:\t\nGroups:\t\nTgid:\t1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := parseStatus(data)
		if err == nil && len(id.supplementary) > maxGroups {
			t.Errorf("%d groups", len(id.supplementary))
		}
	})
}

func TestDigestCacheForgetsTheLeastRecentlyUsed(t *testing.T) {
	c := newDigestCache(2)
	key := func(inode uint64) fileKey { return fileKey{inode: inode} }
	c.put(key(1), "one")
	c.put(key(2), "two")
	c.get(key(1))
	c.put(key(3), "three")
	if _, ok := c.get(key(2)); ok {
		t.Error("the least recently used one is still there")
	}
	for inode, want := range map[uint64]string{1: "one", 3: "three"} {
		if sum, ok := c.get(key(inode)); !ok || sum != want {
			t.Errorf("file %d: %q, %t", inode, sum, ok)
		}
	}
	if len(c.known) != 2 || c.recent.Len() != 2 {
		t.Errorf("%d and %d digests held, want 2", len(c.known), c.recent.Len())
	}
}

func TestOneUserCannotTakeAllReaders(t *testing.T) {
	var r readers
	for range maxReaders {
		if err := r.enter(t.Context(), 1000); err != nil {
			t.Fatalf("refused below the limit: %v", err)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.enter(over, 1000); err == nil {
		t.Error("admitted above the limit")
	}
	if err := r.enter(t.Context(), 1001); err != nil {
		t.Errorf("another user is refused: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- r.enter(t.Context(), 1000) }()
	r.leave(1000)
	if err := <-waiting; err != nil {
		t.Errorf("refused after one has left: %v", err)
	}
	r.leave(1001)
	for range maxReaders {
		r.leave(1000)
	}
	if len(r.users) != 0 {
		t.Errorf("users left behind: %v", r.users)
	}
}
