package config

import "strings"

// Segment is one part of a pattern between two slashes.
type Segment struct {
	Kind SegmentKind
	// Text is the literal, or the name of a path template's parameter.
	Text string
}

// SegmentKind says what a segment stands for.
type SegmentKind uint8

// Kinds of segments. Rest is the last of its pattern.
const (
	Literal SegmentKind = iota // exactly its text
	One                        // one segment, not empty
	Rest                       // one segment or more; of a path template, the empty last segment too
)

// matchSegments compares without allocating. The path begins with a slash, or is empty for no segments at all. What Rest stands
// for must be there, if only as the slash in front of it; a SPIFFE ID never ends in a slash.
func matchSegments(segments []Segment, path string) bool {
	for _, segment := range segments {
		if path == "" {
			return false
		}
		path = path[1:]
		if segment.Kind == Rest {
			return true
		}
		end := strings.IndexByte(path, '/')
		if end < 0 {
			end = len(path)
		}
		part := path[:end]
		if segment.Kind == Literal && part != segment.Text || segment.Kind == One && part == "" {
			return false
		}
		path = path[end:]
	}
	return path == ""
}
