package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills Go values from YAML nodes and collects what does not fit; it never stops at the first error.
type decoder struct {
	source *source
	errs   Errors
	bad    map[string]bool // paths with an error; checks about them would only repeat it
}

func newDecoder(file, base string) *decoder {
	return &decoder{
		source: &source{file: file, base: base, places: map[string]Position{}},
		bad:    map[string]bool{},
	}
}

func (d *decoder) fail(node *yaml.Node, path string, code Code, message, hint string) {
	d.bad[path] = true
	if len(d.errs) <= maxErrors {
		d.errs = append(d.errs, Error{File: d.source.file, Line: node.Line, Column: node.Column, Path: path, Code: code, Message: message, Hint: hint})
	}
}

// section decodes a mapping into the struct.
func (d *decoder) section(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.fail(node, path, CodeType, "a mapping of keys to values is wanted, here is "+kindOf(node), keysHint(into.Type()))
		return
	}
	if section, ok := into.Addr().Interface().(defaulter); ok {
		section.setDefaults()
	}
	fields := fieldsOf(into.Type())
	seen := make(map[string]*yaml.Node, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		f := d.key(key, path, fields, seen)
		if f == nil {
			continue
		}
		at := join(path, f.key)
		d.source.places[at] = valuePlace(key, value)
		if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
			d.fail(key, at, CodeEmptyValue, "the key has no value", "leave the key out for its default")
			continue
		}
		if f.required && value.Kind == yaml.SequenceNode && len(value.Content) == 0 {
			d.fail(value, at, CodeEmptyValue, "the list is empty", "name at least one")
			continue
		}
		d.value(value, at, into.Field(f.index))
	}
	for _, f := range fields {
		if f.required && seen[f.key] == nil {
			d.fail(node, path, CodeMissing, fmt.Sprintf("the key %q is missing", f.key), "")
			d.bad[join(path, f.key)] = true
		}
	}
}

// valuePlace points at a value on its key's line, and at the key of a block below it.
func valuePlace(key, value *yaml.Node) Position {
	if value.Line != key.Line {
		return placeOf(key)
	}
	return placeOf(value)
}

// key looks the key up; nil when it is unknown or stood there before.
func (d *decoder) key(key *yaml.Node, path string, fields []field, seen map[string]*yaml.Node) *field {
	if key.Kind != yaml.ScalarNode {
		d.fail(key, path, CodeType, "a key is text, here is "+kindOf(key), "")
		return nil
	}
	at := join(path, key.Value)
	for i := range fields {
		if fields[i].key != key.Value {
			continue
		}
		if before := seen[key.Value]; before != nil {
			d.fail(key, at, CodeDuplicateKey, fmt.Sprintf("the key %q stands there twice, first in line %d", key.Value, before.Line), "remove one of them")
			return nil
		}
		seen[key.Value] = key
		return &fields[i]
	}
	if key.Value == "<<" {
		d.fail(key, at, CodeAlias, "merge keys are not taken", "write the keys out")
		return nil
	}
	if len(d.errs) > maxErrors {
		return nil // no further error will be told
	}
	d.bad[path] = true // what the key was meant to say is missing there
	d.fail(key, at, CodeUnknownKey, fmt.Sprintf("there is no key %q here", abbreviate(key.Value)), suggest(key.Value, keysOf(fields)))
	return nil
}

// value decodes any node into a value of any type that sections have.
func (d *decoder) value(node *yaml.Node, path string, into reflect.Value) {
	switch {
	case into.Kind() == reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.value(node, path, into.Elem())
	case isSection(into.Type()):
		d.section(node, path, into)
	case into.Kind() == reflect.Slice:
		d.list(node, path, into)
	case into.Kind() == reflect.Map:
		d.fieldMap(node, path, into)
	default:
		d.scalar(node, path, into)
	}
}

func (d *decoder) list(node *yaml.Node, path string, into reflect.Value) {
	element := into.Type().Elem()
	if node.Kind != yaml.SequenceNode {
		hint := "write a list"
		if node.Kind == yaml.ScalarNode {
			hint = "write [" + abbreviate(node.Value) + "]"
		}
		d.fail(node, path, CodeType, "a list is wanted, here is "+kindOf(node), hint)
		return
	}
	if len(node.Content) == 0 && !isSection(element) {
		d.fail(node, path, CodeEmptyValue, "the list is empty, which would mean neither nothing nor everything", "leave the key out for its default")
		return
	}
	list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.source.places[at] = placeOf(item)
		d.value(item, at, list.Index(i))
	}
	into.Set(list)
}

// fieldMap decodes names and values of header fields. Names are case-insensitive and kept in lower case.
func (d *decoder) fieldMap(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.fail(node, path, CodeType, "a mapping of names to values is wanted, here is "+kindOf(node), "write {name: value}")
		return
	}
	if len(node.Content) == 0 {
		d.fail(node, path, CodeEmptyValue, "the mapping is empty", "leave the key out for its default")
		return
	}
	fields := make(map[string]string, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := strings.ToLower(key.Value)
		at := join(path, name)
		d.source.places[at] = placeOf(value)
		_, twice := fields[name]
		switch {
		case key.Kind != yaml.ScalarNode || !isToken(name) || len(name) > maxFieldName:
			d.fail(key, path, CodeFormat, fmt.Sprintf("%q is not the name of a header field", abbreviate(key.Value)), "")
		case twice:
			d.fail(key, at, CodeDuplicateKey, fmt.Sprintf("the field %q stands there twice", name), "names of header fields are the same in any case")
		case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
			d.fail(value, at, CodeType, "text is wanted, here is "+kindOf(value), `write "" for an empty value`)
		case strings.ContainsFunc(value.Value, isControl) || strings.TrimSpace(value.Value) != value.Value:
			d.fail(value, at, CodeFormat, "the value of a header field has no control characters and no space at its ends", "")
		default:
			fields[name] = value.Value
		}
	}
	into.Set(reflect.ValueOf(fields))
}

func (d *decoder) scalar(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.ScalarNode || node.Tag == "!!null" {
		d.fail(node, path, CodeType, wanted(into.Type())+" is wanted, here is "+kindOf(node), "")
		return
	}
	if err := setScalar(node, into); err != nil {
		var refusal *refusal
		if !errors.As(err, &refusal) {
			refusal = refuseFormat(err.Error())
		}
		d.fail(node, path, refusal.code, refusal.message, refusal.hint)
	}
}

// refusal is an error of one scalar with its code and hint.
type refusal struct {
	code          Code
	message, hint string
}

func (r *refusal) Error() string { return r.message }

func refuseFormat(message string) *refusal { return &refusal{code: CodeFormat, message: message} }

// setScalar parses the text of the node as the type of the value wants it.
func setScalar(node *yaml.Node, into reflect.Value) error {
	text := node.Value
	if text == "" {
		return &refusal{CodeEmptyValue, "the value is empty", "leave the key out for its default"}
	}
	switch target := into.Addr().Interface().(type) {
	case *time.Duration:
		duration, err := parseDuration(text)
		*target = duration
		return err
	case *time.Time:
		at, err := time.Parse(time.RFC3339, text)
		*target = at.UTC()
		if err != nil {
			return &refusal{CodeFormat, fmt.Sprintf("%q is not a time", abbreviate(text)), "write it as 2027-01-31T00:00:00Z"}
		}
		return nil
	case *netip.Prefix:
		if err := target.UnmarshalText([]byte(text)); err != nil {
			return &refusal{CodeFormat, fmt.Sprintf("%q is not a network", abbreviate(text)), "write it as 10.0.0.0/8 or 2001:db8::/32"}
		}
		return nil
	case *PathTemplate:
		if err := target.UnmarshalText([]byte(text)); err != nil {
			return &refusal{CodePathTemplate, fmt.Sprintf("%q: %v", abbreviate(text), err), ""}
		}
		return nil
	case encoding.TextUnmarshaler:
		if err := target.UnmarshalText([]byte(text)); err != nil {
			return refuseFormat(withText(text, err))
		}
		return nil
	case enum:
		return setEnum(text, target, into)
	}
	return setPlain(node, into)
}

func setEnum(text string, kind enum, into reflect.Value) error {
	if partly, ok := kind.(partlyOffered); ok {
		if why, known := partly.notOffered()[text]; known {
			return &refusal{CodeNotOffered, why, "choose " + oneOf(kind.values())}
		}
	}
	for _, value := range kind.values() {
		if value == text {
			into.SetString(text)
			return nil
		}
	}
	return &refusal{CodeUnknownValue, fmt.Sprintf("%q is not one of the values", abbreviate(text)), suggest(text, kind.values())}
}

func setPlain(node *yaml.Node, into reflect.Value) error {
	switch into.Kind() {
	case reflect.Bool:
		if node.Tag != "!!bool" {
			return &refusal{CodeType, "true or false is wanted, here is " + quoted(node), "write true or false, without quotes"}
		}
		into.SetBool(strings.EqualFold(node.Value, "true"))
	case reflect.Int:
		n, err := strconv.ParseInt(node.Value, 10, 32)
		if err != nil || node.Tag != "!!int" {
			return &refusal{CodeType, "a whole number is wanted, here is " + quoted(node), "write digits, without quotes"}
		}
		into.SetInt(n)
	default:
		if strings.ContainsFunc(node.Value, isControl) {
			return refuseFormat("the text has a control character")
		}
		into.SetString(node.Value)
	}
	return nil
}

func quoted(node *yaml.Node) string { return fmt.Sprintf("%q", abbreviate(node.Value)) }

// withText puts what was read in front of an error that does not quote it.
func withText(text string, err error) string {
	if strings.Contains(err.Error(), strconv.Quote(text)) {
		return err.Error()
	}
	return fmt.Sprintf("%q: %v", abbreviate(text), err)
}

// abbreviate keeps what a message repeats of a document short.
func abbreviate(text string) string {
	const limit = 80
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a number"
	default:
		if t == durationType {
			return "a duration"
		}
		return "text"
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
)

// maxFieldName is longer than any name of a header field in use, and well below where YAML stops taking keys.
const maxFieldName = 256
