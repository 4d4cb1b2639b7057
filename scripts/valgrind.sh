#!/usr/bin/env bash
# The subset of both suites that runs under valgrind: what makes, moves, closes and frees things.
# Neither an error nor a leak is allowed. The engine is built with one allocation per socket, so that
# a use after release is seen.
#
# The sanitizers (make engine-sanitized, make asan) run everything and see more of what is out of
# bounds; valgrind sees values that were never initialised, and needs no instrumented build.
#
#   scripts/valgrind.sh [engine] [crate]    default: both
set -euo pipefail
cd "$(dirname "$0")/.."

# Tests of the engine whose names contain one of these.
engine=(adopt moving close freeing wakeup timer connect unix accepted release poll_
    tls_handshake_is_told tls_certificates_of_servers_that_are_refused tls_small_writes
    tls_sessions_are_given tls_starts_as tls_names_choose tls_bad_beginnings)
# Not these: valgrind has descriptors of its own, which are counted too.
engine_not="descriptor_limit|close_on_exec"

# Tests of the crate: a program of tests/, and what the names of its tests contain ("" for all).
crate=(
    "drop_counts:"
    "over_tcp:streams::adopt"
    "over_tcp:streams::contexts"
    "over_tcp:streams::drop_counts"
    "over_tcp:streams::echo"
    "over_tcp:streams::stale_handles"
    "stale_handles:"
    "timers:"
    "worker_pool:"
)

jobs=$(nproc)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Output of a good run is thrown away. Valgrind does not know epoll_pwait2 and says so each time; the
# engine then does without it.
cat >"$work/check" <<'SCRIPT'
#!/usr/bin/env bash
name=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if timeout 300 valgrind -q --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect --error-exitcode=99 "$@" >"$log" 2>&1; then
    printf 'ok %s\n' "$name"
else
    printf 'not ok %s (exit code %d)\n' "$name" $?
    grep -vE '^--[0-9]+-- ' "$log" | head -n 60
    exit 1
fi
SCRIPT
chmod +x "$work/check"

# Time limits of the tests are for native speed.
export USOCKETS_TEST_TIME=10
export USOCKETS_TEST_TIME_FACTOR=20

check_engine() {
    make -s -C vendor/usockets-sys CC=gcc OUT=build/gcc-valgrind \
        CFLAGS="-O1 -g -DUSX_PLAIN_ALLOC" runner
    local runner=vendor/usockets-sys/build/gcc-valgrind/runner pattern
    pattern=$(IFS='|' && printf '%s' "${engine[*]}")
    "$runner" --list | grep -E "$pattern" | grep -vE "$engine_not" >"$work/names"
    [[ -s $work/names ]]
    xargs -P "$jobs" -I{} "$work/check" {} "$runner" {} <"$work/names"
}

# The program of a file in tests/.
test_program() {
    cargo test -q -p usockets --test "$1" --no-run --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])
' "$1"
}

check_crate() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/valgrind
    export CFLAGS=-DUSX_PLAIN_ALLOC
    local entry file filter program
    for entry in "${crate[@]}"; do
        file=${entry%%:*}
        filter=${entry#*:}
        program=$(test_program "$file")
        [[ -n $program ]]
        "$program" --list "$filter" | grep ': test$' >/dev/null
        "$work/check" "$file $filter" "$program" --test-threads=1 "$filter"
    done
}

if (($# == 0)); then
    set -- engine crate
fi
for part in "$@"; do
    printf '== %s\n' "$part"
    "check_$part"
done
