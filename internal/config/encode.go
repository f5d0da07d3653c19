package config

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Effective returns the configuration as YAML with every default written out and every path resolved; secrets are hidden. But for
// those it parses to an equal configuration.
func (c *Config) Effective() []byte {
	var out bytes.Buffer
	writer := yaml.NewEncoder(&out)
	writer.SetIndent(2)
	writer.CompactSeqIndent()
	if err := writer.Encode(encoder{full: true}.section(reflect.ValueOf(c).Elem())); err != nil {
		panic(err) // a tree of plain nodes
	}
	return out.Bytes()
}

// EffectiveJSON is Effective as JSON on one line.
func (c *Config) EffectiveJSON() []byte {
	return appendJSON(nil, encoder{full: true}.section(reflect.ValueOf(c).Elem()))
}

// Hash names the effective configuration: the first 16 bytes of its SHA-256, in hexadecimal digits. It does not depend on comments,
// order of keys or defaults that are written out, nor on secrets.
func (c *Config) Hash() string {
	sum := sha256.Sum256(c.EffectiveJSON())
	return hex.EncodeToString(sum[:16])
}

// encoder turns sections into YAML nodes, whose keys stand in the order of the type.
type encoder struct {
	full bool // with defaults, otherwise only what differs from the zero value
}

func (e encoder) section(value reflect.Value) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range fieldsOf(value.Type()) {
		member := value.Field(f.index)
		if e.leaveOut(f, member) {
			continue
		}
		node.Content = append(node.Content, textNode(f.key), e.value(member))
	}
	return node
}

// leaveOut drops what was not there: what has no value, and, unless defaults are wanted, what is zero.
func (e encoder) leaveOut(f field, member reflect.Value) bool {
	if !member.IsZero() && (member.Kind() != reflect.Slice || member.Len() > 0 || f.required) {
		return false
	}
	switch member.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64:
		return !e.full || f.unset
	default:
		return true
	}
}

func (e encoder) value(value reflect.Value) *yaml.Node {
	switch v := value.Interface().(type) {
	case time.Duration:
		return textNode(formatDuration(v))
	case time.Time:
		return textNode(v.UTC().Format(time.RFC3339))
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			panic(err) // the types of this package and of spiffeid return none
		}
		return textNode(string(text))
	case map[string]string:
		node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			node.Content = append(node.Content, textNode(name), textNode(v[name]))
		}
		return node
	}
	switch value.Kind() {
	case reflect.Pointer:
		return e.value(value.Elem())
	case reflect.Struct:
		return e.section(value)
	case reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i := range value.Len() {
			node.Content = append(node.Content, e.value(value.Index(i)))
		}
		return node
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(value.Bool())}
	case reflect.Int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(value.Int(), 10)}
	default:
		return textNode(value.String())
	}
}

func textNode(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

func appendJSON(out []byte, node *yaml.Node) []byte {
	switch node.Kind {
	case yaml.MappingNode:
		out = append(out, '{')
		for i := 0; i+1 < len(node.Content); i += 2 {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendJSON(out, node.Content[i]), ':')
			out = appendJSON(out, node.Content[i+1])
		}
		return append(out, '}')
	case yaml.SequenceNode:
		out = append(out, '[')
		for i, item := range node.Content {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSON(out, item)
		}
		return append(out, ']')
	default:
		return appendScalar(out, node)
	}
}

func appendScalar(out []byte, node *yaml.Node) []byte {
	if node.Tag != "!!str" {
		return append(out, node.Value...)
	}
	text, err := json.Marshal(node.Value)
	if err != nil {
		panic(err) // a string
	}
	return append(out, text...)
}
