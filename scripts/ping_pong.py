"""Sends messages of 64 bytes at once over one connection and waits for their echo, COUNT times.

    ping_pong.py [--tls] HOST PORT COUNT [MESSAGES]    default: one message at a time

With --tls the connection is one of TLS 1.3, and any certificate will do.
"""

import socket
import ssl
import sys

arguments = sys.argv[1:]
over_tls = arguments[0] == "--tls"
if over_tls:
    del arguments[0]
host, port, count = arguments[0], int(arguments[1]), int(arguments[2])
messages = int(arguments[3]) if len(arguments) > 3 else 1
message = bytes(range(64)) * messages


def connect():
    peer = socket.create_connection((host, port), timeout=30)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not over_tls:
        return peer
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(peer)


with connect() as peer:
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
