package config

import (
	"reflect"
	"strings"
)

// suggest returns "did you mean …" for the nearest of the choices, or the choices themselves when none is near.
func suggest(text string, choices []string) string {
	best, distance := "", 3
	folded := fold(text)
	for _, choice := range choices {
		if len(choice) > len(folded)+2 || len(folded) > len(choice)+2 {
			continue
		}
		if d := editDistance(folded, fold(choice)); d < distance && d <= len(choice)/3 {
			best, distance = choice, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	if len(choices) == 0 {
		return ""
	}
	return "choose " + oneOf(choices)
}

// fold makes the usual ways to write the same key equal.
func fold(text string) string {
	if len(text) > 64 {
		text = text[:64] // no choice is that long, and the distance costs the product of the lengths
	}
	return strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(text))
}

// oneOf lists choices for a sentence, cut off where a reader stops.
func oneOf(choices []string) string {
	const limit = 20
	switch n := len(choices); {
	case n == 0:
		return ""
	case n == 1:
		return choices[0]
	case n > limit:
		return strings.Join(choices[:limit], ", ") + ", …"
	default:
		return strings.Join(choices[:n-1], ", ") + " or " + choices[n-1]
	}
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

func keysHint(section reflect.Type) string {
	if keys := keysOf(fieldsOf(section)); len(keys) > 0 {
		return "its keys are " + strings.ReplaceAll(oneOf(keys), " or ", " and ")
	}
	return "write {}"
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
func editDistance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}
