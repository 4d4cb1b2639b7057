"""Clients that make it hard for the examples: they do not read, or send much without waiting.

    example_pressure.py NAME HOST PORT [MORE...]
"""

import os
import socket
import sys
import threading
import time

from example_clients import Peer, expect, fnv, frame


def in_background(*steps) -> threading.Thread:
    """Does the steps one after the other."""
    thread = threading.Thread(target=lambda: [step() for step in steps], daemon=True)
    thread.start()
    return thread


def chat(host: str, port: str) -> None:
    """Who does not read is dropped; who reads misses nothing."""
    speaker, reader, sleeper = (Peer(host, port) for _ in range(3))
    # The notices of those who came after: then all of them are in the room.
    for peer, notices in ((speaker, 3), (reader, 2), (sleeper, 1)):
        for _ in range(notices):
            assert peer.line().startswith(b"* ")
    talk = b"x" * 1000
    gone = 0
    for _ in range(200):
        speaker.send((talk + b"\n") * 100)
        # The reader keeps up. The sleeper costs what the system has room for, and a little more.
        heard = 0
        while heard < 100:
            line = reader.line()
            if line == b"* guest3 goes":
                gone += 1
            else:
                expect(line == b"guest1: " + talk, True)
                heard += 1
    expect(gone, 1)


def worker_pool(host: str, port: str) -> None:
    """The loop answers others while a job runs, and 10,000 requests in their order."""
    slow, other = Peer(host, port), Peer(host, port)
    slow.send(b"hash 100000000 slow\n")
    pings, longest = 0, 0.0
    while slow.is_silent():
        begin = time.monotonic()
        other.send(b"ping\n")
        expect(other.line(), b"pong")
        longest = max(longest, time.monotonic() - begin)
        pings += 1
    assert pings > 20, f"only {pings} pings were answered while a job ran"
    print(f"    {pings} pings while a job ran, the slowest took {longest * 1000:.1f} ms")

    numbers = range(10_000)
    requests = [b"hash %d n%d\n" % (n % 7, n) if n % 3 else b"ping\n" for n in numbers]
    answers = [fnv(n % 7, b"n%d" % n) + b"\n" if n % 3 else b"pong\n" for n in numbers]
    client = Peer(host, port)
    sender = in_background(lambda: client.send(b"".join(requests)), client.finish)
    expect(client.rest() == b"".join(answers), True)
    sender.join()


def upgrade(host: str, port: str) -> None:
    """Nobody reads while the protocol changes: neither what waits nor what comes may be lost."""
    line = b"x" * 60_000
    payloads = [b"%05d" % number * 10_000 for number in range(200)]
    client = Peer(host, port)
    sender = in_background(
        lambda: client.send((line + b"\n") * 200 + b"UPGRADE\n"),
        lambda: client.send(b"".join(map(frame, payloads))),
        client.finish,
    )
    time.sleep(0.5)
    answer = b"".join(frame(payload[::-1]) for payload in payloads)
    expected = (line.upper() + b"\n") * 200 + b"OK\n" + frame(b"200 lines") + answer
    received = b""
    while chunk := client.socket.recv(1 << 20):
        received += chunk
    expect(received == expected, True)
    sender.join()


def poll_stdin(host: str, port: str, descriptor: str) -> None:
    """The server's standard input is written to by the given descriptor; nobody misses a byte of it."""
    peers = [Peer(host, port) for _ in range(3)]
    while any(peer.is_silent() for peer in peers):
        os.write(int(descriptor), b"tick\n")
        time.sleep(0.01)
    text = b"".join(b"line %d\n" % number for number in range(1_000_000))
    received = {}

    def read(number: int) -> None:
        data = bytearray(peers[number].input)
        # The last one begins late, so that the others have to wait for it.
        time.sleep(number // 2)
        while not data.endswith(b"line 999999\n"):
            data += peers[number].socket.recv(1 << 16)
        received[number] = bytes(data)

    readers = [in_background(lambda number=number: read(number)) for number in range(3)]
    written = 0
    while written < len(text):
        written += os.write(int(descriptor), text[written : written + 65536])
    for reader in readers:
        reader.join(30)
    for number in range(3):
        expect(received[number].replace(b"tick\n", b"") == text, True)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
