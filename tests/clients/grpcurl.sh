#!/usr/bin/env bash
# Drives a running server with grpcurl, as a person would: grpcurl.sh HOST:PORT AGENT [IDENTITY]. Without an
# identity (a directory with authority.pem, certificate.pem, key.pem) in plaintext. Fails at the first surprise.
set -euo pipefail
address=$1 agent=$2
how=(-plaintext)
if [ -n "${3:-}" ]; then how=(-cacert "$3/authority.pem" -cert "$3/certificate.pem" -key "$3/key.pem"); fi
grpcurl="$(dirname "$0")/.venv/bin/grpcurl"
call() { "$grpcurl" "${how[@]}" -max-time 20 "$@"; }
expect() { grep -q -- "$1" <<<"$2" || { echo "expected $1 in: $2" >&2; exit 1; }; }

services=$(call "$address" list)
for service in pitwall.v1.ControlService pitwall.v1.SidecarService grpc.health.v1.Health; do
  expect "$service" "$services"
done
expect "rpc GetSituation" "$(call "$address" describe pitwall.v1.ControlService)"
expect "lineage" "$(call "$address" describe pitwall.v1.Revision)"
expect '"SERVING"' "$(call "$address" grpc.health.v1.Health/Check)"

situation=$(call -d '{}' "$address" pitwall.v1.ControlService/GetSituation)
expect "\"name\": \"$agent\"" "$situation"

# A watch never ends by itself: the first answer is a snapshot, and the limit ends it.
watch=$("$grpcurl" "${how[@]}" -max-time 3 -d '{}' "$address" pitwall.v1.ControlService/Watch 2>/dev/null || true)
expect '"snapshot"' "$watch"

issued=$(call -d "{\"agent\": \"$agent\", \"spec\": {\"directive\": {\"text\": \"from grpcurl\"}}}" \
  "$address" pitwall.v1.ControlService/IssueCommand)
expect '"COMMAND_STATE_QUEUED"\|"COMMAND_STATE_SENT"' "$issued"

# A mistake is told with a reason that a program can read.
refused=$(call -d '{"agent": "nobody", "spec": {"unthrottle": {}}}' \
  "$address" pitwall.v1.ControlService/IssueCommand 2>&1 && exit 1 || true)
expect "NotFound" "$refused"
expect "AGENT_UNKNOWN" "$refused"

# Without the certificate there is nothing to see.
if [ -n "${3:-}" ]; then
  refused=$("$grpcurl" -cacert "$3/authority.pem" -max-time 20 "$address" list 2>&1 && exit 1 || true)
  expect "Unauthenticated" "$refused"
  expect "needs a client certificate" "$refused"
fi
echo "grpcurl: all calls answered as expected"
