#!/usr/bin/env bash
# Installs the real clients (grpcurl, Python gRPC, buf) from PyPI into tests/clients/.venv. Does nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")"
if [ -x .venv/bin/grpcurl ] && cmp -s requirements.txt .venv/installed.txt; then
  exit 0
fi
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
.venv/bin/grpcurl --version 2>&1 | head -n 1
cp requirements.txt .venv/installed.txt
