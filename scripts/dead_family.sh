#!/usr/bin/env bash
# Connects to an address that never answers and to one that does. To be run in a network namespace:
#
#   unshare -rn scripts/dead_family.sh target/release/examples
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib.sh
ip link set lo up
# What is sent to this network comes back, is not ours, and is dropped.
ip -6 addr add 2001:db8::2/128 dev lo
ip -6 route add 2001:db8::/64 dev lo
listening_server "$1/tcp_echo" 127.0.0.1:0
"$1/happy_eyeballs" "[2001:db8::1]:$port,$address"
stop_server TERM
