package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func TestEveryErrorOfAFileIsToldWithItsPlace(t *testing.T) {
	for _, path := range glob(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data := read(t, path)
			_, err := Parse(filepath.Base(path), data)
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %v, want Errors", err)
			}
			lines := strings.Count(string(data), "\n") + 1
			for _, e := range errs {
				if e.Line < 1 || e.Line > lines || e.Column < 1 {
					t.Errorf("outside of the file: %v", e)
				}
				if !slices.ContainsFunc(Codes(), func(c Explanation) bool { return c.Code == e.Code }) {
					t.Errorf("%s is not in the list of codes", e.Code)
				}
			}
			golden(t, path+".golden", []byte(errs.Error()+"\n"))
		})
	}
}

func TestGoodFilesAreTakenWithTheirWarnings(t *testing.T) {
	for _, path := range glob(t, "testdata/good/*.[yj]*[ln]") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := Parse(filepath.Base(path), read(t, path))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, path+".warnings", []byte(c.Warnings().Error()+"\n"))
			golden(t, path+".effective", c.Effective())
		})
	}
}

func TestEffectiveConfigurationParsesToItself(t *testing.T) {
	for _, path := range glob(t, "testdata/good/*.[yj]*[ln]") {
		c := parsed(t, path)
		again, err := Parse("effective.yaml", c.Effective())
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, c.Effective())
		}
		if string(again.Effective()) != string(c.Effective()) || again.Hash() != c.Hash() {
			t.Errorf("%s: effective configuration changed:\n%s", path, firstDifference(again.Effective(), c.Effective()))
		}
	}
}

func TestHashDependsOnWhatIsSaidAndNotOnHow(t *testing.T) {
	hash := func(text string) string {
		c, err := Parse("a.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c.Hash()
	}
	plain := hash("version: 1\ntrust_domain: example.org\n")
	if got := hash("# comment\ntrust_domain: 'example.org'\nversion: 1\nlimits: {max_head: 65536}\n"); got != plain {
		t.Error("a comment, an order and a default that is written out changed the hash")
	}
	if got := hash("version: 1\ntrust_domain: example.org\ntrusted_hops: 1\n"); got == plain {
		t.Error("another value did not change the hash")
	}
}

func TestSchemaAcceptsWhatParseAccepts(t *testing.T) {
	schema := compileSchema(t)
	for _, path := range glob(t, "testdata/good/*.[yj]*[ln]") {
		c := parsed(t, path)
		for name, data := range map[string][]byte{"file": read(t, path), "effective": c.Effective()} {
			if err := schema.Validate(decodeAny(t, data)); err != nil {
				t.Errorf("%s of %s: %v", name, path, err)
			}
		}
	}
}

func TestSchemaRefusesWhatTheTypesRefuse(t *testing.T) {
	schema := compileSchema(t)
	for _, text := range []string{
		"version: 1",
		"version: one\ntrust_domain: a",
		"version: 1\ntrust_domain: a\nlistenrs: []",
		"version: 1\ntrust_domain: a\nlisteners: [{name: a}]",
		"version: 1\ntrust_domain: a\naccess_log: {format: clf}",
		"version: 1\ntrust_domain: a\ntimeouts: {idle: soon}",
		"version: 1\ntrust_domain: a\npolicies: [{name: a, service: b, rules: [{allow: {from: []}}]}]",
		"version: 1\ntrust_domain: a\npolicies: [{name: a, service: b, rules: [{allow: {from: [web]}}]}]",
		"version: 1\ntrust_domain: a\npolicies: [{name: a, service: b, rules: []}]",
	} {
		if schema.Validate(decodeAny(t, []byte(text))) == nil {
			t.Errorf("accepted:\n%s", text)
		}
	}
}

func TestListenerInheritsWhatItDoesNotSet(t *testing.T) {
	c := parsed(t, "testdata/good/everything.yaml")
	edge, database := c.Listeners[0], c.Listeners[1]
	if edge.Limits.MaxHead != 32*KiB || edge.Limits.MaxConnections != 50000 || edge.Limits.MaxBody != 0 || edge.TrustedHops != 0 {
		t.Errorf("edge: %+v, trusted hops %d", edge.Limits, edge.TrustedHops)
	}
	if database.Limits != c.Limits || database.Timeouts != c.Timeouts || database.TrustedHops != 1 {
		t.Errorf("database: %+v %+v", database.Limits, database.Timeouts)
	}
	if edge.Timeouts.Handshake != 5*time.Second || edge.Timeouts.Head != 10*time.Second {
		t.Errorf("edge: %+v", edge.Timeouts)
	}
}

func TestRelativePathsStartFromTheFolderOfTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "postern.yaml")
	if err := os.WriteFile(path, read(t, "testdata/good/sketch.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		c.Authority.DataDir:                "postern-data",
		c.Authority.Sealing.LocalFile:      "postern-data/sealing.key",
		c.Identity.Authority.JoinTokenFile: "token",
		c.Identity.Authority.DataDir:       "postern-node",
		c.Identity.Files.Key:               "svid.key",
		string(c.WorkloadAPI.Socket):       "postern.sock",
		string(c.Admin.Socket):             "admin.sock",
	} {
		if got != filepath.Join(dir, want) {
			t.Errorf("got %q, want %q in %q", got, want, dir)
		}
	}
	if got := string(c.Identity.WorkloadAPI.Socket); got != "/run/spire/agent.sock" {
		t.Errorf("absolute socket became %q", got)
	}
}

func TestLoadSaysThatAFileIsMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	var errs Errors
	if !errors.As(err, &errs) || errs[0].Code != CodeUnread {
		t.Fatalf("got %v", err)
	}
}

func TestDocumentsAreBounded(t *testing.T) {
	if _, err := Parse("a", make([]byte, maxDocument+1)); err == nil || !strings.Contains(err.Error(), string(CodeTooLarge)) {
		t.Errorf("got %v", err)
	}
	for name, text := range map[string]string{
		"wide":          "a: [" + strings.Repeat("1,", 20_000) + "]",
		"deep flow":     "a: " + strings.Repeat("[", 20_000),
		"deep block":    strings.Repeat("- ", 20_000),
		"unknown keys":  strings.Repeat("listeners: 1\n", 10_000),
		"far from keys": "{" + strings.Repeat("listenors: 1,", 10_000) + "}",
		"unknown refs":  "listeners: [{routes: [" + strings.Repeat("{cluster: abcdef},", 5_000) + "]}]\nclusters: [" + strings.Repeat("{name: abcdeg},", 5_000) + "]",
		"long name":     "clusters: [{name: " + strings.Repeat("a", 200_000) + "}]",
	} {
		start := time.Now()
		_, err := Parse("a", []byte(text))
		var errs Errors
		if !errors.As(err, &errs) {
			t.Errorf("%s: got %v", name, err)
		}
		if len(errs) > maxErrors+1 {
			t.Errorf("%s: %d errors", name, len(errs))
		}
		if len(err.Error()) > 1_000*maxErrors {
			t.Errorf("%s: %d bytes of errors", name, len(err.Error()))
		}
		t.Logf("%s: %d errors in %v", name, len(errs), time.Since(start))
	}
}

func TestAnAliasBombIsRefusedWithoutExpandingIt(t *testing.T) {
	text := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'z'; c++ {
		text += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 9) + "]\n"
	}
	_, err := Parse("a", []byte(text))
	if err == nil || !strings.Contains(err.Error(), string(CodeAlias)) {
		t.Fatalf("got %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	c, err := Parse("a", []byte("version: 1\ntrust_domain: a\nidentity: {authority: {address: 'a:1', join_token: opensesame}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity.Authority.JoinToken.Reveal() != "opensesame" {
		t.Error("the token is lost")
	}
	if strings.Contains(string(c.Effective())+string(c.EffectiveJSON())+c.Identity.Authority.JoinToken.String(), "opensesame") {
		t.Error("the token is printed")
	}
}

func TestAtFindsThePlaceOfAPathAndOfWhatIsAroundIt(t *testing.T) {
	c := parsed(t, "testdata/good/sketch.yaml")
	for path, want := range map[string]Position{
		"listeners[1].caller":       {25, 11},
		"policies[0].rules[2]":      {41, 5},
		"policies[0].rules[2].none": {41, 5},
		"listeners[0].tls.identity": {17, 33},
		"nowhere":                   {1, 1},
	} {
		if e := c.At(path, CodeNoEffect, "m", "h"); e.Line != want.Line || e.Column != want.Column {
			t.Errorf("%s: got %d:%d, want %d:%d", path, e.Line, e.Column, want.Line, want.Column)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.[yj]*[ln]", "testdata/bad/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("fuzz.yaml", data)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			_ = errs.Error()
			return
		}
		again, err := Parse("fuzz.yaml", c.Effective())
		if err != nil {
			t.Fatalf("effective configuration is refused: %v\n%s", err, c.Effective())
		}
		if again.Hash() != c.Hash() {
			t.Fatalf("effective configuration says something else:\n%s\n%s", c.Effective(), again.Effective())
		}
		for _, p := range c.Policies {
			declared, err := ParsePolicy(p.Declaration())
			if err != nil || string(declared.Declaration()) != string(p.Declaration()) {
				t.Fatalf("policy does not survive: %v\n%s", err, p.Declaration())
			}
		}
	})
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %d files", pattern, err, len(paths))
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parsed(t *testing.T, path string) *Config {
	t.Helper()
	c, err := Parse(filepath.Base(path), read(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(Schema())))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(SchemaID, document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// decodeAny reads YAML as an editor does, with the types that YAML gives. A time stays text, as in JSON.
func decodeAny(t *testing.T, data []byte) any {
	t.Helper()
	var node yaml.Node
	if err := yaml.Unmarshal(data, &node); err != nil {
		t.Fatal(err)
	}
	untime(&node)
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func untime(node *yaml.Node) {
	if node.Tag == "!!timestamp" {
		node.Tag = "!!str"
	}
	for _, child := range node.Content {
		untime(child)
	}
}
