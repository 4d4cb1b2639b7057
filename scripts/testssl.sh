#!/usr/bin/env bash
# What testssl.sh (https://testssl.sh, Debian package `testssl.sh`) finds in the example tls_echo with its
# defaults, by an ECDSA and by an RSA certificate: prints every finding above INFO. Takes some minutes.
# It judges nothing, since some findings are about a certificate that nobody has issued.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh

command -v testssl >/dev/null || fail "testssl is missing: apt-get install testssl.sh"
cargo build -p usockets --release --example tls_echo
tls_echo=${CARGO_TARGET_DIR:-target}/release/examples/tls_echo

# findings NAME [OPTION...]: of tls_echo with these options.
findings() {
    local name=$1 findings=$work/$1.csv
    shift
    listening_server "$tls_echo" 127.0.0.1:0 "$@"
    # Its exit code counts findings.
    timeout 1200 testssl --quiet --color 0 --warnings batch --ip 127.0.0.1 --csvfile "$findings" \
        "localhost:$port" >"$work/testssl.log" 2>&1 || true
    [[ -s $findings ]] || fail "testssl: $(tail -n 5 "$work/testssl.log")"
    stop_server TERM
    printf '%s: %s findings, of which not OK or INFO:\n' "$name" "$(($(wc -l <"$findings") - 1))"
    python3 - "$findings" <<'PYTHON'
import csv
import sys

for row in csv.DictReader(open(sys.argv[1])):
    if row["severity"] not in ("OK", "INFO"):
        print(f"  {row['severity']:8} {row['id']}: {row['finding']}")
PYTHON
}

findings ECDSA --ca "$work/ca.pem"
openssl req -x509 -newkey rsa:2048 -noenc -days 90 -subj /CN=localhost -keyout "$work/rsa.key" \
    -out "$work/rsa.pem" -addext subjectAltName=DNS:localhost 2>"$work/openssl.log" ||
    fail "no certificate: $(<"$work/openssl.log")"
findings RSA --cert "$work/rsa.pem" --key "$work/rsa.key"
