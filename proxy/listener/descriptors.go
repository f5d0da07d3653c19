package listener

import "sync/atomic"

// Descriptors is the account of the file descriptors of the data path. Connections, accepted and dialled, take theirs from it, so
// that there are always some left for what is not the data path: the admin socket, the store, logs, credentials, name resolution.
// A process that has none left cannot say what is wrong with it, nor be told to do something about it. Safe for concurrent use.
type Descriptors struct {
	limit atomic.Int64 // 0: none
	used  atomic.Int64
	read  func() int // the limit as it is now

	accepted, dialed, pipes Share
}

// Share is the part of the account that one kind of use may take. A nil Share has no limit. Safe for concurrent use.
type Share struct {
	of *Descriptors
	// parts of eight are the most that the kind may take.
	parts int64
	// each is how many descriptors one takes.
	each int64
	used atomic.Int64
}

// newDescriptors returns an account with the limit that read returns; zero or less is none.
func newDescriptors(read func() int) *Descriptors {
	d := &Descriptors{read: read}
	// Neither kind of connection can keep the other out: clients that only sit there leave room to dial for those that ask, and
	// pooled connections leave room to accept.
	d.accepted.of, d.accepted.parts, d.accepted.each = d, 6, 1
	d.dialed.of, d.dialed.parts, d.dialed.each = d, 6, 1
	d.pipes.of, d.pipes.parts, d.pipes.each = d, 1, 2
	d.refresh()
	return d
}

// refresh looks whether the limit of the process has changed.
func (d *Descriptors) refresh() { d.limit.Store(int64(max(d.read(), 0))) }

// Limit is how many descriptors the data path may have open; zero when nothing limits it.
func (d *Descriptors) Limit() int { return int(d.limit.Load()) }

// InUse is how many it has.
func (d *Descriptors) InUse() int { return int(d.used.Load()) }

// Dialed is the share of connections to upstreams.
func (d *Descriptors) Dialed() *Share { return &d.dialed }

// Pipes is the share of the pipes through which bytes are spliced; one takes two descriptors.
func (d *Descriptors) Pipes() *Share { return &d.pipes }

// Acquire takes one from the account and reports whether there was one. Each wants one Release.
func (s *Share) Acquire() bool {
	if s == nil {
		return true
	}
	limit := s.of.limit.Load()
	mine, all := s.used.Add(s.each), s.of.used.Add(s.each)
	if limit == 0 || mine <= limit*s.parts/8 && all <= limit {
		return true
	}
	s.Release()
	return false
}

// Release gives one back.
func (s *Share) Release() {
	if s == nil {
		return
	}
	s.used.Add(-s.each)
	s.of.used.Add(-s.each)
}

// dataPath is the part of a process's limit that is the data path's: all but a sixteenth, or but 64 where that is more.
func dataPath(limit int) int { return limit - min(max(limit/16, 64), limit/2) }
