package http2

import "sync"

// Sizes of the buffers that are lent out: one that holds most heads and the frames of a small exchange, one that holds the largest
// frame, and one for everything that many streams have pending together.
const (
	smallBuffer  = 4 << 10
	mediumBuffer = 18 << 10
	largeBuffer  = 64 << 10
)

// Buffers go round among all connections, because most connections need none most of the time.
var (
	smallBuffers  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	mediumBuffers = sync.Pool{New: func() any { return new([mediumBuffer]byte) }}
	largeBuffers  = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// borrow returns a buffer of at least that size, its length being its capacity.
func borrow(size int) []byte {
	switch {
	case size <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case size <= mediumBuffer:
		return mediumBuffers.Get().(*[mediumBuffer]byte)[:]
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
	case mediumBuffer:
		mediumBuffers.Put((*[mediumBuffer]byte)(buf[:mediumBuffer]))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(buf[:largeBuffer]))
	}
}

// grown returns buf with room for n more bytes behind its length, moved to a larger borrowed buffer if that takes one.
func grown(buf []byte, n int) []byte {
	if cap(buf)-len(buf) >= n {
		return buf
	}
	larger := borrow(max(len(buf)+n, 2*len(buf)))
	larger = larger[:copy(larger, buf)]
	giveBack(buf)
	return larger
}

// queue holds the bytes of a body that arrived and were not read yet, in small buffers: one byte in each of a hundred streams
// costs little more than a hundred small buffers. The zero value is empty. Its bound is the stream's window.
type queue struct {
	chunks [][]byte // the length of each is what it holds
	start  int      // of the first chunk's bytes that were not read
	size   int
}

// add copies p into the queue.
func (q *queue) add(p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		last := len(q.chunks) - 1
		if last < 0 || len(q.chunks[last]) == cap(q.chunks[last]) {
			q.chunks = append(q.chunks, borrow(smallBuffer)[:0])
			last++
		}
		chunk := q.chunks[last]
		n := copy(chunk[len(chunk):cap(chunk)], p)
		q.chunks[last] = chunk[:len(chunk)+n]
		p = p[n:]
	}
}

// take moves bytes into p.
func (q *queue) take(p []byte) int {
	total, done := 0, 0
	for total < len(p) && done < len(q.chunks) {
		n := copy(p[total:], q.chunks[done][q.start:])
		total += n
		q.start += n
		if q.start == len(q.chunks[done]) {
			giveBack(q.chunks[done])
			q.start = 0
			done++
		}
	}
	q.size -= total
	q.drop(done)
	return total
}

// drop forgets chunks that were given back.
func (q *queue) drop(n int) {
	if n == 0 {
		return
	}
	left := copy(q.chunks, q.chunks[n:])
	clear(q.chunks[left:])
	q.chunks = q.chunks[:left]
}

// clear gives everything back and returns how much it was.
func (q *queue) clear() int {
	for _, chunk := range q.chunks {
		giveBack(chunk)
	}
	n := q.size
	clear(q.chunks)
	*q = queue{chunks: q.chunks[:0]}
	return n
}
