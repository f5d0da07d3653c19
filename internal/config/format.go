package config

import (
	"bytes"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Format returns the document in the one layout: two spaces for each level, list items in the column of their key, no trailing
// spaces, no two empty lines in a row, comments beside what they stand above. Words, quotes, order, flow style and comments stay as
// they are. It moves lines only, so it works on a document that is not valid configuration, as long as it is YAML without
// anchors and tags; and it compares what it read with what it wrote before it answers. An error is of type Errors.
func Format(data []byte) ([]byte, error) {
	text := bytes.TrimPrefix(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\uFEFF"))
	root, errs := readDocument("", text)
	if len(errs) > 0 {
		return nil, errs
	}
	if at := bytes.IndexAny(text, otherBreaks); at >= 0 {
		line := 1 + bytes.Count(text[:at], []byte("\n"))
		return nil, Errors{{Line: line, Code: CodeSyntax, Message: "a line ends in another character than a line feed", Hint: "end lines with a line feed"}}
	}
	f := newFormatter(text)
	f.block(root, 0)
	out := f.write()
	written, errs := readDocument("", out)
	if len(errs) > 0 || !sameTree(root, written) {
		return nil, Errors{{Line: f.doubt, Code: CodeSyntax, Message: "the layout of this document cannot be changed safely", Hint: "write one key on each line"}}
	}
	return out, nil
}

// otherBreaks end a line for YAML 1.1 and for nothing else.
const otherBreaks = "\r\u0085\u2028\u2029"

// formatter gives every line of a document its new indentation.
type formatter struct {
	lines  []string
	marks  [][]mark // by line: the block columns that begin on it, from the left
	inner  []inner  // by line: part of a value that began on an earlier line
	beside []bool   // by line: a comment that goes on from the end of the line above
	doubt  int      // a line that was not understood
}

// mark is a column in which keys of a mapping, or dashes of a list, stand.
type mark struct {
	old, new int // columns from 0
	dash     bool
}

// inner is a line inside of a value. It moves as far as the value's collection does.
type inner struct {
	set   bool
	delta int
}

func newFormatter(text []byte) *formatter {
	lines := strings.Split(string(text), "\n")
	return &formatter{lines: lines, marks: make([][]mark, len(lines)), inner: make([]inner, len(lines)), beside: make([]bool, len(lines))}
}

// block lays out a mapping or a list whose keys or dashes shall stand in the given column.
func (f *formatter) block(node *yaml.Node, column int) {
	if node.Kind == yaml.SequenceNode {
		old := node.Column - 1
		last := node.Line
		for _, item := range node.Content {
			line := f.dashLine(last, item.Line, old)
			f.mark(line, mark{old: old, new: column, dash: true})
			f.value(item, line, old, column, column+2)
			last = item.Line + 1
		}
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		old := key.Column - 1
		f.mark(key.Line, mark{old: old, new: column})
		below := column + 2
		if value.Kind == yaml.SequenceNode {
			below = column
		}
		f.value(value, key.Line, old, column, below)
	}
}

// value lays out what follows a key or a dash that stood in the line at the old column and moves to the column; a block below it
// goes to the column below.
func (f *formatter) value(node *yaml.Node, line, old, column, below int) {
	if isBlock(node) {
		f.block(node, below)
		return
	}
	if isNull(node) || node.Line > len(f.lines) {
		return
	}
	delta := column - old
	if node.Line > line {
		delta = column + 2 - (node.Column - 1)
		f.mark(node.Line, mark{old: node.Column - 1, new: column + 2})
	}
	for at := node.Line + 1; at <= f.endOf(node, old); at++ {
		f.inner[at-1] = inner{set: true, delta: delta}
	}
}

func isBlock(node *yaml.Node) bool {
	return node.Kind != yaml.ScalarNode && node.Style&yaml.FlowStyle == 0 && len(node.Content) > 0
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Value == "" && node.Style == 0
}

func (f *formatter) mark(line int, m mark) {
	if line < 1 || line > len(f.lines) {
		return
	}
	f.marks[line-1] = append(f.marks[line-1], m)
}

// dashLine finds the dash of an item, which may stand above it.
func (f *formatter) dashLine(from, item, column int) int {
	for line := min(item, len(f.lines)); line >= from && line > 0; line-- {
		text := f.lines[line-1]
		if len(text) > column && text[column] == '-' && strings.Trim(text[:column], " -") == "" {
			return line
		}
	}
	return item
}

// endOf is the last line of a value.
func (f *formatter) endOf(node *yaml.Node, parent int) int {
	switch {
	case node.Kind != yaml.ScalarNode:
		return f.endOfFlow(node.Line, node.Column)
	case node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return f.endOfLiteral(node.Line, parent)
	case node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		return f.endOfFlow(node.Line, node.Column)
	default:
		return f.endOfPlain(node)
	}
}

// endOfLiteral is the last line before one that is indented no deeper than the parent.
func (f *formatter) endOfLiteral(line, parent int) int {
	end := line
	for at := line + 1; at <= len(f.lines); at++ {
		text := f.lines[at-1]
		if strings.Trim(text, " ") == "" {
			continue
		}
		if indentOf(text) <= parent {
			break
		}
		end = at
	}
	return end
}

// endOfPlain finds the lines that an unquoted text goes on for: its words, less those on its first line.
func (f *formatter) endOfPlain(node *yaml.Node) int {
	words := len(strings.Fields(node.Value))
	first := []rune(f.lines[node.Line-1])
	words -= len(strings.Fields(string(first[min(node.Column-1, len(first)):])))
	end := node.Line
	for at := node.Line + 1; at <= len(f.lines) && words > 0; at++ {
		n := len(strings.Fields(f.lines[at-1]))
		if words -= n; n > 0 {
			end = at
		}
	}
	return end
}

// endOfFlow follows brackets and quotes from a place to where they are closed.
func (f *formatter) endOfFlow(line, column int) int {
	depth, quote := 0, rune(0)
	for at := line; at <= len(f.lines); at++ {
		text := []rune(f.lines[at-1])
		i := 0
		if at == line {
			i = min(column-1, len(text))
		}
		for before := ' '; i < len(text); i++ {
			c := text[i]
			switch {
			case quote == '"' && c == '\\':
				i++
			case quote != 0 && c == quote:
				quote = 0
			case quote != 0:
			case (c == '"' || c == '\'') && strings.ContainsRune(" [{,:", before):
				quote = c
			case c == '[' || c == '{':
				depth++
			case c == ']' || c == '}':
				depth--
			case c == '#' && before == ' ':
				i = len(text)
			}
			if depth == 0 && quote == 0 && (c == ']' || c == '}' || c == '"' || c == '\'') {
				return at
			}
			before = c
		}
	}
	return len(f.lines)
}

func (f *formatter) write() []byte {
	var out []string
	var open []mark // block columns around the current line
	blank := false
	for i, text := range f.lines {
		if f.inner[i].set {
			out = append(out, shift(text, f.inner[i].delta))
			continue
		}
		text = strings.TrimRight(text, " \t")
		if text == "" {
			blank = len(out) > 0
			continue
		}
		if blank {
			out = append(out, "")
			blank = false
		}
		switch marks := f.marks[i]; {
		case len(marks) > 0:
			open = enclose(open, marks)
			out = append(out, reindent(text, marks))
		case strings.HasPrefix(strings.TrimLeft(text, " \t"), "#"):
			trimmed := strings.TrimLeft(text, " \t")
			column, goesOn := f.besideComment(i, len(text)-len(trimmed), out)
			if !goesOn {
				column = f.commentColumn(i, len(text)-len(trimmed), open)
			}
			out = append(out, strings.Repeat(" ", column)+trimmed)
		default: // --- and the like
			f.doubt = i + 1
			out = append(out, text)
		}
	}
	return []byte(strings.Join(out, "\n") + "\n")
}

// enclose leaves the columns left of the line's first, and adds the line's own.
func enclose(open, marks []mark) []mark {
	left := slices.IndexFunc(open, func(m mark) bool { return m.old >= marks[0].old && (m.old > marks[0].old || !marks[0].dash || m.dash) })
	if left >= 0 {
		open = open[:left]
	}
	return append(open, marks...)
}

// reindent writes the line with its dashes and first key in their new columns.
func reindent(text string, marks []mark) string {
	var b strings.Builder
	rest := text
	for i, m := range marks {
		b.WriteString(strings.Repeat(" ", max(m.new-b.Len(), 0)))
		rest = text[min(m.old, len(text)):]
		if m.dash && i < len(marks)-1 {
			b.WriteByte('-')
		}
	}
	if last := marks[len(marks)-1]; last.dash && len(rest) > 1 {
		rest = "- " + strings.TrimLeft(rest[1:], " ")
	}
	return b.String() + rest
}

// besideComment keeps a comment that goes on from the end of the line above it in its column there.
func (f *formatter) besideComment(line, old int, out []string) (column int, ok bool) {
	if line == 0 || len(out) == 0 || f.inner[line-1].set {
		return 0, false
	}
	above := strings.TrimRight(f.lines[line-1], " \t")
	if old == 0 || old >= len(above) || above[old] != '#' || above[old-1] != ' ' || indentOf(above) == old && !f.beside[line-1] {
		return 0, false
	}
	f.beside[line] = true
	return max(old+len(out[len(out)-1])-len(above), 0), true
}

// commentColumn puts a comment beside the line below it when it stood in its column, and otherwise into the innermost block around
// it whose column it had reached.
func (f *formatter) commentColumn(line, old int, open []mark) int {
	for below := line + 1; below < len(f.lines); below++ {
		if marks := f.marks[below]; len(marks) > 0 {
			if old == marks[0].old {
				return marks[0].new
			}
			break
		}
	}
	for _, m := range slices.Backward(open) {
		if m.old <= old {
			return m.new
		}
	}
	return 0
}

func shift(text string, delta int) string {
	if delta < 0 {
		return text[min(-delta, indentOf(text)):]
	}
	if text == "" {
		return ""
	}
	return strings.Repeat(" ", delta) + text
}

func indentOf(text string) int { return len(text) - len(strings.TrimLeft(text, " ")) }

// sameTree compares two documents by what they say: kinds, values and their order.
func sameTree(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Value != b.Value || a.Tag != b.Tag || len(a.Content) != len(b.Content) {
		return false
	}
	for i := range a.Content {
		if !sameTree(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}
