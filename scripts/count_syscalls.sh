#!/usr/bin/env bash
# Counts the system calls of an echo in steady state: two runs of different length are subtracted, so
# that what is done once per connection or process falls out. Fails if a message costs anything but
# one receive, one send and one wait.
#
#   scripts/count_syscalls.sh [COMMAND...]    default: the example tcp_echo, in a release build
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

short=1000
long=3000

if (($# == 0)); then
    cargo build --release --example tcp_echo
    set -- "${CARGO_TARGET_DIR:-target}/release/examples/tcp_echo"
fi

# Writes "count name" lines for a run of $1 messages to the file $2.
trace() {
    local messages=$1 result=$2
    shift 2
    listening_server strace -f -c -U calls,name -o "$work/counts" "$@" 127.0.0.1:0
    timeout 60 python3 scripts/ping_pong.py "$host" "$port" "$messages" || fail "no echo"
    # The server is a child of strace.
    kill -TERM $(<"/proc/$server_pid/task/$server_pid/children")
    wait_server 20
    grep -E '^ *[0-9]+ [a-z_0-9]+$' "$work/counts" | grep -v ' total$' >"$result"
}

trace $short "$work/short" "$@"
trace $long "$work/long" "$@"

awk -v messages=$((long - short)) '
    FNR == NR { before[$2] = $1; next }
    {
        per_message = ($1 - before[$2]) / messages
        kind = "other"
        if ($2 ~ /^recv/) kind = "receive"
        if ($2 ~ /^send/) kind = "send"
        if ($2 ~ /^(epoll_p?wait2?|p?poll)$/) kind = "wait"
        sum[kind] += per_message
        if (per_message != 0) printf "%-16s %8.3f per message\n", $2, per_message
    }
    END {
        good = 1
        # A handful of calls in two thousand messages is a timer or a signal, not a cost per message.
        if (sum["receive"] < 0.99 || sum["receive"] > 1.01) good = 0
        if (sum["send"] < 0.99 || sum["send"] > 1.01) good = 0
        if (sum["wait"] > 1.01) good = 0
        if (sum["other"] > 0.01) good = 0
        if (!good) { print "expected 1 receive, 1 send, at most 1 wait, and nothing else"; exit 1 }
    }' "$work/short" "$work/long"
