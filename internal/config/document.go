package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDocument bounds what is read: some twenty thousand policies. More belong into the authority's store.
	maxDocument = 4 << 20
	// maxDepth bounds nesting; the schema itself needs nine levels.
	maxDepth = 32
	// maxErrors bounds what is told of one document; nobody reads the thousandth.
	maxErrors = 500
)

// readDocument parses exactly one YAML document whose root is a mapping, and refuses what lets a small text become a large
// document (aliases) or changes types behind the schema's back (tags).
func readDocument(file string, data []byte) (*yaml.Node, Errors) {
	fail := func(at Position, code Code, message, hint string) (*yaml.Node, Errors) {
		return nil, Errors{{File: file, Line: at.Line, Column: at.Column, Code: code, Message: message, Hint: hint}}
	}
	if len(data) > maxDocument {
		return fail(Position{}, CodeTooLarge, fmt.Sprintf("the document has %d bytes, at most %d are read", len(data), maxDocument), "")
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return fail(Position{Line: 1, Column: 1}, CodeEmpty, "the document is empty", "begin with version: 1")
	} else if err != nil {
		return nil, Errors{syntaxError(file, data, err)}
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode && root.Kind != yaml.AliasNode {
		return fail(placeOf(root), CodeEmpty, "the document is "+kindOf(root)+", not a mapping of keys to values", "begin with version: 1")
	}
	if err := decoder.Decode(&second); err == nil {
		return fail(placeOf(second.Content[0]), CodeDocuments, "a second document begins here", "one file holds one document; remove the ---")
	} else if !errors.Is(err, io.EOF) {
		return nil, Errors{syntaxError(file, data, err)}
	}
	var errs Errors
	refuse(root, 1, func(node *yaml.Node, code Code, message, hint string) {
		if len(errs) <= maxErrors {
			at := placeOf(node)
			errs = append(errs, Error{File: file, Line: at.Line, Column: at.Column, Code: code, Message: message, Hint: hint})
		}
	})
	return root, errs
}

// refuse walks the document for what the schema never has.
func refuse(node *yaml.Node, depth int, fail func(node *yaml.Node, code Code, message, hint string)) {
	if depth > maxDepth {
		fail(node, CodeTooDeep, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
		return
	}
	switch {
	case node.Kind == yaml.AliasNode:
		fail(node, CodeAlias, "the alias *"+node.Value+" is not taken", "write the value out")
		return
	case node.Anchor != "":
		fail(node, CodeAlias, "the anchor &"+node.Anchor+" is not taken", "remove it, and write the value out where an alias stood")
	case node.Style&yaml.TaggedStyle != 0:
		fail(node, CodeTag, "the tag "+node.Tag+" is not taken", "remove it: a value gets its type from its key")
	}
	for _, child := range node.Content {
		refuse(child, depth+1, fail)
	}
}

func placeOf(node *yaml.Node) Position { return Position{Line: node.Line, Column: node.Column} }

// kindOf says what a reader of the file would call the node.
func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return scalarKind(node)
	default:
		return "an alias"
	}
}

func scalarKind(node *yaml.Node) string {
	switch node.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	default:
		return "text"
	}
}

// syntaxError finds the place that the YAML library means. It tells a line only, counts it from 0 for some errors, and names the
// line before for a tab.
func syntaxError(file string, data []byte, err error) Error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := errorLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	if fromZero.MatchString(message) {
		line++
	}
	lines := bytes.Split(data, []byte("\n"))
	e := Error{File: file, Code: CodeSyntax, Message: message}
	for _, at := range []int{line, line + 1} {
		if column := tabInIndent(lines, at); column > 0 {
			e.Line, e.Column = at, column
			e.Message, e.Hint = "a tab cannot indent", "indent with spaces"
			return e
		}
	}
	e.Line = min(max(line, 1), len(lines))
	e.Column = syntaxColumn(string(lines[e.Line-1]), message)
	e.Hint = syntaxHint(message)
	return e
}

// syntaxColumn is that of a second colon where that is the error, and of the first character otherwise.
func syntaxColumn(line, message string) int {
	if strings.Contains(message, "mapping values are not allowed") {
		first := strings.Index(line, ": ") + 1
		if second := strings.Index(line[first:], ":"); first > 0 && second >= 0 {
			return 1 + utf8.RuneCountInString(line[:first+second])
		}
	}
	return 1 + indentOf(line)
}

// fromZero are the errors of the library's parser, whose lines count from 0; those of its scanner count from 1.
var fromZero = regexp.MustCompile(`^did not find expected (key|'-'|','|node content|<)`)

var errorLine = regexp.MustCompile(`^line (\d+): `)

func tabInIndent(lines [][]byte, line int) (column int) {
	if line < 1 || line > len(lines) {
		return 0
	}
	text := lines[line-1]
	indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
	if len(indent) == len(text) {
		return 0
	}
	return 1 + bytes.IndexByte(indent, '\t')
}

func syntaxHint(message string) string {
	switch {
	case strings.Contains(message, "mapping values are not allowed"):
		return "a value with \": \" in it needs quotes, or the line is indented too far"
	case strings.Contains(message, "did not find expected key"), strings.Contains(message, "did not find expected '-'"):
		return "keys of one mapping, and items of one list, begin in the same column"
	case strings.Contains(message, "cannot start any token"):
		return "put the value in quotes"
	case strings.Contains(message, "could not find expected ':'"):
		return "a key is followed by a colon and a space"
	case strings.Contains(message, "',' or"):
		return "a bracket that is opened in this line is not closed, or a value needs quotes"
	case strings.Contains(message, "unexpected end of stream"):
		return "a closing quote is missing"
	default:
		return ""
	}
}
