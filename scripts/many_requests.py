"""Sends 64 requests of 64 bytes at once over one connection and waits for all answers, COUNT times.

    many_requests.py HOST PORT COUNT
"""

import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
requests = bytes(range(64)) * 64
with socket.create_connection((host, port), timeout=30) as peer:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(count):
        peer.sendall(requests)
        answers = b""
        while len(answers) < len(requests):
            chunk = peer.recv(len(requests) - len(answers))
            if not chunk:
                sys.exit("the server closed the connection")
            answers += chunk
        if answers != requests:
            sys.exit("the answers are not those to the requests")
