#!/usr/bin/env bash
# Makes a Python environment with pinned packages: python.sh FOLDER REQUIREMENTS
# It is made again when the requirements change.
set -euo pipefail

venv=$1 requirements=$2 stamp=$1/requirements.txt
if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$stamp"; then
  exit 0
fi
rm -rf "$venv"
if ! python3 -m venv "$venv" 2>/dev/null; then
  "$(dirname "$0")/ensure.sh" python3-venv-is-missing=python3-venv
  python3 -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
cp "$requirements" "$stamp"
