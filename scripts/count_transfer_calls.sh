#!/usr/bin/env bash
# Counts the system calls that the example file_server makes to send one file over HTTP: once by
# sendfile, and once by reading and sending, as the engine does where the system refuses the former.
# Prints figures and judges nothing.
#
#   scripts/count_transfer_calls.sh [BYTES]     default: 1 GiB
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

bytes=${1:-$((1 << 30))}
cargo build -q -p usockets --release --example file_server
server=${CARGO_TARGET_DIR:-target}/release/examples/file_server
mkdir "$work/files"
truncate -s "$bytes" "$work/files/file"

# count TITLE OPTION...: the calls of a server under strace with these options.
count() {
    local title=$1 got
    shift
    listening_server strace -f -c -U calls,name -o "$work/counts" "$@" \
        "$server" 127.0.0.1:0 "$work/files"
    got=$(timeout 300 curl -sS -o /dev/null -w '%{size_download}' "http://$address/file")
    ((got == bytes)) || fail "got $got bytes"
    # The server is a child of strace.
    kill -TERM $(<"/proc/$server_pid/task/$server_pid/children")
    wait_server 20
    printf '%s bytes by %s:\n' "$bytes" "$title"
    grep -E '^ *[0-9]+ (sendfile|pread64|sendto|sendmsg|writev?|epoll_[a-z0-9]+|p?poll)$' "$work/counts" |
        sort -rn
    printf '%9d in all, start and end of the program included\n' \
        "$(awk '/^ *[0-9]+ [a-z_0-9]+$/ && $2 != "total" { sum += $1 } END { print sum }' "$work/counts")"
}

count sendfile
count 'reading and sending' -e inject=sendfile:error=EINVAL
