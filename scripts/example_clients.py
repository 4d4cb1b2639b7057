"""The other side of the examples: one function per example, called with its address.

    example_clients.py NAME HOST PORT [MORE...]
"""

import os
import signal
import socket
import struct
import sys
import threading
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
        """Everything until the server ends the connection, which then ends on this side too."""
        while chunk := self.socket.recv(4096):
            self.input += chunk
        self.socket.close()
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


def http_status(peer: Peer) -> tuple[int, int]:
    """The status of the next answer, and the length of its body."""
    status = int(peer.line().split()[1])
    length = None
    while line := peer.line().strip():
        name, value = line.split(b": ", 1)
        if name == b"Content-Length":
            length = int(value)
    return status, length


def http_body(peer: Peer, length: int) -> bytes:
    while len(peer.input) < length:
        chunk = peer.socket.recv(1 << 20)
        assert chunk, "the server closed the connection inside of a body"
        peer.input += chunk
    body, peer.input = peer.input[:length], peer.input[length:]
    return body


def get(path: bytes, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\nHost: example\r\n" + fields + b"\r\n"


def file_server(host: str, port: str, process: str) -> None:
    """Below the folder there are `numbers`, a line "n" for each n below 1,000, and `big`, 1 GiB."""
    numbers = b"".join(b"%d\n" % number for number in range(1000))
    size = len(numbers)
    path = b"/numbers"
    # The connection stays open after these.
    peer = Peer(host, port)
    for request, status, length in (
        (get(path), 200, size),
        (get(b"http://example/numbers?query=/../x"), 200, size),
        (get(b"/%6eumbers"), 200, size),
        (get(b"/folder/../numbers"), 200, size),
        (get(path, b"Range: bytes=10-19\r\n"), 206, 10),
        (get(path, b"Range: bytes=-7\r\n"), 206, 7),
        (get(path, b"Range: bytes=7-\r\n"), 206, size - 7),
        (get(path, b"Range: bytes=7-99999999999999999999\r\n"), 206, size - 7),
        (get(path, b"Range: bytes=%d-\r\n" % size), 416, 0),
        (get(path, b"Range: bytes=-0\r\n"), 416, 0),
        (get(path, b"Range: bytes=9-8\r\n"), 200, size),
        (get(path, b"Range: bytes=0-1,3-4\r\n"), 200, size),
        (get(path, b"Range: bytes=0-1\r\nIf-Range: \"other\"\r\n"), 200, size),
        (get(b"/"), 404, 0),
        (get(b"/folder"), 404, 0),
        (get(b"/folder/"), 404, 0),
        (get(b"/nothing"), 404, 0),
        (get(b"/pipe"), 404, 0),
        (get(b"/out"), 404, 0),
        (get(b"/../secret"), 404, 0),
        (get(b"/folder/../../secret"), 404, 0),
        (get(b"/%2e%2e%2fsecret"), 404, 0),
        (get(b"//etc/passwd"), 404, 0),
    ):
        peer.send(request)
        expect((request, *http_status(peer)), (request, status, length))
        http_body(peer, length)
    peer.send(get(path, method=b"HEAD") + get(path, b"If-None-Match: \"other\", *\r\n"))
    expect(http_status(peer), (200, size))
    expect(http_status(peer), (304, size))
    # And it is closed after these.
    for request, status in (
        (b"nonsense\r\n\r\n", 400),
        (b"GET /numbers HTTP/1.1\r\n\r\n", 400),
        (b"GET /numbers HTTP/2.0\r\nHost: example\r\n\r\n", 505),
        (get(b"numbers"), 400),
        (get(b"/%zz"), 400),
        (get(b"/numbers%00"), 400),
        (get(path, b"Content-Length: 40\r\n"), 400),
        (get(path, b"Transfer-Encoding: chunked\r\n"), 400),
        (get(path, b"Content-Length: 3\r\n", b"POST") + b"abc", 405),
        (get(path, method=b"FETCH"), 501),
        (get(path, b"Field: " + b"x" * 9000 + b"\r\n"), 431),
        (get(path, b"a: b\r\n" * 100), 431),
        (b"GET /" + b"x" * 9000, 431),
    ):
        peer = Peer(host, port)
        peer.send(request)
        expect((request[:60], *http_status(peer)), (request[:60], status, 0))
        expect(peer.rest(), b"")
    # Byte by byte.
    peer = Peer(host, port)
    for byte in get(path, b"Connection: close\r\n"):
        peer.send(bytes([byte]))
    expect(http_status(peer), (200, size))
    expect(peer.rest() == numbers, True)
    # Many at once, and the end of the client with them.
    peer = Peer(host, port)
    places = [(7 * n % size, min(7 * n % size + n % 50, size - 1)) for n in range(2000)]
    requests = b"".join(get(path, b"Range: bytes=%d-%d\r\n" % place) for place in places)
    threading.Thread(target=lambda: (peer.send(requests), peer.finish()), daemon=True).start()
    for first, last in places:
        expect(http_status(peer), (206, last + 1 - first))
        expect(http_body(peer, last + 1 - first), numbers[first : last + 1])
    expect(peer.rest(), b"")
    # Who does not read costs one open file, however much is asked for, and nobody else waits.
    sleeper, other = Peer(host, port), Peer(host, port)
    for peer in (sleeper, other):
        peer.send(get(path, method=b"HEAD"))
        expect(http_status(peer), (200, size))
    before = len(os.listdir(f"/proc/{process}/fd"))
    sleeper.send(get(b"/big") * 500)
    expect(http_status(sleeper), (200, 1 << 30))
    for _ in range(100):
        other.send(get(path))
        expect(http_status(other), (200, size))
        http_body(other, size)
    expect(len(os.listdir(f"/proc/{process}/fd")) <= before + 1, True)


def file_server_drain(host: str, port: str, process: str) -> None:
    """What has begun when the server is to end is sent, and so is the answer to half a request."""
    length = 30_000_000
    reading, sending, idle = (Peer(host, port) for _ in range(3))
    reading.send(get(b"/big", b"Range: bytes=0-%d\r\n" % (length - 1)))
    expect(http_status(reading), (206, length))
    request = get(b"/numbers", method=b"HEAD")
    for peer in (sending, idle):
        peer.send(request)
        expect(http_status(peer)[0], 200)
    # What was answered before is the sign that this has come, too.
    sending.send(request + request[:20])
    expect(http_status(sending)[0], 200)
    os.kill(int(process), signal.SIGTERM)
    expect(idle.rest(), b"")
    sending.send(request[20:])
    expect(http_status(sending)[0], 200)
    expect(sending.rest(), b"")
    http_body(reading, length)
    expect(reading.rest(), b"")


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
