"""Holds COUNT connections to an echo server open at once; each of them echoes, twice.

    many_connections.py HOST PORT [COUNT]       default: 10000

Every connection sends a message of its own when all are open, and again when all have been answered, so
that none is served only because another one has gone. Needs COUNT descriptors; the server does too.
"""

import resource
import select
import socket
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
patience = 60

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if hard < count + 10:
    sys.exit(f"{count} connections need more than the {hard} descriptors that are allowed")

begin = time.monotonic()
peers = [socket.create_connection((host, port), timeout=patience) for _ in range(count)]
opened = time.monotonic()

poller = select.epoll()
by_descriptor = {peer.fileno(): (number, peer) for number, peer in enumerate(peers)}
for descriptor, (_, peer) in by_descriptor.items():
    peer.setblocking(False)
    poller.register(descriptor, select.EPOLLIN)

for turn in range(2):
    expected = {}
    for number, peer in enumerate(peers):
        message = f"connection {number}, message {turn}\n".encode()
        expected[peer.fileno()] = message
        if peer.send(message) != len(message):
            sys.exit(f"connection {number} does not take a message")
    deadline = time.monotonic() + patience
    while expected:
        events = poller.poll(max(0.0, deadline - time.monotonic()))
        if not events:
            sys.exit(f"{len(expected)} connections have no echo after {patience} s")
        for descriptor, _ in events:
            number, peer = by_descriptor[descriptor]
            echo = peer.recv(65536)
            rest = expected.get(descriptor, b"")
            if not echo or not rest.startswith(echo):
                sys.exit(f"connection {number}: expected {rest!r}, got {echo!r}")
            expected[descriptor] = rest[len(echo) :]
            if not expected[descriptor]:
                del expected[descriptor]
echoed = time.monotonic()

print(
    f"{count} connections at once, opened in {opened - begin:.2f} s, "
    f"each echoed twice in {echoed - opened:.2f} s"
)
