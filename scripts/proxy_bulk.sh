#!/usr/bin/env bash
# Sends bytes from one socat to another through the example proxy, and prints what that has cost the
# proxy: once with splice, and once by receiving and sending, as the engine does where the system
# refuses the former. Fails if what arrives is not what was sent.
#
#   scripts/proxy_bulk.sh [BYTES]     default: 10 GiB
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

bytes=${1:-$((10 << 30))}
cargo build -q -p usockets --release --example proxy
proxy=${CARGO_TARGET_DIR:-target}/release/examples/proxy
head -c 1000003 /dev/urandom >"$work/block"
sum=$(write_blocks "$work/block" "$bytes" | cksum)

# Seconds of processor time of a process, in user mode and in the system.
processor_time() {
    awk -v ticks="$(getconf CLK_TCK)" '{ printf "%.2f %.2f\n", $14 / ticks, $15 / ticks }' "/proc/$1/stat"
}

# transfer TITLE PREFIX...: through a proxy that is started by the prefix.
transfer() {
    local title=$1 pid begin end user system
    shift
    rm -f "$work/sum"
    start_server socat -u -d -d TCP-LISTEN:0,bind=127.0.0.1 "SYSTEM:cksum >'$work/sum'"
    socat_listens
    keep_server
    listening_server "$@" "$proxy" 127.0.0.1:0 "$socat_address"
    pid=$server_pid
    if (($# > 0)); then
        pid=$(<"/proc/$pid/task/$pid/children")
        pid=${pid% }
    fi
    begin=$(date +%s%N)
    write_blocks "$work/block" "$bytes" | timeout 600 socat -u STDIN "TCP:$address"
    wait_until 60 test -s "$work/sum" || fail "the end does not come through"
    end=$(date +%s%N)
    [[ $(<"$work/sum") == "$sum" ]] || fail "sent: $sum; got: $(<"$work/sum")"
    read -r user system < <(processor_time "$pid")
    kill -TERM "$pid"
    wait_server 20
    says_bytes || fail "the proxy has counted otherwise"
    kept_servers=() # socat has ended with its connection
    awk -v title="$title" -v bytes="$bytes" -v user="$user" -v kernel="$system" \
        -v elapsed=$((end - begin)) 'BEGIN {
            gib = bytes / 2 ^ 30
            printf "    %.1f GiB by %s: %.2f s of processor time (user %.2f, system %.2f), ", \
                gib, title, user + kernel, user, kernel
            printf "%.2f s per GiB; it took %.1f s\n", (user + kernel) / gib, elapsed / 1e9
        }'
}

says_bytes() {
    server_says "^served 1 connections, 0 failed, $bytes bytes up, 0 bytes down$"
}

transfer splice
# Nothing but splice is slowed down by strace, and it is called once or twice.
transfer copying strace -f --seccomp-bpf -o /dev/null -e trace=splice -e inject=splice:error=EINVAL
