package http2

import "time"

// What a peer may cost beyond what it asks for. An honest client cancels some of its requests, acknowledges what it reads and
// pings now and then; the floods of CVE-2019-9511 to 9518, CVE-2023-44487 (rapid reset) and CVE-2025-8671 (resets that we are made
// to send) do that and nothing else.
const (
	// freeResets is how many resets within resetPeriod are allowed in excess of half of the streams that began in it.
	freeResets  = 200
	resetPeriod = time.Minute
	// freeControl is how many frames within controlPeriod may come without need: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty
	// DATA, unknown frames, frames on closed streams.
	freeControl   = 1000
	controlPeriod = 10 * time.Second
	// What each event of the exchange gives reason for: clients send PRIORITY and WINDOW_UPDATE with a new stream, and one
	// WINDOW_UPDATE for the stream, one for the connection and one PING to measure the path for DATA that they read.
	creditPerStream = 4
	creditPerData   = 3
	// maxCredit keeps a long honest life from paying for a flood.
	maxCredit = 1000
)

// budget counts what one peer does, over time. The zero value is a new connection's.
type budget struct {
	streams, resets int
	resetsSince     time.Time

	control      int
	controlSince time.Time
	credit       int
}

// streamBegan counts a request.
func (b *budget) streamBegan() {
	b.streams++
	b.addCredit(creditPerStream)
}

// dataSent counts a DATA frame that the peer has to acknowledge sooner or later.
func (b *budget) dataSent() { b.addCredit(creditPerData) }

func (b *budget) addCredit(n int) { b.credit = min(b.credit+n, maxCredit) }

// reset counts a stream that the peer reset, or made us reset. It returns an error when there were too many.
func (b *budget) reset(now time.Time) *connError {
	if now.Sub(b.resetsSince) > resetPeriod {
		// Streams of the period before may be reset in this one.
		b.streams, b.resets, b.resetsSince = min(b.streams, freeResets), 0, now
	}
	b.resets++
	if b.resets > freeResets+b.streams/2 {
		return abuse("too many resets")
	}
	return nil
}

// controlFrame counts a frame that carries nothing. It returns an error when there were too many.
func (b *budget) controlFrame(now time.Time) *connError {
	if b.credit > 0 {
		b.credit--
		return nil
	}
	if now.Sub(b.controlSince) > controlPeriod {
		b.control, b.controlSince = 0, now
	}
	b.control++
	if b.control > freeControl {
		return abuse("too many control frames")
	}
	return nil
}
