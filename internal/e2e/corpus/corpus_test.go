package corpus

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// run is a case on one listener, with what came of it.
type run struct {
	*testCase
	listener string
	pieces   bool // sent in small pieces
	behind   bool // sent behind a good request
	number   int
	outcome
}

func (r *run) manner() string {
	switch {
	case r.pieces:
		return r.protocol() + " in pieces"
	case r.behind:
		return r.protocol() + " behind another"
	}
	return r.protocol()
}

// Every case is refused, or reaches the upstream once, as what was judged: over HTTP/1.1 and HTTP/2, to upstreams of both.
func TestNoRequestReachesAnUpstreamDifferentlyFromWhatWasJudged(t *testing.T) {
	cases := requestCases()
	unique(t, cases)
	w := startWorld(t)
	var runs []*run
	for i := range cases {
		c := &cases[i]
		listener := c.on
		if listener == "" {
			listener = open
		}
		for _, kind := range kinds {
			runs = append(runs, &run{testCase: c, listener: listener + kind.suffix, number: len(runs)})
		}
		// Where the network cuts what is sent must not change anything, nor must a request in front of it.
		runs = append(runs, &run{testCase: c, listener: listener + kinds[0].suffix, pieces: true, number: len(runs)})
		if c.frames == nil {
			runs = append(runs, &run{testCase: c, listener: listener + kinds[0].suffix, behind: true, number: len(runs)})
		}
	}
	atOnce(runs, func(r *run) {
		dial := w.dial(r.listener, r.number)
		if r.pieces {
			dial = inPieces(dial)
		}
		if r.frames != nil {
			r.outcome = runHTTP2(dial, r.testCase)
		} else {
			r.outcome = runHTTP1(dial, r.testCase, r.behind)
		}
	})
	book := w.book()
	for _, r := range runs {
		t.Run(fmt.Sprintf("%s to %s/%s/%s", r.manner(), r.listener, r.class, r.name), func(t *testing.T) { r.judge(t, book) })
	}
	book.judge(t)
	w.explain(t, book)
	summarize(t, cases)
}

// unique checks that each case has a name of its own.
func unique(t *testing.T, cases []testCase) {
	names := map[string]bool{}
	for _, c := range cases {
		name := strings.Join([]string{c.protocol(), c.class, c.on, c.name}, " / ")
		if names[name] {
			t.Errorf("two cases have the name %q", name)
		}
		names[name] = true
		if c.send == "" && c.frames == nil || c.class == "" {
			t.Errorf("%q is empty", name)
		}
	}
}

// atOnce does the work of all, some at a time.
func atOnce[T any](list []T, work func(T)) {
	var working sync.WaitGroup
	gate := make(chan struct{}, 32)
	for _, item := range list {
		gate <- struct{}{}
		working.Go(func() {
			work(item)
			<-gate
		})
	}
	working.Wait()
}

// book is everything that is on record when all is done.
type book struct {
	bySource map[string][]line
	byID     map[string]line
	arrived  map[string][]record // by request id
	requests int
	problems []string
	kept     []string // decisions, of what was forwarded
}

// book waits until the record of every request that reached an upstream is written.
func (w *world) book() *book {
	var b *book
	err := w.soon(func() error {
		b = &book{bySource: map[string][]line{}, byID: map[string]line{}, arrived: map[string][]record{}}
		for _, l := range w.lines() {
			b.bySource[l.Source] = append(b.bySource[l.Source], l)
			if _, twice := b.byID[l.RequestID]; twice {
				b.problems = append(b.problems, "two lines with request id "+l.RequestID)
			}
			b.byID[l.RequestID] = l
		}
		for _, u := range w.upstreams {
			requests, problems := u.requests()
			b.problems = append(b.problems, problems...)
			for _, rec := range requests {
				id := rec.value("x-request-id")
				if rec.fields == nil {
					continue // not even a head
				}
				if b.requests++; b.byID[id].RequestID == "" {
					return fmt.Errorf("none for %q with id %q", rec.first, id)
				}
				b.arrived[id] = append(b.arrived[id], rec)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("a line of the access log for every request that was forwarded: %v", err)
	}
	return b
}

// judge holds what came of a case against what had to.
func (r *run) judge(t *testing.T, b *book) {
	if r.err != "" {
		t.Errorf("client: %s", r.err)
	}
	if r.want.seen == nil {
		r.judgeRefusal(t)
	} else {
		r.judgeAnswer(t)
	}
	var whole []record
	for _, l := range b.bySource[r.source] {
		for _, rec := range b.arrived[l.RequestID] {
			switch {
			case rec.values("x-after") != nil:
			case rec.whole:
				whole = append(whole, rec)
			case !r.want.begun:
				t.Errorf("the beginning of a request reached the upstream: %s", shown(rec))
			}
		}
	}
	refused := r.want.maybe && r.first.code != 200
	switch {
	case r.want.seen == nil || refused && (!r.want.passed || len(whole) == 0):
		for _, rec := range whole {
			t.Errorf("reached the upstream: %s", shown(rec))
		}
	case len(whole) != 1:
		t.Errorf("%d requests reached the upstream, want 1: %s", len(whole), shown(whole))
	default:
		for _, fault := range r.want.seen.unlike(&whole[0], r.source) {
			t.Error(fault)
		}
	}
	if t.Failed() {
		t.Logf("%s %q\nsent %s\nanswer %s\nlog %+v", r.want.why, r.source, r.describe(), abbreviate([]byte(shown(r.outcome))), b.bySource[r.source])
	}
}

func (r *run) describe() string {
	if r.frames != nil {
		return abbreviate([]byte(shown(r.frames)))
	}
	return abbreviate(fmt.Appendf(nil, "%q", r.send))
}

// shown is a value with its text quoted.
func shown(v any) string { return strings.ReplaceAll(fmt.Sprintf("%#v", v), "corpus.", "") }

// judgeRefusal wants a status or, over HTTP/2, an error of the stream or the connection; and silence after it.
func (r *run) judgeRefusal(t *testing.T) {
	code := r.first.code
	switch {
	case slices.Contains(r.want.status, code):
	case r.frames != nil && r.want.reset && !r.first.given && (r.first.reset || r.closed):
		if slices.Contains([]uint32{2, 7, 8}, r.first.error) {
			t.Errorf("ended with error code %d, which says that it was not the client's fault", r.first.error)
		}
	case r.want.silent && !r.first.given && r.closed:
	default:
		t.Errorf("answered with %d (reset %v, closed %v), want one of %v", code, r.first.reset, r.closed, r.want.status)
	}
	if r.frames != nil {
		if !r.closed && r.after.code != 200 {
			t.Errorf("the next request on the connection was answered with %d", r.after.code)
		}
		return
	}
	if !r.want.closes {
		return
	}
	if !r.closed {
		t.Error("the connection is still open")
	}
	framesOnly := r.want.silent && !r.first.given && !strings.Contains(r.extra, "HTTP/1") // of HTTP/2, to who began with its preface
	if r.extra != "" && !framesOnly {
		t.Errorf("after the answer came %q", r.extra)
	}
	if r.first.given && !strings.EqualFold(r.first.value("connection"), "close") {
		t.Errorf("the answer does not say that the connection closes: %q", r.first.fields)
	}
}

// judgeAnswer wants the upstream's answer to this very request, and to the next on the connection.
func (r *run) judgeAnswer(t *testing.T) {
	ended := r.want.maybe && r.frames != nil && (r.first.reset || r.closed) && !r.first.given
	if !slices.Contains(r.want.status, r.first.code) && !ended {
		t.Errorf("answered with %d %q (reset %v, closed %v), want one of %v", r.first.code, r.first.body, r.first.reset, r.closed, r.want.status)
	}
	if r.want.tunnel {
		if r.first.body != smuggled {
			t.Errorf("the tunnel brought back %q", r.first.body)
		}
	} else if r.first.code == 200 {
		r.own(t, &r.first, r.want.seen.method)
	}
	if r.after.code == 200 {
		r.own(t, &r.after, "GET")
	} else if r.after.given || r.frames != nil && !r.closed {
		t.Errorf("the next request on the connection was answered with %d %q", r.after.code, r.after.body)
	}
	if r.extra != "" && !r.first.upgraded {
		t.Errorf("the client got bytes that it did not ask for: %q", r.extra)
	}
}

// own wants an answer to be whole and of the request with its id.
func (r *run) own(t *testing.T, a *answer, method string) {
	if id := a.value("x-request-id"); method != "HEAD" && !a.upgraded && (!a.whole || id == "" || !strings.HasPrefix(a.body, id+" "+method+" ")) {
		t.Errorf("the answer to request %s (whole: %v) has the body %q", id, a.whole, a.body)
	}
}

// judge holds every request that arrived, of any case, against what was judged and against what no policy allows.
func (b *book) judge(t *testing.T) {
	t.Run("what every upstream got is what was judged", func(t *testing.T) {
		for _, problem := range b.problems {
			t.Error(problem)
		}
		for id, list := range b.arrived {
			l := b.byID[id]
			if len(list) != 1 {
				t.Errorf("%d requests with id %s", len(list), id)
			}
			for i := range list {
				for _, fault := range append(forbidden(l.Listener, &list[i]), differs(&list[i], &l)...) {
					t.Errorf("%s: %s\nin %s", l.Listener, fault, shown(list[i]))
				}
			}
			b.kept = append(b.kept, id)
		}
		for id, l := range b.byID {
			if l.Status == 200 && l.Effect == "allow" && len(b.arrived[id]) != 1 {
				t.Errorf("on record as answered by the upstream, which got it %d times: %+v", len(b.arrived[id]), l)
			}
		}
	})
}

// explain asks the operator's side for every decision that let a request pass, and wants the same.
func (w *world) explain(t *testing.T, b *book) {
	t.Run("what postern explains is what the upstream got", func(t *testing.T) {
		found := 0
		for _, id := range b.kept {
			l := b.byID[id]
			e, err := w.admin.ExplainDecision(t.Context(), l.Decision)
			if err != nil {
				continue // it left the ring
			}
			found++
			for _, rec := range b.arrived[id] {
				p, _, _ := strings.Cut(rec.target, "?")
				if e.Effect != "allow" || e.Method != rec.method || e.Host != rec.name() || e.Path != p {
					t.Errorf("decision %s is %s of %s %s %s, the upstream got %s %s %s", e.Decision, e.Effect, e.Method, e.Host, e.Path, rec.method, rec.host(), p)
				}
			}
		}
		t.Logf("%d of %d decisions", found, len(b.kept))
		if found < min(1000, len(b.kept)) { // the ring holds the last few thousand
			t.Errorf("only %d of %d decisions could be explained", found, len(b.kept))
		}
	})
}

// summarize tells how many cases there are.
func summarize(t *testing.T, cases []testCase) {
	counts := map[string]int{}
	for _, c := range cases {
		counts[c.protocol()]++
		counts[c.protocol()+" "+c.class]++
	}
	var list []string
	for name, n := range counts {
		list = append(list, fmt.Sprintf("%s: %d", name, n))
	}
	slices.Sort(list)
	t.Logf("%d cases\n%s", len(cases), strings.Join(list, "\n"))
}
