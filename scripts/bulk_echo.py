"""Sends SIZE bytes over one connection while reading their echo, and compares by hash.

    bulk_echo.py HOST PORT SIZE
    bulk_echo.py PATH SIZE           over a Unix socket
"""

import hashlib
import random
import socket
import sys
import threading

size = int(sys.argv[-1])
if len(sys.argv) == 3:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
else:
    peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
peer.settimeout(30)

# A block that is no multiple of any buffer's size.
block = random.Random(1).randbytes(1_000_003)
sent = hashlib.sha256()


def send() -> None:
    left = size
    while left > 0:
        piece = block[:left]
        peer.sendall(piece)
        sent.update(piece)
        left -= len(piece)
    peer.shutdown(socket.SHUT_WR)


sender = threading.Thread(target=send, daemon=True)
sender.start()
received = hashlib.sha256()
count = 0
while chunk := peer.recv(1 << 20):
    received.update(chunk)
    count += len(chunk)
sender.join(30)
if count != size or sent.digest() != received.digest():
    sys.exit(f"sent {size} bytes, got {count}, or they differ")
