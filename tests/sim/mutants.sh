#!/bin/sh
# Switches on deliberate bugs of the cores, one at a time, and shows which invariant of the simulation catches each, and
# with which seed. Exits 1 when one survives. Built once, with a target folder of its own: no other build has them.
#   tests/sim/mutants.sh [SEEDS]
set -eu
cd "$(dirname "$0")/../.."
seeds=${1:-8000}
export CARGO_TARGET_DIR="${PITWALL_MUTANTS_TARGET:-target/mutants}"
RUSTFLAGS="${RUSTFLAGS:-} --cfg pitwall_mutants" cargo build --release --locked ${CARGO_JOBS:+-j "$CARGO_JOBS"} -p pitwall-sim
sim="$CARGO_TARGET_DIR/release/pitwall-sim"

# Without any of them it must hold, else nothing is shown.
"$sim" --seeds 300 --no-matrix >/dev/null || { echo "without a mutant the simulation fails already" >&2; exit 1; }

names=$(grep -rhoE 'mutant!\("[a-z0-9-]+"\)' orchestrator/core/src sidecar/core/src | sed 's/.*"\(.*\)".*/\1/' | sort -u)

# What is shipped has none of them: not one name is in the binaries of a plain build.
plain="${PITWALL_PLAIN_TARGET:-target}"
CARGO_TARGET_DIR="$plain" cargo build --release --locked ${CARGO_JOBS:+-j "$CARGO_JOBS"} \
    -p pitwall --bin pitwall -p pitwall-sidecar --bin pitwall-sidecar
for binary in pitwall pitwall-sidecar; do
    for name in $names; do
        if grep -qaF "$name" "$plain/release/$binary"; then
            echo "$binary of a plain build knows the deliberate bug $name" >&2
            exit 1
        fi
    done
done
# The same look must find them where they are.
grep -qaF act-before-persist "$sim" || { echo "names of deliberate bugs cannot be found at all" >&2; exit 1; }

survivors=0
printf '%-40s %-32s %s\n' MUTANT "CAUGHT BY" SEED
for name in $names; do
    if caught=$("$sim" --seeds "$seeds" --until-first --no-matrix --jobs 2 --mutant "$name" --brief); then
        printf '%-40s %s\n' "$name" "SURVIVED $seeds seeds"
        survivors=$((survivors + 1))
    else
        # A panic prints no such line, and does not count.
        set -- $(printf '%s\n' "$caught" | sed -n 's/^caught by \([A-Za-z]*\) seed \([0-9]*\)$/\1 \2/p' | head -1)
        if [ $# -eq 2 ]; then
            printf '%-40s %-32s %s\n' "$name" "$1" "$2"
        else
            printf '%-40s %s\n' "$name" "ended without naming an invariant"
            survivors=$((survivors + 1))
        fi
    fi
done
[ "$survivors" -eq 0 ] || { echo "$survivors survived" >&2; exit 1; }
