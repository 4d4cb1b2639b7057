"""Sends a message of 64 bytes over one connection and waits for its echo, COUNT times.

    ping_pong.py HOST PORT COUNT
"""

import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
message = bytes(range(64))
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
