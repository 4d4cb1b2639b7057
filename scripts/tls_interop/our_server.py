"""Our servers, with clients of others: `openssl s_client`, `curl`, Python's `ssl`."""

import random
import signal
import socket
import ssl
import time
from pathlib import Path

from certificates import Certificates
from peers import (
    VERSIONS,
    alert_of,
    client_context,
    connect,
    connect_tcp,
    echo,
    exchange,
    finish,
    receive_exactly,
    reset,
)
from programs import PATIENCE, Program, Server, run


class Servers:
    """One of each of the examples that listen."""

    def __init__(self, binaries: Path, certificates: Certificates) -> None:
        folder = certificates.folder
        self.certificates = certificates
        self.made = folder / "made.pem"
        self.hosting_trust = folder / "hosting.pem"
        self.members = folder / "members"
        echo, address = binaries / "tls_echo", "127.0.0.1:0"
        # The key type, server and what its clients trust.
        self.echo = Server(echo, address, "--ca", self.made)
        self.echoes = [(self.echo, self.made)]
        for kind in ("ec", "rsa"):
            server = Server(
                *(echo, address, "--cert", certificates.pem(kind)),
                *("--key", certificates.key(kind)),
            )
            self.echoes.append((server, certificates.pem("ca")))
        self.hello_trust = folder / "hello.pem"
        self.hello = Server(binaries / "https_hello", address, "--ca", self.hello_trust)
        self.members_only = Server(binaries / "mtls", address, "--write", self.members)
        self.hosting = Server(binaries / "sni_hosting", address, "--ca", self.hosting_trust)

    def stop(self) -> None:
        for server, _ in self.echoes:
            server.stop()
        for server in (self.hello, self.members_only, self.hosting):
            server.stop()


def s_client(port: int, trust: Path, *options: str | Path) -> Program:
    """`openssl s_client`, which does what single letters at the beginning of a line ask for."""
    return Program(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", trust),
        *("-servername", "localhost", "-verify_hostname", "localhost", "-verify_return_error"),
        *options,
    )


def say(client: Program, text: str) -> None:
    """Writes a line, and waits until it has come back."""
    mark = client.mark()
    client.write(f"{text}\n")
    client.says(f"(?m)^{text}", mark)


def leave(client: Program) -> str:
    """The end of its input is the end of s_client."""
    client.finish_input()
    return client.wait()


def versions_and_keys(servers: Servers) -> None:
    for server, trust in servers.echoes:
        for version in ("1.2", "1.3"):
            client = s_client(server.port, trust, "-tls" + version.replace(".", "_"))
            client.says("Verify return code: 0|Verification: OK")
            client.says(f"New, TLSv{version}")
            say(client, "hello")
            leave(client)
            with connect(server.port, client_context(trust, version)) as peer:
                assert peer.version() == f"TLSv{version}"
                echo(peer)
                finish(peer)


def versions_that_are_too_old(servers: Servers) -> None:
    client = s_client(
        servers.echo.port, servers.made, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"
    )
    assert "alert protocol version" in client.wait(code=1)


def ciphers_and_groups(servers: Servers) -> None:
    ec, rsa = servers.echoes[0], servers.echoes[2]
    for (server, trust), options in (
        (ec, ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")),
        (ec, ("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")),
        (rsa, ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384")),
        (rsa, ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")),
        (ec, ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256")),
        # The server asks for another key share: a hello more.
        (ec, ("-tls1_3", "-groups", "P-521:X25519")),
        (ec, ("-tls1_3", "-groups", "P-384")),
    ):
        client = s_client(server.port, trust, *options)
        say(client, "hello")
        text = leave(client)
        assert "-groups" in options or options[-1] in text, text
    # No forward secrecy, and no AEAD.
    for cipher in ("AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256"):
        client = s_client(rsa[0].port, rsa[1], "-tls1_2", "-cipher", cipher)
        assert "alert handshake failure" in client.wait(code=1)


def small_records(servers: Servers) -> None:
    for options in (("-max_send_frag", "512"), ("-maxfraglen", "512")):
        client = s_client(servers.echo.port, servers.made, *options)
        say(client, "x" * 5000)
        leave(client)


def resumption(servers: Servers) -> None:
    session = servers.certificates.folder / "session"
    for version in ("1.2", "1.3"):
        option = "-tls" + version.replace(".", "_")
        client = s_client(servers.echo.port, servers.made, option, "-sess_out", session)
        say(client, "hello")
        leave(client)
        client = s_client(servers.echo.port, servers.made, option, "-sess_in", session)
        client.says(f"Reused, TLSv{version}")
        say(client, "hello")
        leave(client)

        context = client_context(servers.made, version)
        with connect(servers.echo.port, context) as peer:
            assert not peer.session_reused
            echo(peer)  # the tickets of TLS 1.3 come with it
            ticket = peer.session
            finish(peer)
        with connect(servers.echo.port, context, session=ticket) as peer:
            assert peer.session_reused
            echo(peer)
            finish(peer)


def key_update(servers: Servers) -> None:
    client = s_client(servers.echo.port, servers.made, "-tls1_3")
    say(client, "before")
    for command in ("k", "K", "K"):
        mark = client.mark()
        client.write(f"{command}\n")
        client.says("KEYUPDATE", mark)
        say(client, f"after_{command}")
    leave(client)


def renegotiation_is_refused(servers: Servers) -> None:
    client = s_client(servers.echo.port, servers.made, "-tls1_2")
    say(client, "hello")
    mark = client.mark()
    client.write("R\n")
    client.says("no renegotiation|:error:", mark)
    client.finish_input()
    client.wait(code=None)
    with connect(servers.echo.port, client_context(servers.made)) as peer:
        echo(peer)


def client_certificates(servers: Servers) -> None:
    port, trust = servers.members_only.port, servers.members / "ca.pem"
    alice = (servers.members / "alice.pem", servers.members / "alice.key")
    bob = (servers.members / "bob.pem", servers.members / "bob.key")
    pem, key = servers.certificates.pem, servers.certificates.key
    for version in ("1.2", "1.3"):
        option = "-tls" + version.replace(".", "_")
        client = s_client(port, trust, option, "-cert", alice[0], "-key", alice[1])
        client.says("CN=alice: welcome")
        client.write("hello\n")
        client.says("CN=alice: hello")
        leave(client)

        def talk(identity: tuple[Path, Path] | None) -> bytes:
            context = client_context(trust, version)
            if identity is not None:
                context.load_cert_chain(*identity)
            with connect(port, context) as peer:
                return receive_exactly(peer, 7)

        assert talk(alice) == b"CN=alic"
        nobody = alert_of(lambda: talk(None))
        expected = {"1.2": "HANDSHAKE_FAILURE", "1.3": "CERTIFICATE_REQUIRED"}[version]
        assert expected in nobody, nobody
        stranger = alert_of(lambda: talk((pem("stranger"), key("stranger"))))
        assert "UNKNOWN_CA" in stranger, stranger
        # The certificate is good, and he is not let in.
        assert "ALERT" in alert_of(lambda: talk(bob))


def protocols(servers: Servers) -> None:
    def chosen(*offered: str) -> str | None:
        context = client_context(servers.hello_trust)
        if offered:
            context.set_alpn_protocols(list(offered))
        with connect(servers.hello.port, context) as peer:
            return peer.selected_alpn_protocol()

    assert chosen("http/1.1") == "http/1.1"
    assert chosen("h2", "http/1.1") == "http/1.1"
    assert chosen() is None
    alert = alert_of(lambda: chosen("h2", "spdy/3"))
    assert "NO_APPLICATION_PROTOCOL" in alert, alert


def https(servers: Servers) -> None:
    port, trust = servers.hello.port, servers.hello_trust
    url = f"https://localhost:{port}/"
    for options, expected in (
        (("--tlsv1.3",), "TLS 1.3"),
        (("--tls-max", "1.2"), "TLS 1.2"),
        (("--http2",), "ALPN http/1.1"),
        (("--no-alpn",), "ALPN none"),
    ):
        body, _ = run("curl", "-sS", "--fail", "--cacert", trust, *options, url)
        assert expected in body.decode(), body
    # Both by one connection.
    _, said = run("curl", "-sSv", "--fail", "--cacert", trust, url, url)
    assert "Re-using existing connection" in said, said
    # By address; and somebody else's certificate.
    run("curl", "-sS", "--fail", "--cacert", trust, f"https://127.0.0.1:{port}/")
    run("curl", "-sS", "--cacert", servers.made, url, code=60)
    # The end of the answer is a close_notify.
    with connect(port, client_context(trust)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer


def names(servers: Servers) -> None:
    def site(name: str | None) -> bytes:
        context = client_context(servers.hosting_trust)
        context.check_hostname = name is not None
        with connect(servers.hosting.port, context, name) as peer:
            line = peer.recv(100)
            finish(peer)
            return line

    assert site("www.example.test") == b"www.example.test, renewal 1\n"
    assert site("WWW.Example.Test") == b"www.example.test, renewal 1\n"
    assert site("me.pages.example.test") == b"*.pages.example.test, renewal 1\n"
    for _ in range(2):
        assert site("new.example.test") == b"new.example.test, renewal 1\n"
    for unknown in ("www.example.org", "a.b.example.test", "example.test"):
        alert = alert_of(lambda: site(unknown))
        assert "UNRECOGNIZED_NAME" in alert, alert
    assert "ALERT" in alert_of(lambda: site(None))
    # Certificates are renewed; who is there stays there.
    context = client_context(servers.hosting_trust)
    with connect(servers.hosting.port, context, "www.example.test") as peer:
        before = peer.getpeercert(binary_form=True)
        receive_exactly(peer, 28)
        servers.hosting.process.send_signal(signal.SIGHUP)
        servers.hosting.says("all certificates are renewed")
        echo(peer)
        finish(peer)
    assert site("www.example.test") == b"www.example.test, renewal 2\n"
    with connect(servers.hosting.port, context, "www.example.test") as peer:
        assert peer.getpeercert(binary_form=True) != before


def ends(servers: Servers) -> None:
    server, port = servers.echo, servers.echo.port
    for version in ("1.2", "1.3"):
        context = client_context(servers.made, version)
        # A close_notify, and then everything that is still under way.
        half_closed_client(port, context)
        for end, reason in (
            (lambda peer: peer.shutdown(socket.SHUT_WR), "without ending TLS"),
            (lambda peer: peer.close(), "without ending TLS"),
            (reset, "[Rr]eset"),
        ):
            peer = connect(port, context)
            echo(peer)
            source, mark = peer.getsockname()[1], server.mark()
            end(peer)
            server.says(f"127.0.0.1:{source}: .*{reason}", mark)
            peer.close()


def half_closed_client(port: int, context: ssl.SSLContext) -> None:
    """Sends 256 KiB and a close_notify at once, and gets all of it, and then the server's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    peer = connect_tcp(port)

    def feed() -> None:
        if outgoing.pending:
            peer.sendall(outgoing.read())
        chunk = peer.recv(1 << 18)
        if chunk:
            incoming.write(chunk)
        else:
            incoming.write_eof()

    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            feed()
    # So much that server and system take it without being read from.
    data = random.Random(port).randbytes(1 << 18)
    tls.write(data)
    try:
        tls.unwrap()
    except ssl.SSLWantReadError:
        pass
    peer.sendall(outgoing.read())
    received = b""
    while True:
        try:
            chunk = tls.read(1 << 18)
            if not chunk:
                break
            received += chunk
        except ssl.SSLWantReadError:
            feed()
        except ssl.SSLZeroReturnError:
            break  # the server's close_notify
    assert received == data, f"{len(received)} of {len(data)} bytes"
    assert peer.recv(1) == b"", "the server does not end the connection"
    peer.close()


def bulk(servers: Servers, total: int) -> None:
    for server, trust in servers.echoes[1:]:
        for version in VERSIONS:
            begin = time.monotonic()
            with connect(server.port, client_context(trust, version)) as peer:
                exchange(peer, total)
                finish(peer)
            speed = total / (time.monotonic() - begin) / (1 << 20)
            print(f"    {total >> 20} MiB over TLS {version}: {speed:.0f} MiB/s", flush=True)


def bad_input(servers: Servers) -> None:
    server = servers.echo
    for data, reason in (
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "http request"),
        (b"\0" * 100, "TLS failed"),
        (b"SSH-2.0-OpenSSH_9.0\r\n" * 100, "TLS failed"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 70000, "TLS failed"),  # a record that is too long
        (b"\x17\x03\x03\x00\x05hello", "TLS failed"),  # data before the hello
        (b"\x15\x03\x03\x00\x02\x02\x28", "alert"),  # an alert instead of one
        (b"", "without ending TLS"),
        (b"\x16\x03", "without ending TLS"),
    ):
        peer = connect_tcp(server.port)
        source, mark = peer.getsockname()[1], server.mark()
        try:
            peer.sendall(data)
            if not data or len(data) < 5:
                peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        server.says(f"127.0.0.1:{source}: .*{reason}", mark)
        peer.close()


class Silent:
    """Clients that stop in the middle of the handshake, and what becomes of them."""

    def __init__(self, server: Server) -> None:
        self.server, self.begin = server, time.monotonic()
        hello = b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03"
        self.peers = [(connect_tcp(server.port), data) for data in (b"", hello[:3], hello)]
        for peer, data in self.peers:
            peer.sendall(data)

    def check(self) -> None:
        for peer, data in self.peers:
            source = peer.getsockname()[1]
            received = peer.recv(1)
            passed = time.monotonic() - self.begin
            assert received == b"", f"the server says {received!r} to {data!r}"
            assert passed > 9.9, f"{data!r}: given up after {passed} seconds"
            self.server.says(f"127.0.0.1:{source}: .*timed out")
            peer.close()
        assert time.monotonic() - self.begin < 10 + PATIENCE


TESTS = (
    versions_and_keys,
    versions_that_are_too_old,
    ciphers_and_groups,
    small_records,
    resumption,
    key_update,
    renegotiation_is_refused,
    client_certificates,
    protocols,
    https,
    names,
    ends,
    bad_input,
)
