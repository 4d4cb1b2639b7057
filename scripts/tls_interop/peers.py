"""Python's `ssl`, as a client and as a server."""

import hashlib
import random
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from programs import PATIENCE

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(trust: Path, version: str = "1.3") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trust))
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def server_context(certificate: Path, key: Path, version: str = "1.3") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def connect_tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def connect(
    port: int,
    context: ssl.SSLContext,
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """A connection whose handshake is done; a bare FIN is an error of its `recv`."""
    return context.wrap_socket(
        connect_tcp(port), server_hostname=name, session=session, suppress_ragged_eofs=False
    )


def finish(peer: ssl.SSLSocket) -> None:
    """Ends our side by a close_notify, and takes in the other side's."""
    peer.unwrap().close()


def receive_exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = peer.recv(count - len(data))
        assert chunk, f"the stream ends after {len(data)} of {count} bytes: {data[-100:]!r}"
        data += chunk
    return data


def echo(peer: socket.socket, text: bytes = b"hello\n") -> None:
    peer.sendall(text)
    received = receive_exactly(peer, len(text))
    assert received == text, f"{text!r} came back as {received!r}"


def alert_of(action: Callable[[], object]) -> str:
    """The alert by which the peer ends what is done."""
    try:
        action()
    except ssl.SSLError as error:
        # Python does not know the names of all.
        return (error.reason or str(error)).upper().replace(" ", "_")
    raise AssertionError("the peer has sent no alert")


def exchange(peer: ssl.SSLSocket, total: int) -> None:
    """Sends so many bytes while they come back, and compares both by their hashes."""
    block = random.Random(total).randbytes(1_000_003)
    sent, received = hashlib.sha256(), hashlib.sha256()
    to_send, to_receive = total, total
    rest = memoryview(b"")
    peer.setblocking(False)
    while to_receive > 0:
        readable = writable = False
        if to_send > 0 or rest:
            if not rest:
                rest = memoryview(block)[:to_send]
                sent.update(rest)
                to_send -= len(rest)
            try:
                # What was not taken is offered again as it is.
                rest = rest[peer.send(rest) :]
            except ssl.SSLWantWriteError:
                writable = True
        try:
            chunk = peer.recv(1 << 18)
            assert chunk, f"the stream ends {to_receive} bytes early"
            received.update(chunk)
            to_receive -= len(chunk)
        except ssl.SSLWantReadError:
            readable = True
        if readable and (writable or not rest and to_send == 0):
            ready = select.select([peer], [peer] if writable else [], [], PATIENCE)
            assert ready[0] or ready[1], f"nothing moves, {to_receive} bytes before the end"
    peer.settimeout(PATIENCE)
    assert received.digest() == sent.digest(), f"{total} bytes came back changed"


def reset(peer: socket.socket) -> None:
    """Ends a connection by RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Not the method of an `SSLSocket`, which would keep the descriptor for what still uses it.
    socket.socket(fileno=peer.detach()).close()


class Accepting:
    """A server of one connection after the other, in a thread."""

    def __init__(self, context: ssl.SSLContext | None, serve: Callable, count: int = 1) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]
        self.context, self.serve, self.count = context, serve, count
        self.results: list = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for _ in range(self.count):
            try:
                peer, _ = self.listener.accept()
                peer.settimeout(PATIENCE)
                if self.context is not None:
                    peer = self.context.wrap_socket(
                        peer, server_side=True, suppress_ragged_eofs=False
                    )
                self.results.append(self.serve(peer))
            except (OSError, AssertionError) as error:
                self.results.append(error)

    def wait(self) -> list:
        """What each of the connections gave: a value, or an error."""
        self.thread.join(2 * PATIENCE)
        assert not self.thread.is_alive(), "the server does not come to its end"
        self.listener.close()
        return self.results

    def value(self):
        """What the only connection gave."""
        (result,) = self.wait()
        if isinstance(result, Exception):
            raise result
        return result
