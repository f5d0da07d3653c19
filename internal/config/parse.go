package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
)

// Load reads and parses a file. Relative paths in it start from its folder. An error is of type Errors.
func Load(path string) (*Config, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, Errors{{File: path, Code: CodeUnread, Message: err.Error()}}
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, Errors{{File: path, Code: CodeUnread, Message: fmt.Sprintf("find the folder of the file: %v", err)}}
	}
	return parse(path, base, data)
}

// readBounded reads one byte more than is parsed, so that Parse says when a file is too large.
func readBounded(path string) (data []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return io.ReadAll(io.LimitReader(file, maxDocument+1))
}

// Parse decodes, completes and checks one document, YAML or JSON. The name stands in errors, and relative paths start from its
// folder. An error is of type Errors and has everything that is wrong.
func Parse(name string, data []byte) (*Config, error) {
	return parse(name, filepath.Dir(name), data)
}

func parse(name, base string, data []byte) (*Config, error) {
	root, errs := readDocument(name, data)
	if len(errs) > 0 {
		return nil, errs
	}
	d := newDecoder(name, base)
	c := &Config{source: d.source}
	d.section(root, "", reflect.ValueOf(c).Elem())
	resolve(reflect.ValueOf(c).Elem(), base)
	c.complete()
	k := &checker{source: d.source, bad: d.bad, errs: d.errs, config: c}
	c.check(k)
	if len(k.errs) > 0 {
		return nil, bounded(k.errs.sorted())
	}
	c.warnings = bounded(k.warnings.sorted())
	return c, nil
}

func bounded(errs Errors) Errors {
	if len(errs) <= maxErrors {
		return errs
	}
	last := Error{File: errs[0].File, Code: CodeTooMany, Message: fmt.Sprintf("there are more than %d; these are the first", maxErrors)}
	return append(errs[:maxErrors:maxErrors], last)
}

// complete fills what depends on other keys. It is idempotent.
func (c *Config) complete() {
	if c.Authority != nil {
		c.Authority.complete()
	}
	if c.Identity.Authority != nil {
		c.Identity.Authority.complete()
	}
	for i := range c.Clusters {
		c.Clusters[i].complete()
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		at := index("listeners", i)
		c.inherit(at+".limits", reflect.ValueOf(&l.Limits).Elem(), reflect.ValueOf(c.Limits))
		c.inherit(at+".timeouts", reflect.ValueOf(&l.Timeouts).Elem(), reflect.ValueOf(c.Timeouts))
		if !c.source.has(at + ".trusted_hops") {
			l.TrustedHops = c.TrustedHops
		}
		l.complete()
	}
}

// inherit copies the keys that the document does not set at the path.
func (c *Config) inherit(path string, into, from reflect.Value) {
	for _, f := range fieldsOf(into.Type()) {
		at := join(path, f.key)
		switch {
		case !c.source.has(at):
			into.Field(f.index).Set(from.Field(f.index))
		case isSection(f.typ):
			c.inherit(at, into.Field(f.index), from.Field(f.index))
		}
	}
}

// resolve makes every relative path below the value start from the base folder.
func resolve(value reflect.Value, base string) {
	if value.CanAddr() {
		if r, ok := value.Addr().Interface().(resolver); ok {
			r.resolve(base)
			return
		}
	}
	switch {
	case value.Kind() == reflect.Pointer && !value.IsNil():
		resolve(value.Elem(), base)
	case value.Kind() == reflect.Slice:
		for i := range value.Len() {
			resolve(value.Index(i), base)
		}
	case isSection(value.Type()):
		for _, f := range fieldsOf(value.Type()) {
			if f.path {
				value.Field(f.index).SetString(resolvePath(base, value.Field(f.index).String()))
				continue
			}
			resolve(value.Field(f.index), base)
		}
	}
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
