#!/usr/bin/env bash
# Runs every fuzz target of the module one after the other: fuzz.sh DURATION [NAME-PATTERN]
# Goes on after a finding, lists them all at the end and exits 1 if there was one. Inputs that fail are kept by go test under
# testdata/fuzz of the package: they belong into the commit that repairs it.
set -euo pipefail

duration=$1 pattern=${2:-.} failed=() ran=0
while IFS=: read -r file name; do
  [[ $name =~ $pattern ]] || continue
  dir=$(dirname "$file") ran=$((ran + 1))
  echo "== $dir $name ($duration)"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$duration" "./$dir" || failed+=("$dir $name")
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' --exclude-dir=.cache . | sed -E 's|^\./||; s|:func |:|' | sort -u)

echo "$((ran - ${#failed[@]})) fuzz targets found nothing, ${#failed[@]} found something"
[ "$ran" -gt 0 ] || { echo "no fuzz target matches $pattern" >&2; exit 1; }
if [ "${#failed[@]}" -gt 0 ]; then
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
