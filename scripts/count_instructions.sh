#!/usr/bin/env bash
# Instructions of user space that an echo of 64 bytes costs: the engine with a C program, and through
# Rust; the same over TLS, where those outside of libcrypto, libssl and libc are ours. Two runs of
# different length under callgrind are subtracted. The counts do not depend on the load of the
# machine, so they are comparable between changes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

short=1000
long=3000

# For ping_pong.py.
client_options=()

# Instructions of a run of $1 messages: all, and those of the program itself.
count() {
    local messages=$1
    shift
    listening_server valgrind --tool=callgrind --callgrind-out-file="$work/callgrind.out" \
        --compress-strings=no --compress-pos=no "$@"
    timeout 120 python3 scripts/ping_pong.py "${client_options[@]}" "$host" "$port" "$messages" ||
        fail "no echo"
    stop_server TERM
    # After a line with calls= follows what the callee has cost, which is counted there.
    awk -v own="/${1##*/}$" '
        /^ob=/ { is_own = $0 ~ own }
        /^calls=/ { getline; next }
        /^[0-9]/ { all += $2; if (is_own) ours += $2 }
        END { print all, ours }' "$work/callgrind.out"
}

# report NAME COMMAND...
report() {
    local name=$1 few many few_own many_own
    shift
    count $short "$@" >"$work/few"
    count $long "$@" >"$work/many"
    read -r few few_own <"$work/few"
    read -r many many_own <"$work/many"
    printf '%-10s %6d instructions per message, %5d outside of libraries\n' "$name" \
        $(((many - few) / (long - short))) $(((many_own - few_own) / (long - short)))
}

make -s -C vendor/usockets-sys
cc -O2 -Ivendor/usockets-sys/include examples/c/tcp_echo.c vendor/usockets-sys/libusockets.a \
    -pthread -lssl -lcrypto -o "$work/tcp_echo_c"
cargo build -q --release --example tcp_echo
cargo build -q --release -p usockets-benches
release="${CARGO_TARGET_DIR:-target}/release"

report C "$work/tcp_echo_c" 127.0.0.1:0
report Rust "$release/examples/tcp_echo" 127.0.0.1:0

client_options=(--tls)
self_signed
report "C, TLS" "$work/tcp_echo_c" 127.0.0.1:0 "$work/certificate.pem" "$work/key.pem"
report "Rust, TLS" "$release/usockets-benches" @ 0 0 serve-tls usockets 65536 65536 own keep ""
