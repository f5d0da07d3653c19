package http1

import "time"

// pace holds a peer to a minimum rate, for the time only in which it is waited for. It is an account of time: the peer begins with
// the grace, waiting is taken from it, and each byte adds what it may cost. When nothing is left the wait ends. What a fast peer
// earned is worth a pause, but not more than limit, so that nobody saves up for hours. The zero value asks for nothing.
type pace struct {
	rate   int // bytes per second, 0 for none
	credit time.Duration
	limit  time.Duration
}

// paceGrace is the credit of a message that begins: a peer far away may need it to get going.
const paceGrace = 5 * time.Second

// begin starts the account of one message; limit is the longest single wait.
func (p *pace) begin(rate int, limit time.Duration) {
	*p = pace{rate: rate, credit: paceGrace, limit: max(limit, paceGrace)}
}

// deadline is when a wait that begins now has to end: the given deadline, or earlier when the credit ends before, to which the n
// bytes are added that the peer will have taken. The zero deadline is none.
func (p *pace) deadline(deadline, now time.Time, n int) time.Time {
	if p.rate == 0 {
		return deadline
	}
	if end := now.Add(p.credit + p.worth(n)); deadline.IsZero() || end.Before(deadline) {
		return end
	}
	return deadline
}

// took settles a wait that brought n bytes.
func (p *pace) took(n int, waited time.Duration) {
	if p.rate > 0 {
		p.credit = min(p.credit+p.worth(n)-waited, p.limit)
	}
}

func (p *pace) worth(n int) time.Duration {
	return time.Duration(n) * (time.Second / time.Duration(p.rate))
}
