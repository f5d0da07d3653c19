package config

import (
	"reflect"
	"strings"
)

// field is one key of a section, read from the struct tag.
type field struct {
	key      string
	goName   string
	index    int
	typ      reflect.Type
	required bool
	path     bool // a file or folder: relative to the configuration file
	unset    bool // the zero value means that the key was left out
}

// fieldsOf lists the keys of a section in the order of its type. Fields without tag are not part of the document.
func fieldsOf(section reflect.Type) []field {
	var fields []field
	for i := range section.NumField() {
		structField := section.Field(i)
		tag, ok := structField.Tag.Lookup("config")
		if !ok {
			continue
		}
		key, options, _ := strings.Cut(tag, ",")
		f := field{key: key, goName: structField.Name, index: i, typ: structField.Type}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "required":
				f.required = true
			case "path":
				f.path = true
			case "unset":
				f.unset = true
			}
		}
		fields = append(fields, f)
	}
	return fields
}

// isSection reports a struct whose fields are keys; spiffeid.ID and the like are structs too, but are written as text.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textUnmarshaler)
}

// enum is a text type with a fixed set of values, the default first.
type enum interface{ values() []string }

// partlyOffered has values that are known and refused, each with what to say.
type partlyOffered interface{ notOffered() map[string]string }

// defaulter is a section that sets its defaults before it is decoded.
type defaulter interface{ setDefaults() }

// resolver is a value that may hold a relative path.
type resolver interface{ resolve(base string) }
