// Package app_test holds the table of who imports whom against the tree.
package app_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/postern-proxy/postern"

// layers is who may import whom, which docs/architecture.md says in a line: a package imports from lower layers, and sideways only inside one top folder. The
// longest prefix decides.
var layers = map[string]int{
	"cmd":                 7,
	"internal/app":        6, // wires everything
	"internal/demo":       6, // runs the binary, as a newcomer would
	"internal/admin":      5,
	"proxy":               4, // proxy and xds meet in internal/config, never each other
	"xds":                 4,
	"authz":               3,
	"internal/anomaly":    3,
	"internal/govern":     3,
	"certs":               2,
	"ebpf":                2,
	"ebpf/probe":          0,
	"ebpf/bpf":            0,
	"internal/config":     1,
	"internal/observe":    1,
	"internal/audit":      1,
	"internal/posternpb":  1,
	"internal/unixsocket": 1,

	// Imported by nobody, or by tests alone.
	"internal/testkit": 1,
	"internal/e2e":     8,
	"bench":            8,
	"examples":         8,
}

// configImporters are those who compile the declared configuration. Everything else takes plain parameters, so that it can be used
// and tested without one.
var configImporters = []string{
	"cmd", "internal/app", "internal/admin", "internal/govern", "internal/e2e", "bench", "examples", "xds",
	"proxy$", "proxy/route", "proxy/limit", "proxy/upstream", "authz/policy", "internal/config",
}

func TestImportsPointDown(t *testing.T) {
	packages := readTree(t)
	for dir, p := range packages {
		for _, imported := range p.imports {
			if complaint := judge(dir, imported); complaint != "" {
				t.Errorf("%s: %s", imported.position, complaint)
			}
		}
		if _, known := layerOf(dir); !known {
			t.Errorf("%s stands in no layer: add it to the table here", dir)
		}
	}
	if len(packages) < 10 {
		t.Errorf("only %d packages were found below %s", len(packages), root)
	}
}

func TestEveryPackageHasItsComment(t *testing.T) {
	for dir, p := range readTree(t) {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(p.doc, want) {
			t.Errorf("%s needs a package comment that begins with %q, has %.60q", dir, want, p.doc)
		}
	}
}

func TestTheTableRefusesWhatItShould(t *testing.T) {
	for _, c := range []struct {
		from, to string
		test     bool
		allowed  bool
	}{
		{from: "proxy/mtls", to: "certs/svid", allowed: true},
		{from: "certs/svid", to: "proxy/mtls"},
		{from: "proxy", to: "xds/adsclient"},
		{from: "xds/view", to: "proxy/route"},
		{from: "certs/ca", to: "certs/store", allowed: true},
		{from: "certs/ca", to: "ebpf"},
		{from: "authz/policy", to: "internal/config", allowed: true},
		{from: "certs/ca", to: "internal/config"},
		{from: "proxy", to: "internal/config", allowed: true},
		{from: "proxy/mtls", to: "internal/config"},
		{from: "internal/audit", to: "internal/observe", allowed: true},
		{from: "internal/app", to: "internal/e2e"},
		{from: "proxy/mtls", to: "internal/testkit"},
		{from: "proxy/mtls", to: "internal/testkit", test: true, allowed: true},
		{from: "certs/store/storetest", to: "internal/testkit", allowed: true},
		{from: "internal/observe", to: "internal/testkit", test: true, allowed: true},
		{from: "ebpf", to: "ebpf/probe", allowed: true},
		{from: "ebpf/probe", to: "ebpf"},
	} {
		complaint := judge(c.from, importSpec{path: c.to, test: c.test})
		if (complaint == "") != c.allowed {
			t.Errorf("%s imports %s (test: %t): allowed %t, complaint %q", c.from, c.to, c.test, c.allowed, complaint)
		}
	}
}

// judge says what is wrong with an import, or "".
func judge(dir string, imported importSpec) string {
	to := imported.path
	from, _ := layerOf(dir)
	layer, known := layerOf(to)
	switch {
	case !known:
		return to + " stands in no layer"
	case within(to, "internal/testkit"):
		if !imported.test && !strings.HasSuffix(dir, "test") && !within(dir, "internal/testkit") {
			return "only tests import " + to
		}
		return ""
	case layer == 8:
		return to + " is imported by nobody"
	case within(to, "internal/config") && !importsConfig(dir):
		return dir + " takes plain parameters, not internal/config"
	case layer > from:
		return dir + " imports upwards: " + to
	case layer == from && topFolder(to) != topFolder(dir):
		return dir + " imports sideways into another folder: " + to
	}
	return ""
}

func importsConfig(dir string) bool {
	return slices.ContainsFunc(configImporters, func(prefix string) bool {
		exact, only := strings.CutSuffix(prefix, "$")
		return only && dir == exact || !only && within(dir, prefix)
	})
}

func layerOf(dir string) (int, bool) {
	for prefix := dir; prefix != "."; prefix = path.Dir(prefix) {
		if layer, ok := layers[prefix]; ok {
			return layer, true
		}
	}
	return 0, false
}

func topFolder(dir string) string {
	top, _, _ := strings.Cut(dir, "/")
	return top
}

func within(dir, prefix string) bool {
	return dir == prefix || strings.HasPrefix(dir, prefix+"/")
}

type importSpec struct {
	path     string // without the module's path
	test     bool
	position token.Position
}

type goPackage struct {
	name    string
	doc     string
	imports []importSpec
}

// root is the tree that is read. It is parsed and not asked of "go list", whose answer the test cache would keep.
const root = "../.."

// readTree returns the packages of this module by their folder; folders with a go.mod of their own are other modules.
func readTree(t *testing.T) map[string]*goPackage {
	t.Helper()
	packages := map[string]*goPackage{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipDir(name, entry.Name())
		}
		if strings.HasSuffix(name, ".go") {
			readFile(t, name, packages)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read the tree: %v", err)
	}
	return packages
}

func skipDir(name, base string) error {
	if name == root {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func readFile(t *testing.T, name string, packages map[string]*goPackage) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		t.Errorf("parse %s: %v", name, err)
		return
	}
	dir, err := filepath.Rel(root, filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.ToSlash(dir)
	p := packages[dir]
	if p == nil {
		p = &goPackage{}
		packages[dir] = p
	}
	p.add(files, file, strings.HasSuffix(name, "_test.go"))
}

func (p *goPackage) add(files *token.FileSet, file *ast.File, test bool) {
	if p.name == "" || !test {
		p.name = file.Name.Name
	}
	if file.Doc != nil && (!test || p.doc == "") {
		p.doc = file.Doc.Text()
	}
	for _, spec := range file.Imports {
		value, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser refused it already
		}
		if local, ours := strings.CutPrefix(value, module+"/"); ours {
			p.imports = append(p.imports, importSpec{path: local, test: test, position: files.Position(spec.Pos())})
		}
	}
}
