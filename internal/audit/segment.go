package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// segment is one file of a log, named by the number of its first event so that names sort by age.
type segment struct {
	path  string
	first uint64
}

const segmentSuffix = ".jsonl"

var errNoLine = errors.New("the first line is not finished")

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// listSegments returns the segments of dir, oldest first.
func listSegments(dir string) ([]segment, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []segment
	for _, f := range files {
		number, isSegment := strings.CutSuffix(f.Name(), segmentSuffix)
		if !isSegment {
			continue
		}
		first, err := strconv.ParseUint(number, 10, 64)
		if err != nil || f.Name() != segmentName(first) || first == 0 {
			return nil, fmt.Errorf("%w: %s: no name of a segment", ErrDamaged, f.Name())
		}
		segments = append(segments, segment{path: filepath.Join(dir, f.Name()), first: first})
	}
	slices.SortFunc(segments, func(x, y segment) int { return strings.Compare(x.path, y.path) })
	return segments, nil
}

// startOf returns the end of the log before segment i. For a segment in the middle its own first line is believed: what stands
// before it is not read.
func startOf(segments []segment, i int) (end, error) {
	if i == 0 {
		if len(segments) > 0 && segments[0].first != 1 {
			return end{}, fmt.Errorf("%w: %s: the segments before it are missing", ErrDamaged, filepath.Base(segments[0].path))
		}
		return end{}, nil
	}
	file, err := os.Open(segments[i].path)
	if err != nil {
		return end{}, err
	}
	line, whole, err := nextLine(bufio.NewReaderSize(file, maxLine))
	if err := errors.Join(err, file.Close()); err != nil {
		return end{}, err
	}
	if !whole {
		return end{}, damage(segments[i], 1, errNoLine)
	}
	first, err := decode(line)
	if err != nil {
		return end{}, damage(segments[i], 1, err)
	}
	return end{seq: segments[i].first - 1, hash: first.Prev}, nil
}

// scan reads a segment behind the end at. It returns the end behind it and the length of its whole lines. An unfinished last
// line is damage, except in the last segment, where a crash or a writer at work leaves one.
// visit, if any, sees each event and may stop the scan by returning false.
func scan(s segment, at end, last bool, visit func(Event) bool) (end, int64, error) {
	if s.first != at.seq+1 {
		return at, 0, fmt.Errorf("%w: %s: event %d should come first", ErrDamaged, filepath.Base(s.path), at.seq+1)
	}
	file, err := os.Open(s.path)
	if err != nil {
		return at, 0, err
	}
	at, good, err := scanLines(s, bufio.NewReaderSize(file, maxLine), at, last, visit)
	return at, good, errors.Join(err, file.Close())
}

func scanLines(s segment, lines *bufio.Reader, at end, last bool, visit func(Event) bool) (end, int64, error) {
	good := int64(0)
	for number := 1; ; number++ {
		line, whole, err := nextLine(lines)
		if err != nil {
			return at, good, damage(s, number, err)
		}
		if !whole {
			if len(line) > 0 && !last {
				return at, good, damage(s, number, errors.New("the line is not finished"))
			}
			return at, good, nil
		}
		event, err := decode(line)
		if err != nil {
			return at, good, damage(s, number, err)
		}
		if event.Seq != at.seq+1 {
			return at, good, damage(s, number, fmt.Errorf("event %d where %d should be", event.Seq, at.seq+1))
		}
		if event.Prev != at.hash {
			return at, good, damage(s, number, errors.New("the line before it is not the one that was written"))
		}
		at = end{seq: event.Seq, hash: lineHash(line)}
		good += int64(len(line)) + 1
		if visit != nil && !visit(event) {
			return at, good, nil
		}
	}
}

// nextLine returns the next line without its line feed. whole is false for what stands behind the last line feed, if anything.
// The bytes are good until the next call.
func nextLine(lines *bufio.Reader) (line []byte, whole bool, err error) {
	line, err = lines.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return line, false, nil
	}
	if err != nil {
		return nil, false, err // also a line longer than any that is written
	}
	return bytes.TrimSuffix(line, []byte("\n")), true, nil
}

func damage(s segment, line int, cause error) error {
	return fmt.Errorf("%w: %s:%d: %w", ErrDamaged, filepath.Base(s.path), line, cause)
}

// Verify reads the whole log in dir, which may be in use, and returns nil when every event is as it was written, or
// ErrDamaged with file and line of the first that is not. An unfinished last line is not part of the log.
func Verify(dir string) error {
	for _, err := range Read(dir, 1) {
		if err != nil {
			return err
		}
	}
	return nil
}

// Read yields the events of the log in dir, which may be in use, from number from on up to the last one there is at the time. The
// events are verified as in Verify, from the beginning of the segment that from is in. An error ends the iteration.
func Read(dir string, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		segments, err := listSegments(dir)
		if err != nil {
			yield(Event{}, fmt.Errorf("read audit log: %w", err))
			return
		}
		start := 0
		for i, s := range segments {
			if s.first <= from {
				start = i
			}
		}
		if err := readSegments(segments, start, from, yield); err != nil {
			yield(Event{}, fmt.Errorf("read audit log: %w", err))
		}
	}
}

func readSegments(segments []segment, start int, from uint64, yield func(Event, error) bool) error {
	if len(segments) == 0 {
		return nil
	}
	at, err := startOf(segments, start)
	if errors.Is(err, errNoLine) && start == len(segments)-1 {
		return nil // begun, and nothing acknowledged in it yet
	}
	if err != nil {
		return err
	}
	stopped := false
	for i, s := range segments[start:] {
		last := start+i == len(segments)-1
		at, _, err = scan(s, at, last, func(e Event) bool {
			stopped = e.Seq >= from && !yield(e, nil)
			return !stopped
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}
