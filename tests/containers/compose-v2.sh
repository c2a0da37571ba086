#!/usr/bin/env bash
# Compose version 2 (and buildx) as plugins of the docker client, from Debian trixie's packages, where the machine has none;
# the machine's own packages stay as they are.
set -euo pipefail
docker compose version >/dev/null 2>&1 && exit 0
into=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources | head -1)
keyring=$(sed -n 's/^Signed-By: *//p' /etc/apt/sources.list.d/debian.sources | head -1)
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$into"
echo "deb [signed-by=${keyring:-/usr/share/keyrings/debian-archive-keyring.gpg}] ${uri:?no Debian sources here} trixie main" > "$work/sources.list"
options=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$work/lists"
  -o "Dir::Cache=$work/cache" -o "Dir::State::status=/dev/null" -o APT::Sandbox::User=root)
cd "$work"
apt-get -qq "${options[@]}" update
apt-get -qq "${options[@]}" download docker-compose:amd64 docker-buildx:amd64
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
cp unpacked/usr/libexec/docker/cli-plugins/* "$into/"
docker compose version
