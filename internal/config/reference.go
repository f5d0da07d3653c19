package config

import (
	"fmt"
	"reflect"
	"strings"
)

//go:generate go test -run TestGeneratedFilesAreCurrent -update .

// Reference returns docs/config.md: every key of every section with its type, default and meaning, and every code.
func Reference() []byte {
	r := reference{anchors: map[reflect.Type]string{}}
	r.line("<!-- Generated from internal/config by make generate. Do not edit. -->")
	r.line("# Configuration")
	r.line("")
	r.line(referenceIntroduction)
	r.section("", reflect.TypeFor[Config]())
	for len(r.queue) > 0 {
		next := r.queue[0]
		r.queue = r.queue[1:]
		r.section(next.path, next.typ)
	}
	r.line("## Codes")
	r.line("")
	r.line("| code | meaning |")
	r.line("|---|---|")
	for _, e := range Codes() {
		r.line("| %s | %s |", e.Code, cell(e.Meaning))
	}
	return []byte(r.b.String())
}

const referenceIntroduction = `One YAML document (JSON is YAML too) declares what a process is. ` + "`postern validate`" + ` reads it as ` + "`postern run`" + ` does and
tells everything that is wrong at once, with line, column, key, code and a hint; ` + "`postern fmt`" + ` puts it into the one layout;
` + "`postern schema`" + ` prints a JSON Schema for editors.

- Unknown keys, keys that stand there twice, keys without value, anchors, aliases and tags are errors. A document has at most 4 MiB.
- Durations are written as ` + "`30s`, `1h30m`, `7d`, `10y`" + ` (ms, s, m, h, d, w, y); sizes as ` + "`64KiB`" + ` (B, KiB, MiB, GiB).
- Addresses are ` + "`ip:port`, `:port`" + ` (every address of the machine), ` + "`localhost:port`" + ` (127.0.0.1) or ` + "`unix://`" + ` and a path.
- Relative paths start from the folder of the configuration file, not from where the process was started.
- Names have up to 63 letters, digits, ` + "`-`, `_` and `.`" + `.
- Whatever is weaker than the default has a key that begins with ` + "`insecure_`" + `.
`

type reference struct {
	b       strings.Builder
	anchors map[reflect.Type]string // of the sections that are written or wait in the queue
	queue   []section
}

type section struct {
	path string
	typ  reflect.Type
}

func (r *reference) line(format string, args ...any) {
	if len(args) == 0 {
		r.b.WriteString(format + "\n")
		return
	}
	fmt.Fprintf(&r.b, format+"\n", args...)
}

func (r *reference) section(path string, t reflect.Type) {
	title := "The document"
	if path != "" {
		title = "`" + path + "`"
	}
	r.line("## %s", title)
	r.line("")
	if path != "" {
		r.line("%s", sectionComment(t))
		r.line("")
	}
	fields, defaults := fieldsOf(t), defaultsOf(t)
	if len(fields) == 0 {
		r.line("It has no keys: write `{}`.")
		r.line("")
		return
	}
	r.line("| key | type | default | meaning |")
	r.line("|---|---|---|---|")
	for _, f := range fields {
		r.line("| `%s` | %s | %s | %s |", f.key, r.keyType(path, f), defaultCell(f, defaults), cell(keyComment(t, f)))
	}
	r.line("")
}

func defaultCell(f field, defaults reflect.Value) string {
	if f.required {
		return "required"
	}
	if text, ok := defaultText(f, defaults.Field(f.index)); ok {
		return fmt.Sprintf("`%v`", text)
	}
	return ""
}

func (r *reference) keyType(path string, f field) string {
	if f.path {
		return "path"
	}
	return r.typeOf(join(path, f.key), f.typ)
}

// typeOf names the type for a reader, and puts a section it has not seen yet behind those that it has.
func (r *reference) typeOf(path string, t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return r.typeOf(path, t.Elem())
	case isSection(t):
		if r.anchors[t] == "" { // as GitHub makes them of headings
			r.anchors[t] = strings.NewReplacer(".", "", "[", "", "]", "").Replace(path)
			r.queue = append(r.queue, section{path, t})
		}
		return "section [" + t.Name() + "](#" + r.anchors[t] + ")"
	case t.Kind() == reflect.Slice:
		return "list of " + strings.TrimPrefix(r.typeOf(path+"[]", t.Elem()), "section ")
	case t.Kind() == reflect.Map:
		return "names to values"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Int:
		return "number"
	}
	if kind, ok := reflect.New(t).Elem().Interface().(enum); ok {
		return "`" + strings.Join(kind.values(), "` `") + "`"
	}
	if name, ok := typeNames[t.String()]; ok {
		return name
	}
	return "text"
}

var typeNames = map[string]string{
	"time.Duration": "duration", "config.Size": "size", "time.Time": "time", "config.Address": "address", "config.Socket": "socket path",
	"spiffeid.ID": "SPIFFE ID", "spiffeid.TrustDomain": "trust domain", "config.IDPattern": "SPIFFE ID pattern",
	"config.PrincipalPattern": "SPIFFE ID pattern or `anonymous`", "config.PathTemplate": "path template", "config.HostPattern": "host",
	"config.Secret": "secret", "netip.Prefix": "network", "config.TestRequest": "request",
}

// keyComment is the doc comment of a key, under the name that the document gives it.
func keyComment(section reflect.Type, f field) string {
	comment := comments[section.Name()+"."+f.goName]
	if rest, ok := strings.CutPrefix(comment, f.goName+" "); ok {
		return f.key + " " + rest
	}
	return comment
}

// sectionComment is the doc comment of a section without the Go name that it begins with.
func sectionComment(section reflect.Type) string {
	comment := strings.TrimPrefix(comments[section.Name()], section.Name()+" ")
	return upperFirst(strings.TrimPrefix(strings.TrimPrefix(comment, "is "), "are "))
}

func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func cell(text string) string { return strings.NewReplacer("|", `\|`, "*", `\*`).Replace(text) }
