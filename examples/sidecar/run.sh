#!/bin/sh
# Starts an authority, the sidecars of two services and a small "orders" service, and makes two calls as web.
# POSTERN names the binary. "run.sh check" makes the calls, fails if they are not answered as they should be, and ends; without it
# everything stays up until Ctrl-C.
set -eu
cd "$(dirname "$0")"
postern=${POSTERN:-postern}
command -v "$postern" >/dev/null || { echo "there is no $postern: build it (go build ./cmd/postern) and name it in POSTERN" >&2; exit 1; }
rm -rf state
mkdir -m 700 state
pids=
stop() { trap - EXIT INT TERM; for pid in $pids; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf state; }
trap stop EXIT INT TERM

start() { "$postern" run -c "$1.yaml" >"state/$1.out" 2>&1 & pids="$pids $!"; }
ready() {
  for _ in $(seq 100); do
    "$postern" --admin-address "state/$1.sock" healthcheck >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "$1 did not become ready:" >&2; cat "state/$1.out" >&2; exit 1
}

start authority; ready authority
for name in orders web; do
  "$postern" --admin-address state/authority.sock token create --node "$name" --identity "spiffe://example.org/$name" --quiet >"state/$name.token"
done
python3 -m http.server --bind 127.0.0.1 --directory site 18080 >state/app.out 2>&1 & pids="$pids $!"
start orders; start web; ready orders; ready web
for _ in $(seq 100); do curl -so /dev/null http://127.0.0.1:18080/ && break; sleep 0.1; done

# call METHOD STATUS makes one call as web and fails unless it is answered so.
call() {
  got=$(curl -sS -o state/answer -w '%{http_code}' -X "$1" http://127.0.0.1:18001/v1/orders/7)
  cat state/answer; echo "  -> $got"
  [ "$got" = "$2" ] || { echo "expected $2" >&2; exit 1; }
}

echo "web asks orders for order 7:"
call GET 200
echo "web tries to delete it:"
call DELETE 403
[ "${1:-}" = check ] && exit 0

cat <<'TEXT'
Everything is up. Try, in another terminal:
  curl http://127.0.0.1:18001/v1/orders/7
  postern --admin-address state/orders.sock status
  postern --admin-address state/orders.sock explain --service orders --from spiffe://example.org/web --request "DELETE /v1/orders/7"
Ctrl-C ends it.
TEXT
wait
