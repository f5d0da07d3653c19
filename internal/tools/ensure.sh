#!/usr/bin/env bash
# Makes sure that commands are there: ensure.sh COMMAND=PACKAGE...
# A missing one is installed with apt-get where that can be done without asking; otherwise the package's name is said and the exit
# status is 1.
set -euo pipefail

missing=() packages=()
for pair in "$@"; do
  if ! command -v "${pair%%=*}" >/dev/null 2>&1; then
    missing+=("${pair%%=*}")
    packages+=("${pair#*=}")
  fi
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing ${packages[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${packages[@]}"; } </dev/null >&2 ||
    { echo "installing ${packages[*]} failed" >&2; exit 1; }
  exit 0
fi
echo "not on this machine: ${missing[*]} (Debian's packages: ${packages[*]})" >&2
exit 1
