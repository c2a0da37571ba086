#!/usr/bin/env bash
# The tests whose subject is a cgroup, on real kernels with cgroup v2 alone: each built binary once in each kernel, and
# every limit set and undone once (`pitwall-footprint --rungs --quick`).
#   tests/guest/tests.sh [KERNEL…]        (6.12 6.1)
# Where the machine has a v2 tree of its own, its tests have run there already: then this does nothing. Where no guest
# can be had it is skipped, and listed; it fails instead where PITWALL_REQUIRE names `guest`.
set -uo pipefail
cd "$(dirname "$0")/../.."
# A boot, and each test in software emulation.
limit=600
kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || kernels=(6.12 6.1)
if grep -qw cpu /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
  echo "this machine has cgroup v2 itself"
  exit 0
fi

# Those whose windows a machine that is emulated can keep.
cargo build --locked -p pitwall -p pitwall-sidecar -p pitwall-footprint --bins || exit 1
built=$(cargo test --locked --no-run --message-format=json -p pitwall-sidecar --test act -p pitwall-tests --test beside) || exit 1
mapfile -t binaries < <(sed -n 's/.*"executable":"\([^"]*\/deps\/\(act\|beside\)-[^"]*\)".*/\1/p' <<< "$built")
[ ${#binaries[@]} -eq 2 ] || { echo "not all test binaries were built: ${binaries[*]}"; exit 1; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
failed=0
for kernel in "${kernels[@]}"; do
  echo "--- kernel $kernel"
  tests/guest/run.sh -k "$kernel" -t $limit -o "$out" -e PITWALL_REQUIRE=cgroup -e "PITWALL_SKIPS=$out/skips" \
    bash -c '
      uname -r
      failed=0
      for test in "$@"; do "$test" --test-threads=1 || failed=1; done
      target/debug/pitwall-footprint --binaries target/debug --rungs --quick || failed=1
      exit $failed' tests "${binaries[@]}"
  code=$?
  if [ $code -eq 69 ]; then
    if [[ ",${PITWALL_REQUIRE:-}," == *,guest,* ]]; then exit 69; fi
    [ -n "${PITWALL_SKIPS:-}" ] && echo "limits on cgroup v2, kernel $kernel: no guest can be had here" >> "$PITWALL_SKIPS"
    exit 0
  fi
  [ $code -eq 0 ] || { echo "--- kernel $kernel: $code"; failed=1; }
done
if [ -n "${PITWALL_SKIPS:-}" ] && [ -e "$out/skips" ]; then sed 's/^/in the guest: /' "$out/skips" >> "$PITWALL_SKIPS"; fi
exit $failed
