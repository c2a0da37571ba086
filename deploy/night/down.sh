#!/usr/bin/env bash
# Takes the night down, with its volumes and tokens.
set -euo pipefail
cd "$(dirname "$0")"
${COMPOSE:-docker compose} down -v -t 2 --remove-orphans
secrets=${PITWALL_SECRETS:-./secrets}
# The tokens alone, and the folder if nothing else is in it. They are root's, who made them in the setup's container.
if ! rm -f "$secrets"/*.token 2>/dev/null; then echo "left to be removed by root: $secrets/*.token" >&2; fi
rmdir "$secrets" 2>/dev/null || true
