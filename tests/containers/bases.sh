#!/usr/bin/env bash
# Base images for a machine without an image registry, made from Debian's packages: `cc` (glibc, a user 65532, no shell),
# `busybox` (a shell for example agents), and with `--build` `rust` (this machine's toolchain) for deploy/Dockerfile. Prints
# the names as build arguments. What is there already is left as it is.
set -euo pipefail
prefix=${PITWALL_BASES:-pitwall-base}
suite=bookworm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
have() { docker image inspect "$1" >/dev/null 2>&1; }
need() {
  command -v "$1" >/dev/null 2>&1 && return
  apt-get update -qq >&2
  apt-get install -y -qq --no-install-recommends "$2" >&2
}
slim='rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*'

if ! have "$prefix-cc:$suite"; then
  need mmdebstrap mmdebstrap
  mmdebstrap -q --variant=extract --include=base-files,libc6,libgcc-s1,netbase \
    --extract-hook='printf "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n" >"$1"/etc/passwd' \
    --extract-hook='rm -rf "$1"/var/lib/dpkg "$1"/var/lib/apt' --extract-hook="$slim" "$suite" "$work/cc.tar" >&2
  docker import -c 'USER 65532:65532' "$work/cc.tar" "$prefix-cc:$suite" >/dev/null
fi
if ! have "$prefix-busybox:$suite"; then
  need /bin/busybox busybox-static
  mkdir -p "$work/bb/bin" "$work/bb/tmp" "$work/bb/etc"
  chmod 1777 "$work/bb/tmp"
  cp /bin/busybox "$work/bb/bin/busybox"
  for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "$work/bb/bin/$name"; done
  printf 'root:x:0:0:root:/:/bin/sh\n' >"$work/bb/etc/passwd"
  tar -C "$work/bb" -c . | docker import - "$prefix-busybox:$suite" >/dev/null
fi
if [ "${1:-}" = --build ] && ! have "$prefix-rust:$suite"; then
  need mmdebstrap mmdebstrap
  mmdebstrap -q --variant=extract \
    --include=base-files,bash,dash,coreutils,grep,sed,findutils,tar,gzip,gcc,libc6-dev,libgcc-s1 \
    --extract-hook='ln -s gcc "$1"/usr/bin/cc; mkdir -p "$1"/etc/ssl/certs "$1"/root; cp /etc/ssl/certs/ca-certificates.crt "$1"/etc/ssl/certs/; echo "root:x:0:0:root:/root:/bin/sh" >"$1"/etc/passwd' \
    --extract-hook="$slim" "$suite" "$work/rust.tar" >&2
  tar -C "$(rustc --print sysroot)" --owner=0 --group=0 --transform 's,^,./opt/rust/,' -rf "$work/rust.tar" bin/cargo bin/rustc lib
  docker import -c 'ENV PATH=/usr/local/cargo/bin:/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    -c 'ENV CARGO_HOME=/usr/local/cargo' "$work/rust.tar" "$prefix-rust:$suite" >/dev/null
fi
echo "RUN_BASE=$prefix-cc:$suite AGENT_BASE=$prefix-busybox:$suite BUILD_BASE=$prefix-rust:$suite"
