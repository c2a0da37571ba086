#!/usr/bin/env bash
# Builds the images of the container tests from the binaries in a target folder: images.sh FOLDER TAG
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=$1 tag=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DOCKER_BUILDKIT=0
for base in $("$here/bases.sh"); do export "${base?}"; done
mkdir "$work/empty"
cp "$here/Dockerfile" "$work/"
for name in pitwall pitwall-sidecar; do
  cp "$folder/$name" "$work/"
  # Debug information would be most of the image.
  strip "$work/$name"
done
# The same source and the same static linking as in deploy/Dockerfile, without the dependencies that it does not have.
rustc --edition 2024 -C opt-level=s -C target-feature=+crt-static --target "$(rustc -vV | sed -n 's/^host: //p')" \
  -o "$work/hold" "$root/sidecar/src/bin/hold.rs"
strip "$work/hold"
for target in pitwall pitwall-sidecar; do
  docker build -q --build-arg RUN_BASE="$RUN_BASE" --target "$target" -t "$target:$tag" "$work" >/dev/null
done
docker build -q --build-arg AGENT_BASE="$AGENT_BASE" -t "pitwall-example-agent:$tag" "$root/deploy/agents" >/dev/null
