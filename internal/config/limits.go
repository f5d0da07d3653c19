package config

import "time"

// Limits bound what a peer can make a listener hold.
type Limits struct {
	// MaxConnections is how many connections a listener holds; more are closed at accept.
	MaxConnections int `config:"max_connections"`
	// MaxHead is the size of a request's or a response's head, its first line included.
	MaxHead Size `config:"max_head"`
	// MaxFields is the number of header fields of a message; of trailer fields too.
	MaxFields int `config:"max_fields"`
	// MaxBody is the size of a request's body. 0: no bound, bodies are streamed and not held.
	MaxBody Size `config:"max_body"`
	// MinBodyRate is how many bytes of a request's body must come each second, on average and after the first five. 0: any.
	MinBodyRate Size `config:"min_body_rate"`
	// MaxStreams is how many requests an HTTP/2 connection may have under way.
	MaxStreams int `config:"max_streams"`
	// MaxRequests is how many requests the listener may have under way; more are answered 429. 0: no bound.
	MaxRequests int `config:"max_requests"`
	// PerIdentity bounds what one caller can hold of this listener.
	PerIdentity PerIdentity `config:"per_identity"`
}

// PerIdentity bounds one caller: a SPIFFE ID, or the address (IPv6: the /64) of an anonymous one. 0 is no bound.
type PerIdentity struct {
	// MaxConnections is how many connections the caller may have; more are closed after the handshake.
	MaxConnections int `config:"max_connections"`
	// MaxRequests is how many requests it may have under way; more are answered 429.
	MaxRequests int `config:"max_requests"`
	// RequestsPerSecond is how many it may begin in a second; more are answered 429. As many may come at once.
	RequestsPerSecond int `config:"requests_per_second"`
}

// Timeouts bound how long a peer can make a listener wait.
type Timeouts struct {
	// Handshake is the time from accept to the end of the TLS handshake.
	Handshake time.Duration `config:"handshake"`
	// Head is the time from the first byte of a request to the end of its head.
	Head time.Duration `config:"head"`
	// Idle is how long a connection may wait for its next request.
	Idle time.Duration `config:"idle"`
	// BodyIdle is the longest pause inside a request's body, or in which a peer takes nothing of the response.
	BodyIdle time.Duration `config:"body_idle"`
	// StreamIdle is the longest silence in both directions of a TCP connection or an upgraded one.
	StreamIdle time.Duration `config:"stream_idle"`
	// MaxConnection is the longest life of a connection. 0: it ends with the credentials that opened it, or by itself.
	MaxConnection time.Duration `config:"max_connection"`
}

// Shutdown says how the process ends.
type Shutdown struct {
	// DrainTimeout is how long requests and connections under way may finish after SIGTERM.
	DrainTimeout time.Duration `config:"drain_timeout"`
}

func (l *Limits) setDefaults() {
	l.MaxConnections = 10_000
	l.MaxHead = 64 * KiB
	l.MaxFields = 100
	l.MinBodyRate = 240
	l.MaxStreams = 100
}

func (t *Timeouts) setDefaults() {
	t.Handshake = 10 * time.Second
	t.Head = 10 * time.Second
	t.Idle = time.Minute
	t.BodyIdle = time.Minute
	t.StreamIdle = time.Hour
}

func (s *Shutdown) setDefaults() { s.DrainTimeout = 30 * time.Second }

func (l *Limits) check(k *checker, path string) {
	k.count(path+".max_connections", l.MaxConnections, 1, 1_000_000)
	k.size(path+".max_head", l.MaxHead, KiB, MiB)
	k.count(path+".max_fields", l.MaxFields, 1, 10_000)
	k.count(path+".max_streams", l.MaxStreams, 1, 100_000)
	k.count(path+".max_requests", l.MaxRequests, 0, 10_000_000)
	k.size(path+".min_body_rate", l.MinBodyRate, 0, GiB)
	l.PerIdentity.check(k, path+".per_identity")
}

func (p *PerIdentity) check(k *checker, path string) {
	k.count(path+".max_connections", p.MaxConnections, 0, 1_000_000)
	k.count(path+".max_requests", p.MaxRequests, 0, 10_000_000)
	k.count(path+".requests_per_second", p.RequestsPerSecond, 0, 10_000_000)
}

func (t *Timeouts) check(k *checker, path string) {
	k.between(path+".handshake", t.Handshake, time.Millisecond, 10*time.Minute)
	k.between(path+".head", t.Head, time.Millisecond, 10*time.Minute)
	k.between(path+".idle", t.Idle, time.Millisecond, day)
	k.between(path+".body_idle", t.BodyIdle, time.Millisecond, day)
	k.between(path+".stream_idle", t.StreamIdle, time.Millisecond, year)
	k.orZero(path+".max_connection", t.MaxConnection, time.Second, year)
}
