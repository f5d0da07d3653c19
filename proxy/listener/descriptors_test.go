package listener

import (
	"net"
	"testing"
	"time"
)

func TestNoKindOfConnectionKeepsTheOtherOut(t *testing.T) {
	d := newDescriptors(func() int { return 80 })
	take := func(s *Share) (n int) {
		for s.Acquire() {
			n++
		}
		return n
	}
	if n := take(&d.accepted); n != 60 {
		t.Fatalf("accepted %d of 80, want three quarters", n)
	}
	if n := take(d.Dialed()); n != 20 || d.InUse() != 80 {
		t.Fatalf("dialled %d with 60 accepted, in use %d", n, d.InUse())
	}
	if d.Pipes().Acquire() {
		t.Fatal("a pipe beyond the limit")
	}
	d.accepted.Release()
	d.accepted.Release()
	if n := take(d.Pipes()); n != 1 || d.InUse() != 80 {
		t.Fatalf("%d pipes in two descriptors, in use %d", n, d.InUse())
	}
}

func TestAccountFollowsTheLimitOfTheProcess(t *testing.T) {
	limit := 8
	d := newDescriptors(func() int { return limit })
	limit = 0
	d.refresh()
	for range 100 {
		if !d.accepted.Acquire() {
			t.Fatal("refused without a limit")
		}
	}
	var none *Share
	if !none.Acquire() {
		t.Fatal("a nil Share refused")
	}
	none.Release()
	for limit, want := range map[int]int{64: 32, 256: 192, 1024: 960, 20000: 18750} {
		if got := dataPath(limit); got != want {
			t.Errorf("of %d descriptors the data path gets %d, want %d", limit, got, want)
		}
	}
}

func TestReserveComesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, ok := WithReserve(l, 2).(*reserved)
	if !ok {
		t.Fatal("not a reserve")
	}
	defer func() { _ = r.Close() }()
	given := 0
	for r.give() {
		given++
	}
	if given != 2 {
		t.Fatalf("%d descriptors were held back, want 2", given)
	}
	held := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.spare.held)
	}
	for begin := time.Now(); held() < 2; {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("%d of 2 came back", held())
		}
	}
}
