# Servers in the background. To be sourced by a script that has `set -euo pipefail`.
#
# A server prints a line with "listening on ADDRESS" when it is ready. At the end of the script
# whatever is left is killed, and its files are removed.

work=$(mktemp -d)
server_pid=
server_output=
servers=0
kept_servers=()

cleanup() {
    jobs -p | xargs -r kill -KILL 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    if [[ -n $server_output && -s $server_output ]]; then
        printf 'The server said:\n' >&2
        sed 's/^/    /' "$server_output" >&2
    fi
    exit 1
}

# wait_until SECONDS COMMAND...: until the command succeeds.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS > end)); then
            return 1
        fi
        sleep 0.02
    done
}

server_runs() {
    kill -0 "$server_pid" 2>/dev/null
}

server_has_ended() {
    ! server_runs
}

server_says() {
    grep -Eq -- "$1" "$server_output"
}

# start_server COMMAND...: runs it in the background, without waiting for it to be ready. Its stdin is
# the file "$work/input" if there is one.
start_server() {
    server_output=$work/server.$((++servers)).out
    # Emptied here: the background may get to it after somebody has looked.
    : >"$server_output"
    local input=/dev/null
    if [[ -p $work/input ]]; then
        input=$work/input
    fi
    # Not the writing end of that file: the server would wait for its own end of input.
    "$@" >"$server_output" 2>&1 <"$input" 9>&- &
    server_pid=$!
}

# listening_server COMMAND...: the same, and sets $address, $host and $port to what it listens on.
listening_server() {
    start_server "$@"
    wait_until 30 server_says 'listening on' || fail "$1 does not listen"
    address=$(sed -nE 's/.*listening on ([^ ,]+).*/\1/p' "$server_output" | head -n 1)
    host=${address%:*}
    port=${address##*:}
}

# keep_server: lets it run beside the next one, until end_kept_servers or the end of the script.
keep_server() {
    kept_servers+=("$server_pid")
    server_pid=
}

# They end by SIGTERM, and with exit code 0.
end_kept_servers() {
    local running=$server_pid
    for server_pid in "${kept_servers[@]}"; do
        stop_server TERM
    done
    kept_servers=()
    server_pid=$running
}

# After start_server socat -d -d TCP-LISTEN:0...: sets $socat_address to what it listens on.
socat_listens() {
    wait_until 30 server_says 'listening on' || fail "socat does not listen"
    socat_address=$(sed -nE 's/.*listening on AF=2 ([^ ]+).*/\1/p' "$server_output")
}

# wait_server SECONDS: until it ends, with exit code 0.
wait_server() {
    wait_until "$1" server_has_ended || fail "it does not end"
    local status=0
    wait "$server_pid" || status=$?
    server_pid=
    ((status == 0)) || fail "exit code $status"
}

# stop_server SIGNAL: sends the signal, and expects exit code 0.
stop_server() {
    server_runs || fail "it has ended by itself"
    kill "-$1" "$server_pid"
    wait_server 20
}

# self_signed: writes $work/certificate.pem and $work/key.pem, for localhost.
self_signed() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=localhost \
        -keyout "$work/key.pem" -out "$work/certificate.pem" 2>"$work/openssl.log" ||
        fail "no certificate: $(<"$work/openssl.log")"
}

# write_blocks BLOCK BYTES: so many bytes, of copies of the file BLOCK.
write_blocks() {
    python3 - "$@" <<'PYTHON'
import sys
block, left = open(sys.argv[1], "rb").read(), int(sys.argv[2])
while left > 0:
    left -= sys.stdout.buffer.write(block[:left])
PYTHON
}
