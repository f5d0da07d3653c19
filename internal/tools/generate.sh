#!/usr/bin/env bash
# Writes what is generated and committed. With --check it writes into a scratch folder and fails with a diff if that differs from
# the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=.cache/bin protos=internal/posternpb scratch=
out=$protos
if [ "${1:-}" = --check ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  out=$scratch
fi
"$bin/protoc" -plugins "$bin" -out "$out" "$protos"/*.proto
if [ -z "$scratch" ]; then
  # The reference and the schema of the configuration are golden files, which the unit tests compare.
  go test ./internal/config -run 'TestGeneratedFilesAreCurrent$' -update
  exit 0
fi

status=0
for file in "$scratch"/*; do
  diff -u "$protos/$(basename "$file")" "$file" || status=1
done
[ "$status" -eq 0 ] || echo "generated files differ from their sources: run make generate" >&2
exit "$status"
