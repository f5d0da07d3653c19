package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Log appends events. Its methods may be called concurrently; events that arrive together share one wait for the disk.
type Log struct {
	dir  string
	opts Options
	lock *os.File

	turn    chan struct{} // held by the one who writes what is queued; guards the fields below it
	segment *os.File
	size    int64 // bytes of the segment that are acknowledged, or being written
	end     end

	mu     sync.Mutex
	queue  []*entry
	failed error // why nothing is written any more
	closed bool
}

// Options are the terms on which a log is opened. The zero value is right for production.
type Options struct {
	// Clock tells the time of events; nil means time.Now.
	Clock func() time.Time
	// MaxSegment is the size in bytes at which a new file is begun; 0 means 16 MiB. A file may be one batch larger.
	MaxSegment int64
}

// ErrClosed says that the log was closed.
var ErrClosed = errors.New("audit log is closed")

// ErrLocked says that another process has the log open.
var ErrLocked = errors.New("another process has it open")

// ErrDamaged says that a log is not what was written. The error's text names the file and the line.
var ErrDamaged = errors.New("audit log is damaged")

// batchEvents bounds what is written between two syncs.
const batchEvents = 256

// entry is one event on its way to the disk.
type entry struct {
	event Event
	done  chan struct{}
	// Set before done is closed.
	seq uint64
	err error
}

// Open opens the log in dir, or begins one; the folder is made too, for its owner only. It verifies the last two segments (Verify
// does all of them) and cuts off an unfinished last line. It returns ErrLocked while another process has the log open,
// and ErrDamaged, with file and line, when the log is not what was written.
func Open(dir string, opts Options) (*Log, error) {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.MaxSegment <= 0 {
		opts.MaxSegment = 16 << 20
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{dir: dir, opts: opts, lock: lock, turn: make(chan struct{}, 1)} // a buffer of one makes it a lock that a select can wait for
	if err := lockFile(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log %q: %w", dir, err), lock.Close())
	}
	if err := l.resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log %q: %w", dir, err), lock.Close())
	}
	return l, nil
}

// resume finds the end of the log and opens its last segment there.
func (l *Log) resume() error {
	segments, err := listSegments(l.dir)
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		return l.begin(1)
	}
	from := max(0, len(segments)-2)
	at, err := startOf(segments, from)
	if err != nil {
		return err
	}
	var good int64
	for i, s := range segments[from:] {
		last := from+i == len(segments)-1
		if at, good, err = scan(s, at, last, nil); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(segments[len(segments)-1].path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := cutBack(file, good); err != nil {
		return errors.Join(err, file.Close())
	}
	l.segment, l.size, l.end = file, good, at
	return nil
}

// begin makes a new segment whose first event will be seq.
func (l *Log) begin(seq uint64) error {
	path := filepath.Join(l.dir, segmentName(seq))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) // what it held before was never acknowledged
	if err != nil {
		return err
	}
	if err := syncFolder(l.dir); err != nil {
		return errors.Join(err, file.Close())
	}
	old := l.segment
	l.segment, l.size = file, 0
	if old != nil {
		return old.Close()
	}
	return nil
}

// Append writes the event with the next number and returns that number once the event is on disk. When it returns an error, the log
// holds nothing of the event. A context that ends while the event waits withdraws it; once it is being written,
// Append waits for the outcome.
//
// When the disk fails such that what it holds is unknown, this and every later call returns an error until the log is opened
// again: an unacknowledged event may then be found in it.
func (l *Log) Append(ctx context.Context, event Event) (uint64, error) {
	event, err := event.bounded()
	if err != nil {
		return 0, fmt.Errorf("append to audit log: %w", err)
	}
	seq, err := l.submit(ctx, &entry{event: event, done: make(chan struct{})})
	if err != nil {
		return 0, fmt.Errorf("append to audit log: %w", err)
	}
	return seq, nil
}

// submit queues e and sees it through. Whoever gets the turn writes what is queued, his own and others'.
func (l *Log) submit(ctx context.Context, e *entry) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := l.enqueue(e); err != nil {
		return 0, err
	}
	stop := ctx.Done()
	for {
		select {
		case <-e.done:
			return e.seq, e.err
		case l.turn <- struct{}{}:
			select {
			case <-e.done: // by the one who had the turn before
			default:
				l.writeBatch(l.dequeue())
			}
			<-l.turn
		case <-stop:
			if l.withdraw(e) {
				return 0, ctx.Err()
			}
			stop = nil // being written: the outcome is what the disk says
		}
	}
}

// writeBatch makes the batch durable and tells each its outcome.
func (l *Log) writeBatch(batch []*entry) {
	first, err := l.write(batch)
	for i, e := range batch {
		if err == nil {
			e.seq = first + uint64(i)
		}
		e.err = err
		close(e.done)
	}
}

// write appends the batch as one piece and returns the number of its first event. After an error the log ends where it did.
func (l *Log) write(batch []*entry) (uint64, error) {
	if err := l.failure(); err != nil {
		return 0, err
	}
	if l.size >= l.opts.MaxSegment {
		if err := l.begin(l.end.seq + 1); err != nil {
			return 0, fmt.Errorf("begin a segment: %w", err)
		}
	}
	var text []byte
	next := l.end
	for _, e := range batch {
		line, err := next.extend(e.event, l.opts.Clock())
		if err != nil {
			return 0, err
		}
		text = append(append(text, line...), '\n')
	}
	_, err := l.segment.WriteAt(text, l.size)
	if err == nil {
		err = l.segment.Sync()
	}
	if err != nil {
		return 0, l.undo(err)
	}
	first := l.end.seq + 1
	l.end = next
	l.size += int64(len(text))
	return first, nil
}

// undo takes back what a failed write left. If that fails too, or if the disk fails, nobody knows what the file holds, and no event
// is written behind it until Open has looked.
func (l *Log) undo(cause error) error {
	err := cutBack(l.segment, l.size)
	if err == nil {
		return cause
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = fmt.Errorf("nothing is written until the log is opened again: %w", errors.Join(cause, err))
	return l.failed
}

// Close waits for what is being written, and closes the files. Closing again does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	waiting := l.queue
	l.queue = nil
	l.mu.Unlock()

	for _, e := range waiting {
		e.err = ErrClosed
		close(e.done)
	}
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if err := errors.Join(l.segment.Close(), l.lock.Close()); err != nil { // closing the lock file unlocks it
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}

func (l *Log) enqueue(e *entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if l.failed != nil {
		return l.failed
	}
	l.queue = append(l.queue, e)
	return nil
}

func (l *Log) dequeue() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), batchEvents)
	batch := append([]*entry(nil), l.queue[:n]...)
	l.queue = append([]*entry(nil), l.queue[n:]...)
	return batch
}

func (l *Log) withdraw(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, queued := range l.queue {
		if queued == e {
			l.queue = append(l.queue[:i:i], l.queue[i+1:]...)
			return true
		}
	}
	return false
}

func (l *Log) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

const hashSize = sha256.Size

// end is where a log ends: the number and the hash of its last line. The zero value is the end of an empty one.
type end struct {
	seq  uint64
	hash string
}

// extend gives the event its place behind the end, and returns its line.
func (p *end) extend(event Event, now time.Time) ([]byte, error) {
	event.Seq, event.Time, event.Prev = p.seq+1, now.UTC(), p.hash
	line, err := event.encode()
	if err != nil {
		return nil, err
	}
	*p = end{seq: event.Seq, hash: lineHash(line)}
	return line, nil
}

func lineHash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// cutBack makes the file end at size, durably.
func cutBack(file *os.File, size int64) error {
	info, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if info == size {
		return nil
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Sync()
}
