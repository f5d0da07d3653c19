package config

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// SchemaID names this version of the schema for editors.
const SchemaID = "https://postern-proxy.github.io/schema/v1.json"

// Schema returns the JSON Schema (2020-12) of a configuration, for editors and for tools that write configurations. What it
// accepts may still be refused by Parse, which also holds the sections against each other; what Parse accepts, it accepts.
func Schema() []byte {
	s := schemaWriter{definitions: map[string]any{}}
	root := s.section(reflect.TypeFor[Config]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "postern configuration"
	delete(root, "description")
	root["$defs"] = s.definitions
	var out bytes.Buffer
	writer := json.NewEncoder(&out)
	writer.SetEscapeHTML(false)
	writer.SetIndent("", "  ")
	if err := writer.Encode(root); err != nil {
		panic(err) // maps, lists and text
	}
	return out.Bytes()
}

type schemaWriter struct{ definitions map[string]any }

// section describes a struct; each other struct goes into $defs once.
func (s *schemaWriter) section(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	defaults := defaultsOf(t)
	for _, f := range fieldsOf(t) {
		property := s.value(f.typ)
		property["description"] = keyComment(t, f)
		if value, ok := defaultText(f, defaults.Field(f.index)); ok {
			property["default"] = value
		}
		if f.required {
			required = append(required, f.key)
			if f.typ.Kind() == reflect.Slice {
				property["minItems"] = 1
			}
		}
		properties[f.key] = property
	}
	section := map[string]any{"type": "object", "additionalProperties": false, "properties": properties, "description": sectionComment(t)}
	if len(required) > 0 {
		section["required"] = required
	}
	return section
}

func (s *schemaWriter) value(t reflect.Type) map[string]any {
	switch {
	case t.Kind() == reflect.Pointer:
		return s.value(t.Elem())
	case isSection(t):
		if s.definitions[t.Name()] == nil {
			s.definitions[t.Name()] = true // against recursion; replaced below
			s.definitions[t.Name()] = s.section(t)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case t.Kind() == reflect.Slice:
		list := map[string]any{"type": "array", "items": s.value(t.Elem())}
		if !isSection(t.Elem()) {
			list["minItems"] = 1
		}
		return list
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "minProperties": 1, "additionalProperties": map[string]any{"type": scalarTypes}}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int:
		return map[string]any{"type": "integer"}
	}
	return s.text(t)
}

func (s *schemaWriter) text(t reflect.Type) map[string]any {
	zero := reflect.New(t).Elem().Interface()
	if kind, ok := zero.(enum); ok {
		values := []any{}
		for _, value := range kind.values() {
			values = append(values, value)
			if _, err := strconv.ParseFloat(value, 64); err == nil { // 1.3 without quotes is a number to YAML
				values = append(values, json.Number(value))
			}
		}
		return map[string]any{"enum": values}
	}
	form := map[string]any{"type": "string", "minLength": 1}
	switch zero.(type) {
	case time.Duration:
		form["pattern"] = `^(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|ms|s|m|h|d|w|y))+$`
		form["type"] = []string{"string", "integer"}
	case Size:
		form["pattern"] = `^[0-9]+(B|KiB|MiB|GiB)?$`
		form["type"] = []string{"string", "integer"}
	case spiffeid.ID:
		form["pattern"] = `^[Ss][Pp][Ii][Ff][Ff][Ee]://`
	case IDPattern:
		form["pattern"] = `^spiffe://[^*/]+/.+`
	case PrincipalPattern:
		form["pattern"] = `^(anonymous|spiffe://[^*/]+/.+)$`
	case PathTemplate:
		form["pattern"] = `^/`
	case time.Time:
		form["format"] = "date-time"
	case Socket, Secret, Address, HostPattern, TestRequest, LogPath, netip.Prefix, spiffeid.TrustDomain:
	default:
		form["type"] = scalarTypes
	}
	return form
}

// scalarTypes are what Parse takes as text: a name may look like a number.
var scalarTypes = []string{"string", "number", "boolean"}

// defaultsOf is a section as it is before a document is decoded into it.
func defaultsOf(t reflect.Type) reflect.Value {
	section := reflect.New(t)
	if d, ok := section.Interface().(defaulter); ok {
		d.setDefaults()
	}
	return section.Elem()
}

// defaultText is the default of a key as it would be written, and false when it has none: sections, lists, keys that must be there,
// and keys whose comment says what leaving them out means.
func defaultText(f field, value reflect.Value) (any, bool) {
	kinds := []reflect.Kind{reflect.Bool, reflect.Int, reflect.Int64}
	zeroSpeaks := slices.Contains(kinds, value.Kind())
	if f.required || f.unset || value.IsZero() && !zeroSpeaks || isSection(f.typ) {
		return nil, false
	}
	switch value.Kind() {
	case reflect.Bool:
		return value.Bool(), true
	case reflect.Int:
		return value.Int(), true
	default:
		return encoder{}.value(value).Value, true
	}
}
