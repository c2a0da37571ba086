#!/usr/bin/env bash
# Runs a command as root on a real Linux with nothing but cgroup v2, where the machine has no such tree of its own:
#   tests/guest/run.sh [-k 6.12|6.1] [-t SECONDS] [-m MIB] [-o DIR] [-e NAME=VALUE]… COMMAND [ARGUMENT…]
#     -k  the kernel: Debian bookworm's own 6.1, or the 6.12 of its backports (6.12)   -t  hard limit, with the boot (300)
#     -o  this folder of the machine is writable in the guest, at the same path        -m  the guest's memory (1536)
# The machine's files are all there, read-only beneath a layer in memory that ends with the guest; the temporary folder
# lies on a disk (/dev/vda), so that limits on a block device are real. PATH, HOME and what begins with PITWALL_, RUST_,
# PROPTEST_ or INSTA_ is handed on. Standard output and error are the command's, and so is the exit code, but:
#   124 not ended in time   125 the guest ended without a result; its console is shown   69 no guest can be had here
# QEMU emulates in software, so it runs where there is no virtualisation. It, the kernels and busybox are Debian's
# packages, fetched by apt and unpacked into PITWALL_GUEST_CACHE (~/.cache/pitwall-guest); nothing is installed.
set -uo pipefail
cache=${PITWALL_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pitwall-guest}
here=$(cd "$(dirname "$0")" && pwd)
kernel=6.12 limit=300 memory=1536 share="" variables=()
usage() { sed -n '2,5p' "$0" | cut -c3- >&2; exit 2; }
while getopts k:t:m:o:e: option; do
  case $option in
    k) kernel=$OPTARG ;; t) limit=$OPTARG ;; m) memory=$OPTARG ;; e) variables+=("$OPTARG") ;;
    o) share=$(readlink -e "$OPTARG") || { echo "guest: $OPTARG: no such folder" >&2; exit 2; } ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
case $kernel in 6.12) suite=bookworm-backports ;; 6.1) suite=bookworm ;; *) usage ;; esac

cannot() { echo "guest: $*" >&2; exit 69; }

# --- what is fetched once

# With lists of its own: neither the machine's sources nor its packages change.
apt_options=(-qq -o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1)
lists() {
  [ -e "$cache/apt/fetched" ] && return
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || cannot "its packages are Debian's, and there is no apt here"
  local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=""
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1)
  [ -n "$uri" ] || cannot "no source of Debian bookworm is configured here"
  [ -e $keyring ] && signed="[signed-by=$keyring]"
  mkdir -p "$cache"/apt/lists/partial "$cache"/apt/cache/archives/partial
  printf "deb $signed $uri %s main\n" bookworm bookworm-backports > "$cache/apt/sources.list"
  apt-get "${apt_options[@]}" update >&2 || cannot "the package lists cannot be fetched"
  touch "$cache/apt/fetched"
}
# unpack FOLDER SUITE PACKAGE…: whole or not at all; of that suite where it has the package.
unpack() {
  local into=$1 from=$2 fresh
  shift 2
  fresh=$(mktemp -d "$cache/fresh.XXXXXX")
  (cd "$fresh" && apt-get "${apt_options[@]}" -t "$from" download "$@" >&2 && for package in *.deb; do dpkg-deb -x "$package" . || exit 1; done &&
    rm ./*.deb) || { rm -rf "$fresh"; cannot "$* cannot be fetched"; }
  mv "$fresh" "$into"
}
fetch() {
  local image names
  if [ ! -e "$cache/busybox" ]; then
    lists
    unpack "$cache/busybox" bookworm busybox-static
  fi
  if [ ! -e "$cache/qemu" ]; then
    lists
    # With what it needs and this machine does not have.
    names=$(apt-get "${apt_options[@]}" -t bookworm-backports --no-install-recommends --simulate install qemu-system-x86 |
      sed -n 's/^Inst \([^ ]*\) .*/\1/p') || cannot "QEMU cannot be had"
    unpack "$cache/qemu" bookworm-backports $names
  fi
  if [ ! -e "$cache/linux-$kernel" ]; then
    lists
    image=$(apt-cache "${apt_options[@]}" -o "APT::Default-Release=$suite" depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [ -n "$image" ] || cannot "no kernel of $suite"
    unpack "$cache/linux-$kernel" "$suite" "$image"
  fi
}

# --- the guest's first file system: busybox, the modules in the order in which they are loaded, and its init

# module NAME: after those that it depends on.
module() {
  local name=${1//-/_} file needed
  case " $loaded " in *" $name "*) return ;; esac
  loaded+=" $name"
  file=$(grep -m1 -E "/$(sed 's/_/[-_]/g' <<< "$name")\.ko(\.xz)?$" <<< "$modules") || return 0 # built in
  case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac > "$root/modules/$name.ko"
  for needed in $(tr '\0' '\n' < "$root/modules/$name.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do module "$needed"; done
  echo "$name" >> "$root/modules/order"
}
base() {
  local root loaded="" modules
  base=$cache/base-$kernel-$(sha256sum "$here/init.sh" "$here/run.sh" | sha256sum | cut -c1-12).cpio
  [ -e "$base" ] && return
  rm -f "$cache/base-$kernel-"*
  root=$(mktemp -d "$cache/fresh.XXXXXX")
  mkdir -p "$root"/{bin,dev,proc,sys,modules,host,layer,new}
  cp "$busybox" "$root/bin/busybox"
  cp "$here/init.sh" "$root/init"
  chmod +x "$root/init"
  modules=$(find "$cache/linux-$kernel/lib/modules" -name '*.ko*')
  for name in virtio_pci virtio_console virtio_blk 9pnet_virtio 9p overlay crc32c_generic ext4; do module "$name"; done
  (cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) > "$base.part" || cannot "its first file system cannot be packed"
  mv "$base.part" "$base"
  rm -rf "$root"
}

mkdir -p "$cache" || cannot "$cache cannot be made"
# Two runs at the same time fetch once.
exec 9> "$cache/lock"
flock 9
rm -rf "$cache"/fresh.*
fetch
busybox=$(echo "$cache"/busybox/{,usr/}bin/busybox | tr ' ' '\n' | while read -r f; do [ -x "$f" ] && echo "$f" && break; done)
[ -n "$busybox" ] || cannot "busybox is not in its package"
base
exec 9>&-

# --- this run

work=$(mktemp -d "${TMPDIR:-/tmp}/pitwall-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
program=$(command -v -- "$1") || { echo "guest: $1: not found" >&2; exit 127; }
program=$(cd "$(dirname "$program")" && pwd)/$(basename "$program")
shift
mkdir "$work/root"
{
  printf 'export %q\n' "PATH=$PATH" "HOME=$HOME" LANG=C.UTF-8 TMPDIR=/disk/tmp
  while IFS= read -r -d '' variable; do printf 'export %q\n' "$variable"; done < <(env -0 | grep -zE '^(PITWALL_|RUST_|PROPTEST_|INSTA_)')
  for variable in ${variables[@]+"${variables[@]}"}; do printf 'export %q\n' "$variable"; done
  printf 'cd %q\n' "$PWD"
  printf 'exec'
  printf ' %q' "$program" "$@"
  echo
} > "$work/root/job"
echo "$share" > "$work/root/share"
{ cat "$base"; (cd "$work/root" && find job share | "$busybox" cpio -o -H newc 2>/dev/null); } > "$work/initrd"
truncate -s 512M "$work/disk"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -F "$work/disk" || cannot "mke2fs is missing"
: > "$work/result"
shares=(-fsdev "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap" -device virtio-9p-pci,fsdev=host,mount_tag=host)
[ -n "$share" ] && shares+=(-fsdev "local,id=share,path=$share,security_model=none" -device virtio-9p-pci,fsdev=share,mount_tag=writable)
libraries=$cache/qemu/usr/lib/x86_64-linux-gnu
exec 3> >(exec cat) && out=$!
exec 4> >(exec cat >&2) && err=$!
LD_LIBRARY_PATH="$libraries:$cache/qemu/lib/x86_64-linux-gnu" QEMU_MODULE_DIR="$libraries/qemu" \
  timeout -k 5 "$limit" "$cache/qemu/usr/bin/qemu-system-x86_64" -L "$cache/qemu/usr/share/qemu" -L "$cache/qemu/usr/share/seabios" \
  -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m "$memory" -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$cache/linux-$kernel"/boot/vmlinuz-* -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 oops=panic" \
  -chardev "file,id=console,path=$work/console" -serial chardev:console -device virtio-serial-pci \
  -chardev file,id=out,path=/dev/fd/3,append=on -device virtserialport,chardev=out,name=out \
  -chardev file,id=err,path=/dev/fd/4,append=on -device virtserialport,chardev=err,name=err \
  -chardev "file,id=result,path=$work/result" -device virtserialport,chardev=result,name=result \
  -drive "file=$work/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk "${shares[@]}" \
  < /dev/null > "$work/qemu" 2>&1
qemu=$?
exec 3>&- 4>&-
wait "$out" "$err"
code=$(sed -n 's/^exit //p' "$work/result" | tail -n 1)
[ -n "$code" ] && exit "$code"
if [ $qemu -eq 124 ] || [ $qemu -eq 137 ]; then
  echo "guest: not ended within $limit s" >&2
  exit 124
fi
{ echo "guest: ended without a result (QEMU: $qemu)"; tail -n 5 "$work/qemu"; tail -n 25 "$work/console"; } >&2
exit 125
