package config

import (
	"errors"
	"strings"
	"testing"
)

func TestFormatKeepsWordsAndMovesLines(t *testing.T) {
	for _, row := range []struct{ name, in, want string }{
		{"four spaces and indented lists", `
# head
version: 1   


listeners:
    # of the first
    -   name: a   # trailing
        tls:
            mode: none
            # commented: out
    - name: b
      # end of b
# end
`, `# head
version: 1

listeners:
# of the first
- name: a   # trailing
  tls:
    mode: none
    # commented: out
- name: b
  # end of b
# end
`},
		{"nested lists", "a:\n  -   - x\n      - y: 1\n        z: 2\n  -\n    k: v\n", "a:\n- - x\n  - y: 1\n    z: 2\n-\n  k: v\n"},
		{"literal text keeps its own spaces", "a:\n    b: |\n        one\n          two\n\n\n        # three  \n    c: 1\n", "a:\n  b: |\n      one\n        two\n\n\n      # three  \n  c: 1\n"},
		{"flow over lines", "a:\n    b: [1,\n        2, # two\n        \"]\"]\n    # c\n    c: {x: 1,\n      y: 2}\n", "a:\n  b: [1,\n      2, # two\n      \"]\"]\n  # c\n  c: {x: 1,\n    y: 2}\n"},
		{"plain text over lines", "a:\n    b: one\n        two\n    c: 1\n", "a:\n  b: one\n      two\n  c: 1\n"},
		{"value below its key", "a:\n    b:\n        text\n    c: 1\n", "a:\n  b:\n    text\n  c: 1\n"},
		{"windows line ends", "a: 1\r\nb: 2\r\n", "a: 1\nb: 2\n"},
		{"document marker", "---\na: 1\n", "---\na: 1\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := Format([]byte(row.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != row.want {
				t.Fatalf("got:\n%s\nwant:\n%s", got, row.want)
			}
			again, err := Format(got)
			if err != nil || string(again) != string(got) {
				t.Fatalf("not idempotent: %v\n%s", err, again)
			}
		})
	}
}

func FuzzFormatIsIdempotentAndKeepsComments(f *testing.F) {
	f.Add([]byte("version: 1\n# c\nlisteners:\n    -   name: a # d\n        tls: {mode: none,\n          # e\n          x: 1}\n"))
	f.Add([]byte("a:\n  - |\n     x\n    \n  - \"a\n    b\"\n  - 'it''s'\n#z\n"))
	f.Add([]byte("a:\n- - - 1\n  -\n- b:\n    c\n    d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := Format(data)
		if err != nil {
			return
		}
		if strings.Count(string(once), "#") != strings.Count(string(data), "#") {
			t.Fatalf("a # was lost:\n%s\nfrom:\n%s", once, data)
		}
		twice, err := Format(once)
		if err != nil {
			t.Fatalf("formatted twice: %v\nfrom:\n%q\nonce:\n%q", err, data, once)
		}
		if string(once) != string(twice) {
			t.Fatalf("not idempotent:\n%q\nonce:\n%q\ntwice:\n%q", data, once, twice)
		}
	})
}

func TestFormatLeavesGoodFilesParsingToTheSame(t *testing.T) {
	for _, path := range glob(t, "testdata/good/*.yaml") {
		data := read(t, path)
		formatted, err := Format(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		c, err := Parse(path, formatted)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		before, err := Parse(path, data)
		if err != nil || before.Hash() != c.Hash() {
			t.Errorf("%s says something else now: %v", path, err)
		}
	}
	sketch := read(t, "testdata/good/sketch.yaml")
	if formatted, err := Format(sketch); err != nil || string(formatted) != string(sketch) {
		t.Errorf("the sketch is in the one layout and was changed: %v\n%s", err, firstDifference(formatted, sketch))
	}
}

func TestFormatRefusesWhatIsNoYAML(t *testing.T) {
	for _, text := range []string{"a: [", "", "a: &x 1\n", "a: 1\rb: 2\n"} {
		out, err := Format([]byte(text))
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 || out != nil {
			t.Errorf("%q: got %q, %v", text, out, err)
		}
	}
}
