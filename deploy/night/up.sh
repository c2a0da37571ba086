#!/usr/bin/env bash
# Brings the night up. Builds what is missing; with COMPOSE="docker-compose" by version 1. Build arguments for base images,
# where there is no registry, in PITWALL_BUILD_ARGS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
compose=${COMPOSE:-docker compose}
export PITWALL_IMAGE=${PITWALL_IMAGE:-pitwall} PITWALL_SIDECAR_IMAGE=${PITWALL_SIDECAR_IMAGE:-pitwall-sidecar}
export PITWALL_NIGHT_IMAGE=${PITWALL_NIGHT_IMAGE:-pitwall-night}
for target in pitwall pitwall-sidecar; do
  [ "$target" = pitwall ] && image=$PITWALL_IMAGE || image=$PITWALL_SIDECAR_IMAGE
  if ! docker image inspect "$image" >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    docker build -f ../Dockerfile --target "$target" -t "$image" ${PITWALL_BUILD_ARGS:-} ../..
  fi
done
# Made here, as a tree of files may be carried by what does not keep links.
cast=$(mktemp -d)
trap 'rm -rf "$cast"' EXIT
cp -r Dockerfile parts "$cast/"
mkdir "$cast/bin"
for name in ai-ml-agent backend-agent design-agent devops-agent frontend-agent integration-agent testing-agent next-server; do
  ln -s pitwall "$cast/bin/$name"
done
docker build -q --build-arg PITWALL_IMAGE="$PITWALL_IMAGE" -t "$PITWALL_NIGHT_IMAGE" "$cast" >/dev/null
$compose run --rm setup
# The windows of the plan are a demo's: whoever comes first must not wait for the last.
$compose up -d
cat <<TEXT

The night is up. In the orchestrator's container \`pitwall\` finds the server by itself:
  $compose -f $here/compose.yaml exec orchestrator pitwall watch
  … pitwall tell backend --about talents-api --priority urgent 'create \`app/api/talents/route.ts\` first'
  … pitwall hosts                      shows next-server, the runaway; then: pitwall kill frontend --pid N
  … pitwall activate design
  $here/down.sh                        takes it down
TEXT
