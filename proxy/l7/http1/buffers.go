package http1

import "sync"

// Sizes of the buffers that are lent out: one that holds nearly every head and small message, and one with which contents are
// moved (two TLS records).
const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10
)

// Buffers go round among all connections, because most connections need none most of the time.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// borrow returns a buffer of at least that size, its length being its capacity.
func borrow(size int) []byte {
	switch {
	case size <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case size <= largeBuffer:
		return largeBuffers.Get().(*[largeBuffer]byte)[:]
	default:
		return make([]byte, size)
	}
}

// giveBack takes a buffer from borrow, or one that append has grown since, which is left to the garbage collector. Nil is fine.
func giveBack(buf []byte) {
	switch cap(buf) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(buf[:smallBuffer]))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(buf[:largeBuffer]))
	}
}
