package app_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsNameFilesAndTestsThatExist reads every `path` and `TestName` between backquotes, and every relative link, in the documents.
func TestDocsNameFilesAndTestsThatExist(t *testing.T) {
	tests := testNames(t)
	for _, document := range documents(t) {
		text := read(t, document)
		for _, name := range submatches(`\x60(Test[A-Z]\w+)\x60`, text) {
			if !tests[name] {
				t.Errorf("%s names %s, which is no test", document, name)
			}
		}
		for _, name := range submatches(`\x60((?:authz|bench|certs|cmd|docs|ebpf|examples|internal|proxy|xds)/[\w./-]+)\x60`, text) {
			wantPath(t, document, filepath.Join(root, name))
		}
		for _, link := range submatches(`\]\(([\w./-]+)\)`, text) {
			wantPath(t, document, filepath.Join(filepath.Dir(document), link))
		}
	}
}

// TestOperationsListsEveryReason compares the table in docs/operations.md with the list in the code.
func TestOperationsListsEveryReason(t *testing.T) {
	inCode := submatches(`(?m)^\t\w+ +(?:Reason )?= "([a-z_]+)"`, reasonBlock(read(t, filepath.Join(root, "internal/observe/reason.go"))))
	inDocs := submatches(`(?m)^\| \x60([a-z_]+)\x60 \|`, section(read(t, filepath.Join(root, "docs/operations.md")), "## Reason codes"))
	compare(t, "reason", "internal/observe/reason.go", inCode, "docs/operations.md", inDocs)
}

// TestMetricsAreDocumented compares the names of metrics in the code with docs/metrics.md.
func TestMetricsAreDocumented(t *testing.T) {
	var inCode []string
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			inCode = append(inCode, submatches(`"(postern_[a-z0-9_]+)"`, read(t, file))...)
		}
	}
	inDocs := submatches(`(?m)^\| \x60(postern_[a-z0-9_]+)\x60 \|`, read(t, filepath.Join(root, "docs/metrics.md")))
	compare(t, "metric", "the code", inCode, "docs/metrics.md", inDocs)
}

func compare(t *testing.T, what, here string, a []string, there string, b []string) {
	t.Helper()
	for _, name := range a {
		if !slices.Contains(b, name) {
			t.Errorf("%s %q of %s is missing in %s", what, name, here, there)
		}
	}
	for _, name := range b {
		if !slices.Contains(a, name) {
			t.Errorf("%s %q of %s is not in %s", what, name, there, here)
		}
	}
	if len(a) == 0 {
		t.Errorf("no %s was found in %s", what, here)
	}
}

// documents are the README, the changelog and everything under docs.
func documents(t *testing.T) []string {
	t.Helper()
	found := []string{filepath.Join(root, "README.md"), filepath.Join(root, "CHANGELOG.md")}
	walk(t, filepath.Join(root, "docs"), func(path string) {
		if strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
	})
	return found
}

func goFiles(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{"authz", "certs", "cmd", "ebpf", "internal", "proxy", "xds"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			continue
		}
		walk(t, filepath.Join(root, dir), func(path string) {
			if strings.HasSuffix(path, ".go") {
				found = append(found, path)
			}
		})
	}
	return found
}

func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "storetest") {
			for _, name := range submatches(`(?m)^func ((?:Test|Fuzz)\w+)\(`, read(t, file)) {
				names[name] = true
			}
		}
	}
	return names
}

func walk(t *testing.T, dir string, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			visit(path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("read %s: %v", dir, err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(text)
}

func wantPath(t *testing.T, document, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s names %s, which does not exist", document, path)
	}
}

func submatches(pattern, text string) []string {
	var found []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(found, match[1]) {
			found = append(found, match[1])
		}
	}
	return found
}

// section returns the part of a document from a heading to the next of its level.
func section(text, heading string) string {
	_, after, _ := strings.Cut(text, "\n"+heading+"\n")
	part, _, _ := strings.Cut(after, "\n## ")
	return part
}

// reasonBlock is the file without its first lines, in which no reason stands.
func reasonBlock(text string) string {
	_, after, _ := strings.Cut(text, "\nconst (")
	return after
}
