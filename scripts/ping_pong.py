"""Sends messages of 64 bytes at once over one connection and waits for their echo, COUNT times.

    ping_pong.py HOST PORT COUNT [MESSAGES]    default: one message at a time
"""

import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
messages = int(sys.argv[4]) if len(sys.argv) > 4 else 1
message = bytes(range(64)) * messages
with socket.create_connection((host, port), timeout=30) as peer:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(count):
        peer.sendall(message)
        echo = b""
        while len(echo) < len(message):
            chunk = peer.recv(len(message) - len(echo))
            if not chunk:
                sys.exit("the server closed the connection")
            echo += chunk
        if echo != message:
            sys.exit(f"sent {message!r}, got {echo!r}")
