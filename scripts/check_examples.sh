#!/usr/bin/env bash
# Starts every example, talks to it with other people's programs, checks what it says, and stops it.
# One function per example; tests/tidy.rs sees to it that none is missing.
#
#   scripts/check_examples.sh              all
#   scripts/check_examples.sh chat timers  these
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

for tool in socat nc python3 cc curl openssl wrk ip unshare; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done
binaries=${CARGO_TARGET_DIR:-target}/release/examples

# Runs a command for 20 seconds at most; functions see to their limits themselves.
limited() {
    if declare -F "$1" >/dev/null; then
        "$@"
    else
        timeout 20 "$@"
    fi
}

# expect TEXT COMMAND...: the command prints exactly the text, within 20 seconds.
expect() {
    local expected=$1 actual
    shift
    actual=$(limited "$@" && printf x) || fail "exit code $?: $*"
    actual=${actual%x}
    [[ $actual == "$expected" ]] || fail "$*: expected '$expected', got '$actual'"
}

# says PATTERN: the server has written a line that matches, or does so within 20 seconds.
says() {
    wait_until 20 server_says "$1" || fail "it does not say '$1'"
}

# The command fails at once, with exit code 1, and says what about.
refuses() {
    local pattern=$1 status=0 output
    shift
    output=$(timeout 20 "$@" 2>&1 </dev/null) || status=$?
    ((status == 1)) || fail "$*: exit code $status, expected 1"
    [[ $output =~ $pattern ]] || fail "$*: '$output' does not say '$pattern'"
}

# The most memory that the server has needed, in KiB.
server_memory() {
    sed -nE 's/^VmHWM:\s+([0-9]+) kB/\1/p' "/proc/$server_pid/status"
}

# The other side of the server, in scripts/example_clients.py.
client() {
    timeout 60 python3 scripts/example_clients.py "$1" "$host" "$port" "${@:2}" || fail "$1"
}

# Bytes that go through one connection and are compared by their hash.
bulk=$((1 << 30))
# Connections at once, in a process of their own, or as many as there may be descriptors.
many=$(($(ulimit -Hn) - 100))
many=$((many < 10000 ? many : 10000))
ulimit -n "$(ulimit -Hn)"

# A server that echoes over TCP; then a line of totals.
check_echo() {
    expect $'hello\n' bash -c 'echo hello | socat -t 10 - "TCP:$0:$1"' "$host" "$port"
    expect $'hello\n' bash -c 'echo hello | nc -N "$0" "$1"' "$host" "$port"
    timeout 60 python3 scripts/bulk_echo.py "$host" "$port" $bulk || fail "bulk echo"
    timeout 120 python3 scripts/many_connections.py "$host" "$port" $many || fail "many connections"
    stop_server TERM
    says "$((3 + many)) connections, [0-9]{10} bytes"
}

check_tcp_echo() {
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    refuses 'in use' "$binaries/tcp_echo" "$address"
    refuses 'nowhere' "$binaries/tcp_echo" nowhere
    check_echo
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    stop_server INT
    says '0 connections'
}

check_c_tcp_echo() {
    make -s -C vendor/usockets-sys
    cc -O2 -Ivendor/usockets-sys/include examples/c/tcp_echo.c \
        vendor/usockets-sys/libusockets.a -pthread -lssl -lcrypto -o "$work/tcp_echo_c"
    listening_server "$work/tcp_echo_c" 127.0.0.1:0
    refuses 'in use' "$work/tcp_echo_c" "$address"
    check_echo
    self_signed
    listening_server "$work/tcp_echo_c" 127.0.0.1:0 "$work/certificate.pem" "$work/key.pem"
    timeout 60 python3 scripts/ping_pong.py --tls "$host" "$port" 100 || fail "no echo over TLS"
    stop_server TERM
    says '1 connections, 6400 bytes'
    refuses 'of no use' "$work/tcp_echo_c" 127.0.0.1:0 "$work/key.pem" "$work/certificate.pem"
}

check_tcp_client() {
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    expect $'hello\n' bash -c 'echo hello | "$0" "$1"' "$binaries/tcp_client" "$address"
    # By name: the look-up may give an address that nobody listens on first.
    expect $'hello\n' bash -c 'echo hello | "$0" "$1"' "$binaries/tcp_client" "localhost:$port"
    head -c 20000000 /dev/urandom >"$work/data"
    timeout 60 "$binaries/tcp_client" "$address" <"$work/data" >"$work/echo" || fail "bulk"
    cmp "$work/data" "$work/echo" || fail "the echo differs"
    stop_server TERM
    refuses 'refused' "$binaries/tcp_client" "$address"
    refuses 'no-such-host.invalid' "$binaries/tcp_client" no-such-host.invalid:1
}

# tls_client, to the server that listens and prints the certificate to trust to $work/ca.pem.
tls_client() {
    timeout 60 "$binaries/tls_client" "localhost:$port" --ca "$work/ca.pem" "$@" 2>"$work/said"
}

# The same, and it sends a line.
tls_hello() {
    echo hello | tls_client "$@"
}

check_tls_echo() {
    listening_server "$binaries/tls_echo" 127.0.0.1:0 --ca "$work/ca.pem"
    refuses 'in use' "$binaries/tls_echo" "$address"
    refuses 'belong together' "$binaries/tls_echo" 127.0.0.1:0 --cert "$work/ca.pem"
    refuses 'address comes first' "$binaries/tls_echo" --ca "$work/ca.pem"
    refuses 'nothing.pem.*No such file' \
        "$binaries/tls_echo" 127.0.0.1:0 --cert "$work/nothing.pem" --key "$work/nothing.pem"
    says "^self-signed certificate, SHA-256 $(digest "$work/ca.pem")$"
    expect $'hello\n' bash -c 'echo hello | socat -t 10 - "OPENSSL:localhost:$0,cafile=$1"' \
        "$port" "$work/ca.pem"
    expect '' bash -c 'curl -s "http://$0/" || true' "$address"
    says '^127.0.0.1:[0-9]+: TLS failed: http request'
    stop_server TERM
    says '^1 connections, 0 of them resumed, 1 failed handshakes, 6 bytes$'

    self_signed
    listening_server "$binaries/tls_echo" 127.0.0.1:0 \
        --cert "$work/certificate.pem" --key "$work/key.pem"
    stop_server INT
    says '^0 connections'
}

# The fingerprint of a certificate.
digest() {
    openssl x509 -in "$1" -noout -fingerprint -sha256 | sed 's/.*=//'
}

# What a certificate says reaches no terminal as it is, and passes for nothing else.
check_odd_subject() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -utf8 \
        -subj $'/CN=\e[2Ja, CN=b' -addext subjectAltName=DNS:localhost \
        -keyout "$work/odd.key" -out "$work/ca.pem" 2>"$work/openssl.log" ||
        fail "no certificate: $(<"$work/openssl.log")"
    listening_server "$binaries/tls_echo" 127.0.0.1:0 --cert "$work/ca.pem" --key "$work/odd.key"
    expect $'hello\n' tls_hello
    said '0: CN=.u.1b..2Ja., CN=b; SHA-256'
    stop_server TERM
}

check_tls_client() {
    local session=$work/session
    listening_server "$binaries/tls_echo" 127.0.0.1:0 --ca "$work/ca.pem"
    expect $'hello\n' tls_hello --session "$session"
    said 'TLS 1.3, .*full handshake'
    said "the certificate is good"
    said "CN=localhost; SHA-256 $(digest "$work/ca.pem")"
    expect $'hello\n' tls_hello --session "$session"
    said 'resumed'
    head -c 20000000 /dev/urandom >"$work/data"
    tls_client <"$work/data" >"$work/echo" || fail "bulk"
    cmp "$work/data" "$work/echo" || fail "the echo differs"
    refuses 'not accepted: self-signed' "$binaries/tls_client" "localhost:$port"
    refuses 'not accepted: hostname mismatch' \
        "$binaries/tls_client" "$address" --ca "$work/ca.pem" --name other.example
    refuses 'invalid server name' \
        "$binaries/tls_client" "$address" --ca "$work/ca.pem" --name "localhost:$port"
    refuses 'belong together' "$binaries/tls_client" "$address" --cert "$work/ca.pem"
    refuses "$work: Is a directory" "$binaries/tls_client" "$address" --session "$work"
    stop_server TERM
    says '^3 connections, 1 of them resumed, 2 failed handshakes, 20000012 bytes$'
    check_odd_subject
    refuses 'refused' "$binaries/tls_client" "$address"
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    refuses 'TLS failed' "$binaries/tls_client" "$address"
    stop_server TERM
}

# tls_client has told so.
said() {
    grep -Eq -- "$1" "$work/said" || fail "tls_client does not say '$1', but: $(<"$work/said")"
}

check_https_hello() {
    listening_server "$binaries/https_hello" 127.0.0.1:0 --ca "$work/ca.pem"
    local hello='Hello over TLS 1.3, TLS_AES_256_GCM_SHA384, ALPN http/1.1, server name localhost'
    expect "$hello, full handshake"$'\n' curl -sS --cacert "$work/ca.pem" "https://localhost:$port/"
    timeout 60 wrk -t 2 -c 50 -d 2 "https://localhost:$port/" >"$work/wrk" || fail "wrk"
    ! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "requests were lost"
    expect $'200 0\n404 10\n' curl -s --cacert "$work/ca.pem" -w '%{http_code} %{size_download}\n' \
        -I -o "$work/head" "https://localhost:$port/" \
        --next -s --cacert "$work/ca.pem" -w '%{http_code} %{size_download}\n' \
        -o "$work/body" "https://localhost:$port/nothing"
    expect '501' curl -s --cacert "$work/ca.pem" -w '%{http_code}' -X FETCH "https://localhost:$port/"
    expect '400' curl -s --cacert "$work/ca.pem" -w '%{http_code}' -d x "https://localhost:$port/" \
        -X GET
    stop_server TERM
    says '^served [0-9]+ requests of [0-9]+ connections$'
}

check_mtls() {
    listening_server "$binaries/mtls" 127.0.0.1:0 --write "$work"
    expect $'CN=alice: welcome\nCN=alice: hello\n' \
        tls_hello --cert "$work/alice.pem" --key "$work/alice.key"
    says "^CN=alice has come, SHA-256 $(digest "$work/alice.pem")$"
    # His certificate is good; the second one is another's, and the third client has none.
    ! tls_hello --cert "$work/bob.pem" --key "$work/bob.key" || fail "bob was let in"
    self_signed
    ! tls_hello --cert "$work/certificate.pem" --key "$work/key.pem" || fail "a stranger was let in"
    said 'alert unknown_ca'
    ! tls_hello || fail "somebody without a certificate was let in"
    said 'alert certificate_required'
    stop_server TERM
    says '^1 guests, 3 refused$'
}

check_sni_hosting() {
    listening_server "$binaries/sni_hosting" 127.0.0.1:0 --ca "$work/ca.pem"
    local name
    for name in www.example.test new.example.test; do
        expect "$name, renewal 1"$'\nhello\n' tls_hello --name $name
        said "CN=$name;"
    done
    expect $'*.pages.example.test, renewal 1\nhello\n' tls_hello --name me.pages.example.test
    ! tls_hello --name example.org || fail "it has a certificate for example.org"
    said 'alert unrecognized_name'
    # A connection from before the renewal goes on.
    mkfifo "$work/before"
    : >"$work/output"
    tls_client --name www.example.test <"$work/before" >"$work/output" &
    local client_pid=$!
    exec 8>"$work/before"
    wait_until 20 grep -q renewal "$work/output" || fail "the client is not connected"
    kill -HUP "$server_pid"
    says 'all certificates are renewed'
    expect $'www.example.test, renewal 2\nhello\n' tls_hello --name www.example.test
    expect $'new.example.test, renewal 2\nhello\n' tls_hello --name new.example.test
    echo late >&8
    exec 8>&-
    wait $client_pid || fail "the connection from before"
    [[ $(<"$work/output") == $'www.example.test, renewal 1\nlate' ]] || fail "$(<"$work/output")"
    stop_server TERM
    says '^6 connections, 1 refused, 3 names$'
}

check_happy_eyeballs() {
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    local output
    output=$("$binaries/happy_eyeballs" "localhost:$port") || fail "localhost: $output"
    [[ $output =~ 'won after' ]] || fail "localhost: '$output'"
    # Multicast addresses cannot be connected to.
    output=$("$binaries/happy_eyeballs" "224.0.0.1:9,$address") || fail "two addresses: $output"
    [[ $output =~ 224.0.0.1:9.*unreachable.*$address.*won ]] || fail "two addresses: '$output'"
    stop_server TERM
    refuses 'refused.*refused' "$binaries/happy_eyeballs" "$address,$address"
    refuses 'no-such-host.invalid' "$binaries/happy_eyeballs" no-such-host.invalid:1
    dead_family
}

# In a network of its own, where packets of IPv6 go nowhere.
dead_family() {
    if ! unshare -rn true 2>/dev/null; then
        echo 'happy_eyeballs: skipped the dead family: network namespaces are not permitted here'
        return
    fi
    local output
    output=$(timeout 60 unshare -rn scripts/dead_family.sh "$binaries") || fail "dead family: $output"
    [[ $output =~ 2001:db8::1.*given\ up.*127.0.0.1.*won ]] || fail "dead family: '$output'"
}

check_unix_echo() {
    local path=$work/echo.sock
    listening_server "$binaries/unix_echo" "$path"
    refuses 'in use' "$binaries/unix_echo" "$path"
    expect $'hello\n' bash -c 'echo hello | nc -N -U "$0"' "$path"
    expect $'hello\n' bash -c 'echo hello | socat -t 10 - "UNIX:$0"' "$path"
    timeout 60 python3 scripts/bulk_echo.py "$path" $((64 << 20)) || fail "bulk echo"
    stop_server TERM
    # One of them was the refused server, which asked whether somebody listens.
    says "served 4 connections, $((12 + (64 << 20))) bytes"
    [[ ! -e $path ]] || fail "the socket's file is still there"
    touch "$path"
    refuses 'in use' "$binaries/unix_echo" "$path"
    rm "$path"

    local name=usockets-check-$$
    listening_server "$binaries/unix_echo" "@$name"
    expect $'hello\n' bash -c 'echo hello | socat -t 10 - "ABSTRACT:$0"' "$name"
    stop_server INT
}

check_chat() {
    listening_server "$binaries/chat" 127.0.0.1:0
    client chat
    stop_server TERM
    says 'served 2 guests, 3 lines, dropped 0 slow readers'
}

check_timers() {
    start_server "$binaries/timers"
    wait_server 20
    (($(grep -c 'tries again' "$server_output") == 4)) || fail "expected 4 new tries"
    # Never early: the n-th tick comes after n times 50 ms.
    awk '$3 == "tick" { ticks++; if ($1 < 50 * $4) early = 1 } END { exit early || ticks != 6 }' \
        "$server_output" || fail "expected 6 ticks, none of them early"
    says 'cancels the alarm$'
    says 'gives up$'
    says 'after 6 ticks$'
    ! server_says 'rings|a minute' || fail "a cancelled timer fired"
}

check_defer_from_threads() {
    start_server "$binaries/defer_from_threads"
    wait_server 20
    says '^the sum is 2002000$'
    says '^a late job comes back'
    (($(grep -c '^thread [0-3] sees a sum of ' "$server_output") == 4)) || fail "a thread is missing"
}

check_worker_pool() {
    listening_server "$binaries/worker_pool" 127.0.0.1:0
    client worker_pool
    stop_server TERM
    says 'served 2 clients, 5 answers'
    # The hashing takes longer than this; the loop was not held up by it.
    local late
    late=$(sed -nE 's/.*late by ([0-9]+) ms.*/\1/p' "$server_output")
    ((late < 200)) || fail "the loop was late by $late ms"
}

check_poll_stdin() {
    mkfifo "$work/input"
    exec 9<>"$work/input"
    listening_server "$binaries/poll_stdin" 127.0.0.1:0
    client poll_stdin 9
    # The end of the input is the end of the server.
    exec 9>&-
    wait_server 20
    rm "$work/input"
    says 'served 2 clients, [0-9]+ bytes of input'
}

check_upgrade() {
    listening_server "$binaries/upgrade" 127.0.0.1:0
    client upgrade
    stop_server TERM
    says 'served 3 connections, 2 upgraded'
}

check_graceful() {
    listening_server "$binaries/graceful" 127.0.0.1:0
    expect "200 OK: process $server_pid"$'\n' curl -s "http://$address/"
    timeout 60 wrk -t 2 -c 50 -d 2 "http://$address/" >"$work/wrk" || fail "wrk"
    ! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "requests were lost"
    client graceful "$server_pid"
    wait_server 20
    says '1 connections did not finish in time'
    says '^served [0-9]+ requests of [0-9]+ connections$'
    hand_over_under_load
}

# One process after the other takes over, as long as wrk asks.
hand_over_under_load() {
    local control=$work/control hand_overs=0
    refuses 'No such file' "$binaries/graceful" --take-over "$control"
    listening_server "$binaries/graceful" 127.0.0.1:0 --control "$control"
    refuses 'in use' "$binaries/graceful" 127.0.0.1:0 --control "$control"
    timeout 60 wrk -t 2 -c 50 -d 5 "http://$address/" >"$work/wrk" &
    local wrk_pid=$!
    while kill -0 $wrk_pid 2>/dev/null; do
        hand_over "$control"
        hand_overs=$((hand_overs + 1))
    done
    wait $wrk_pid || fail "wrk"
    ! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "requests were lost"
    expect "200 OK: process $server_pid"$'\n' curl -s "http://$address/"
    stop_server TERM
    [[ ! -e $control ]] || fail "the control socket's file is still there"
    printf '    %s hand-overs during %s\n' $hand_overs "$(grep -E 'requests in' "$work/wrk" | xargs)"
}

hand_over() {
    local pid=$server_pid output=$server_output
    start_server "$binaries/graceful" --take-over "$1"
    wait_until 20 server_says 'is listening on' || fail "nothing was handed over"
    local status=0
    wait "$pid" || status=$?
    ((status == 0)) || fail "the predecessor's exit code is $status"
    grep -q 'is relieved' "$output" || fail "the predecessor does not know its successor"
    ! grep -q 'in time' "$output" || fail "connections were cut off"
    wait_until 20 test -S "$1" || fail "the successor does not wait for its own"
}

check_file_server() {
    local folder=$work/files
    mkdir -p "$folder/folder"
    seq 0 999 >"$folder/numbers"
    echo secret >"$work/secret"
    ln -s ../secret "$folder/out"
    mkfifo "$folder/pipe"
    # Of blocks that are no multiple of any buffer's size.
    head -c 1000003 /dev/urandom >"$work/block"
    write_blocks "$work/block" $bulk >"$folder/big"
    refuses 'nowhere' "$binaries/file_server" 127.0.0.1:0 "$work/nowhere"
    listening_server "$binaries/file_server" 127.0.0.1:0 "$folder"
    local url=http://$address
    timeout 120 curl -s "$url/big" | cmp - "$folder/big" || fail "the file differs"
    timeout 120 curl -s -r 500000001-900000000 "$url/big" |
        cmp - <(tail -c +500000002 "$folder/big" | head -c 400000000) || fail "the range differs"
    # The kept part of a transfer that broke, and the rest.
    head -c 123456789 "$folder/big" >"$work/part"
    timeout 120 curl -s -C - -o "$work/part" "$url/big" || fail "going on"
    cmp "$work/part" "$folder/big" || fail "the file differs after going on"
    client file_server "$server_pid"
    timeout 120 wrk -t 2 -c $many -d 4 --timeout 60s "$url/numbers" >"$work/wrk" || fail "wrk"
    ! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "requests were lost"
    local memory
    memory=$(server_memory)
    ((memory < 65536)) || fail "it has needed $memory KiB"
    sed -n "s/^ *\([0-9]* requests in .*\)/    $many connections: \1; $memory KiB of memory/p" "$work/wrk"
    client file_server_drain "$server_pid"
    wait_server 20
    ! server_says 'in time' || fail "connections were cut off"
    says '^served [0-9]+ requests of [0-9]+ connections$'
    rm -r "$folder" "$work/block" "$work/part"
}

check_proxy() {
    listening_server "$binaries/tcp_echo" 127.0.0.1:0
    keep_server
    local upstream_port=$port
    refuses 'nowhere' "$binaries/proxy" 127.0.0.1:0 nowhere
    listening_server "$binaries/proxy" 127.0.0.1:0 "localhost:$upstream_port"
    # The end of the input goes through, and what it is answered by comes back.
    expect $'hello\n' bash -c 'echo hello | socat -t 10 - "TCP:$0:$1"' "$host" "$port"
    expect $'hello\n' bash -c 'echo hello | nc -N "$0" "$1"' "$host" "$port"
    timeout 60 python3 scripts/bulk_echo.py "$host" "$port" $((1 << 28)) || fail "bulk echo"
    local memory
    memory=$(server_memory)
    ((memory < 65536)) || fail "it has needed $memory KiB"
    end_kept_servers
    # Now nobody listens there.
    wait_until 20 no_upstream || fail "upstream is still there"
    stop_server TERM
    local bytes=$((12 + (1 << 28)))
    says "^served [0-9]+ connections, [1-9][0-9]* failed, $bytes bytes up, $bytes bytes down$"

    # To a server that keeps what it gets.
    start_server socat -u -d -d TCP-LISTEN:0,bind=127.0.0.1 "OPEN:$work/got,creat"
    socat_listens
    keep_server
    listening_server "$binaries/proxy" 127.0.0.1:0 "$socat_address" --proxy-header
    expect '' bash -c 'echo hello | nc -N "$0" "$1"' "$host" "$port"
    # Version 2, TCP over IPv4, 12 bytes: the addresses, and both ports.
    printf '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1' >"$work/header"
    cmp "$work/header" <(head -c 24 "$work/got") || fail "the header"
    cmp <(echo hello) <(tail -c +29 "$work/got") || fail "what follows the header"
    stop_server TERM
    kept_servers=() # socat has ended with its connection

    scripts/proxy_bulk.sh $bulk
}

# The proxy says that it cannot connect to the server that was stopped.
no_upstream() {
    timeout 20 nc -N "$host" "$port" </dev/null >/dev/null 2>&1 || true
    server_says '^upstream: .*refused'
}

check_foreign_loop() {
    listening_server "$binaries/foreign_loop" 127.0.0.1:0
    expect $'hello\n' bash -c 'echo hello | nc -N "$0" "$1"' "$host" "$port"
    client foreign_loop
    stop_server TERM
    says 'served 2 connections, 13 bytes, 1 datagrams'
}

# The same servers with clients that do not read, or send much without waiting.
check_pressure() {
    listening_server "$binaries/chat" 127.0.0.1:0
    press chat
    stop_server TERM
    says 'dropped 1 slow readers'

    listening_server "$binaries/upgrade" 127.0.0.1:0
    press upgrade
    stop_server TERM
    says '1 upgraded'

    listening_server "$binaries/worker_pool" 127.0.0.1:0
    press worker_pool
    stop_server TERM
    says 'served 3 clients'

    mkfifo "$work/input"
    exec 9<>"$work/input"
    listening_server "$binaries/poll_stdin" 127.0.0.1:0 9>&-
    press poll_stdin 9
    stop_server TERM
    exec 9>&-
    rm "$work/input"
}

press() {
    timeout 60 python3 scripts/example_pressure.py "$1" "$host" "$port" "${@:2}" || fail "$1"
}

if (($# > 0)); then
    examples=("$@")
else
    mapfile -t examples < <(declare -F | sed -n 's/^declare -f check_//p' | grep -v '^echo$')
fi
cargo build -p usockets --release --examples
for example in "${examples[@]}"; do
    "check_$example"
    printf 'ok %s\n' "$example"
done
