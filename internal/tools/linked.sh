#!/usr/bin/env bash
# Lists the packages of other modules that the released binary links: linked.sh > docs/linked-packages.txt
# With --check it compares with that file, so that growth shows in review.
set -euo pipefail
cd "$(dirname "$0")/../.."

file=docs/linked-packages.txt
list() {
  CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go list -deps \
    -f '{{with .Module}}{{if not .Main}}{{$.ImportPath}}{{end}}{{end}}' ./cmd/postern | LC_ALL=C sort -u
}
if [ "${1:-}" != --check ]; then
  list
  exit 0
fi
if ! diff -u --label "$file" --label "linked now" "$file" <(list); then
  echo "the linked packages changed: run make linked, and say in the commit what the new ones save" >&2
  exit 1
fi
