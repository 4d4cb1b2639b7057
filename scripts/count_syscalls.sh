#!/usr/bin/env bash
# Counts the system calls of a server in steady state: two runs of different length are subtracted, so
# that what is done once per connection or process falls out. Fails if a round costs anything but one
# receive, one send and one wait. A round is
#
#   * a message of 64 bytes and its echo, by the example tcp_echo;
#   * 64 requests of 64 bytes at once, each answered by a write of its own, by a server of the benchmarks;
#   * both of these over TLS.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

short=1000
long=3000

# For ping_pong.py.
client_options=()

# Writes "count name" lines for a run of $2 rounds of $1 messages to the file $3.
trace() {
    local messages=$1 rounds=$2 result=$3
    shift 3
    listening_server strace -f -c -U calls,name -o "$work/counts" "$@"
    timeout 60 python3 scripts/ping_pong.py "${client_options[@]}" "$host" "$port" "$rounds" "$messages" ||
        fail "no answers"
    # The server is a child of strace.
    kill -TERM $(<"/proc/$server_pid/task/$server_pid/children")
    wait_server 20
    grep -E '^ *[0-9]+ [a-z_0-9]+$' "$work/counts" | grep -v ' total$' >"$result"
}

# check MESSAGES COMMAND...
check() {
    local messages=$1
    shift
    trace "$messages" $short "$work/short" "$@"
    trace "$messages" $long "$work/long" "$@"
    awk -v rounds=$((long - short)) '
        FNR == NR { before[$2] = $1; next }
        {
            per_round = ($1 - before[$2]) / rounds
            kind = "other"
            if ($2 ~ /^recv/) kind = "receive"
            if ($2 ~ /^send/) kind = "send"
            if ($2 ~ /^(epoll_p?wait2?|p?poll)$/) kind = "wait"
            sum[kind] += per_round
            if (per_round != 0) printf "%-16s %8.3f per round\n", $2, per_round
        }
        END {
            good = 1
            # A handful of calls in two thousand rounds is a timer or a signal, not a cost per round.
            if (sum["receive"] < 0.99 || sum["receive"] > 1.01) good = 0
            if (sum["send"] < 0.99 || sum["send"] > 1.01) good = 0
            if (sum["wait"] > 1.01) good = 0
            if (sum["other"] > 0.01) good = 0
            if (!good) { print "expected 1 receive, 1 send, at most 1 wait, and nothing else"; exit 1 }
        }' "$work/short" "$work/long"
}

release="${CARGO_TARGET_DIR:-target}/release"
cargo build --release --example tcp_echo
echo "echo, one message at a time:"
check 1 "$release/examples/tcp_echo" 127.0.0.1:0

cargo build --release -p usockets-benches
echo "64 requests at once, a write for each:"
check 64 "$release/usockets-benches" @ 0 0 serve usockets 64 65536 ""

client_options=(--tls)
echo "echo over TLS, one message at a time:"
check 1 "$release/usockets-benches" @ 0 0 serve-tls usockets 65536 65536 own keep ""
echo "64 requests at once over TLS, a write for each:"
check 64 "$release/usockets-benches" @ 0 0 serve-tls usockets 64 65536 own keep ""
