#!/usr/bin/env bash
# Unpacks libfaketime into tests/clients/.faketime, for the tests of wall clocks that jump: from Debian's or Ubuntu's own
# repository, and nothing is installed. Does nothing where it is there, or where the system has it; where it cannot be had,
# those tests are skipped, and listed.
set -euo pipefail
cd "$(dirname "$0")"
for library in .faketime/usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/*/faketime/libfaketimeMT.so.1; do
  if [ -e "$library" ]; then exit 0; fi
done
unpacked=$(mktemp -d .faketime-XXXXXX)
trap 'rm -rf "$unpacked"' EXIT
get() {
  cd "$unpacked" && apt-get download libfaketime > /dev/null 2>&1 && dpkg-deb -x libfaketime_*.deb . && rm libfaketime_*.deb
}
if ! (get); then
  echo "libfaketime cannot be had here"
  exit 0
fi
rm -rf .faketime
mv "$unpacked" .faketime
