"""The other side of the examples: one function per example, called with its address.

    example_clients.py NAME HOST PORT [MORE...]
"""

import os
import signal
import socket
import struct
import sys
import time


class Peer:
    """A connection to the server."""

    def __init__(self, host: str, port: str) -> None:
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.input = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def line(self) -> bytes:
        while b"\n" not in self.input:
            chunk = self.socket.recv(4096)
            assert chunk, f"the server closed the connection after {self.input!r}"
            self.input += chunk
        line, self.input = self.input.split(b"\n", 1)
        return line

    def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        while chunk := self.socket.recv(4096):
            self.input += chunk
        return self.input

    def is_silent(self) -> bool:
        """Whether nothing is to be read now."""
        if self.input:
            return False
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(20)


def expect(actual, expected) -> None:
    assert actual == expected, f"got {actual!r}, expected {expected!r}"


def chat(host: str, port: str) -> None:
    first = Peer(host, port)
    expect(first.line(), b"* guest1 comes to 0 others")
    second = Peer(host, port)
    expect(second.line(), b"* guest2 comes to 1 others")
    expect(first.line(), b"* guest2 comes to 1 others")
    first.send(b"hello\nis anybody ")
    expect(second.line(), b"guest1: hello")
    first.send(b"there?\n")
    expect(second.line(), b"guest1: is anybody there?")
    second.send(b"yes\n")
    expect(first.line(), b"guest2: yes")
    second.finish()
    expect(first.line(), b"* guest2 goes")
    expect(second.rest(), b"")


def fnv(rounds: int, text: bytes) -> bytes:
    value = 0xCBF29CE484222325
    for byte in text * rounds:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return b"%016x" % value


def worker_pool(host: str, port: str) -> None:
    client, other = Peer(host, port), Peer(host, port)
    # A good half of a second of work; its last answer comes after it all the same.
    client.send(b"hash 100000000 slow\nhash 3 quick\nnonsense\nping\n")
    other.send(b"ping\n")
    expect(other.line(), b"pong")
    assert client.is_silent(), "the slow request did not come to stand before the others"
    assert len(client.line()) == 16
    expect(client.line(), fnv(3, b"quick"))
    assert client.line().startswith(b"error: ")
    expect(client.line(), b"pong")
    for peer in (client, other):
        peer.finish()
        expect(peer.rest(), b"")


def poll_stdin(host: str, port: str, descriptor: str) -> None:
    """The server's standard input is a pipe that is to be written to by the given descriptor."""
    peers = [Peer(host, port), Peer(host, port)]
    # Until the server has accepted both: who comes later misses what was said.
    while any(peer.is_silent() for peer in peers):
        os.write(int(descriptor), b"tick\n")
        time.sleep(0.01)
    os.write(int(descriptor), b"hello\n")
    for peer in peers:
        while (line := peer.line()) != b"hello":
            expect(line, b"tick")


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def upgrade(host: str, port: str) -> None:
    # All at once: what follows the line belongs to the new protocol.
    client = Peer(host, port)
    client.send(b"hello\nworld\nUPGRADE\n" + frame(b"hi") + frame(b"you"))
    client.finish()
    expected = b"HELLO\nWORLD\nOK\n" + frame(b"2 lines") + frame(b"ih") + frame(b"uoy")
    expect(client.rest(), expected)
    # And byte by byte.
    client = Peer(host, port)
    for byte in b"UPGRADE\n" + frame(b"abc"):
        client.send(bytes([byte]))
        time.sleep(0.001)
    expect(client.line(), b"OK")
    client.finish()
    expect(client.rest(), frame(b"0 lines") + frame(b"cba"))
    # Lines only.
    client = Peer(host, port)
    client.send(b"no upgrade\n")
    client.finish()
    expect(client.rest(), b"NO UPGRADE\n")


def foreign_loop(host: str, port: str) -> None:
    client = Peer(host, port)
    begin = time.monotonic()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(20)
    udp.connect((host, int(port)))
    udp.send(b"datagram")
    expect(udp.recv(100), b"datagram")
    client.send(b"stream\n")
    expect(client.line(), b"stream")
    # Then it is idle, and closed for it.
    expect(client.rest(), b"")
    assert 2.9 < time.monotonic() - begin < 10, "idle connections are closed after 3 seconds"


REQUEST = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"


def http_answer(peer: Peer) -> tuple[bytes, bytes]:
    """The body of the next answer, and what it says of the connection."""
    expect(peer.line(), b"HTTP/1.1 200 OK\r")
    fields = {}
    while line := peer.line().strip():
        name, value = line.split(b": ")
        fields[name] = value
    body = peer.line()
    expect(int(fields[b"Content-Length"]), len(body) + 1)
    return body, fields[b"Connection"]


def graceful(host: str, port: str, process: str) -> None:
    answered = b"200 OK: process " + process.encode()
    kept, closed = (answered, b"keep-alive"), (answered, b"close")
    pipelining = Peer(host, port)
    pipelining.send(REQUEST * 3 + REQUEST.replace(b"Host", b"Connection: close\r\nHost") + REQUEST)
    for expected in (kept, kept, kept, closed):
        expect(http_answer(pipelining), expected)
    expect(pipelining.rest(), b"")
    # Connections in every state; all are known to the server.
    idle, late, sending, stuck = (Peer(host, port) for _ in range(4))
    for peer in (idle, late, sending, stuck):
        peer.send(REQUEST)
        expect(http_answer(peer), kept)
    half = len(REQUEST) // 2
    for peer in (sending, stuck):
        peer.send(REQUEST + REQUEST[:half])
        expect(http_answer(peer), kept)
    begin = time.monotonic()
    os.kill(int(process), signal.SIGTERM)
    late.send(REQUEST)  # on its way when the server hears of its end
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=20).close()
        except (ConnectionRefusedError, ConnectionResetError):
            break
    expect(http_answer(late)[0], answered)
    # One of which a part had come before.
    sending.send(REQUEST[half:])
    expect(http_answer(sending), closed)
    for peer in (late, sending, idle, stuck):
        expect(peer.rest(), b"")
    assert time.monotonic() - begin >= 5, "the deadline came early"


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
