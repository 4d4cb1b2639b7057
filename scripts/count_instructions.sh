#!/usr/bin/env bash
# Instructions of user space that an echo of 64 bytes costs: the engine with a C program, and through
# Rust. Two runs of different length under callgrind are subtracted. The counts do not depend on the
# load of the machine, so they are comparable between changes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

short=1000
long=3000

# Instructions of a run of $1 messages.
count() {
    local messages=$1
    shift
    listening_server valgrind --tool=callgrind --callgrind-out-file="$work/callgrind.out" \
        "$@" 127.0.0.1:0
    timeout 120 python3 scripts/ping_pong.py "$host" "$port" "$messages" || fail "no echo"
    stop_server TERM
    sed -n 's/^summary: //p; s/^totals: //p' "$work/callgrind.out" | tail -n 1
}

# report NAME COMMAND...
report() {
    local name=$1 few many
    shift
    count $short "$@" >"$work/few"
    count $long "$@" >"$work/many"
    few=$(<"$work/few")
    many=$(<"$work/many")
    printf '%-6s %5d instructions per message\n' "$name" $(((many - few) / (long - short)))
}

make -s -C vendor/usockets-sys
cc -O2 -Ivendor/usockets-sys/include examples/c/tcp_echo.c vendor/usockets-sys/libusockets.a \
    -pthread -o "$work/tcp_echo_c"
cargo build -q --release --example tcp_echo

report C "$work/tcp_echo_c"
report Rust "${CARGO_TARGET_DIR:-target}/release/examples/tcp_echo"
