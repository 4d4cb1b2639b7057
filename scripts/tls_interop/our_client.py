"""Our client, `tls_client`, with servers of others: `openssl s_server`, Python's `ssl`."""

import hashlib
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from certificates import Certificates
from peers import VERSIONS, Accepting, receive_exactly, reset, server_context
from programs import Program, run


class Client:
    """The program, and what it trusts."""

    def __init__(self, binaries: Path, certificates: Certificates) -> None:
        self.program = binaries / "tls_client"
        self.certificates = certificates

    def run(
        self, port: int, *options: str | Path, stdin: bytes = b"hello\n", code: int = 0
    ) -> tuple[bytes, str]:
        return run(
            *(self.program, f"localhost:{port}", "--ca", self.certificates.pem("ca")),
            *options,
            stdin=stdin,
            code=code,
        )

    def accept(
        self, serve: Callable, version: str = "1.3", certificate: str = "ec", count: int = 1
    ) -> Accepting:
        certificates = self.certificates
        context = server_context(
            certificates.pem(certificate), certificates.key(certificate), version
        )
        return Accepting(context, serve, count)


def s_server(certificates: Certificates, name: str, *options: str) -> tuple[Program, int]:
    server = Program(
        # A line at once, and not when much has come together.
        *("stdbuf", "-oL", "openssl", "s_server", "-4", "-accept", "0"),
        *("-cert", certificates.pem(name)),
        *("-key", certificates.key(name), *options),
    )
    return server, int(server.says(r"ACCEPT [0-9.]+:(\d+)").group(1))


def echo_all(peer: ssl.SSLSocket) -> ssl.SSLSocket:
    """Sends back what comes, until the client has finished; then our close_notify."""
    try:
        while chunk := peer.recv(1 << 18):
            peer.sendall(chunk)
    except ssl.SSLZeroReturnError:
        pass
    finish(peer)
    return peer


def finish(peer: ssl.SSLSocket) -> None:
    try:
        peer.unwrap()
    except OSError:
        pass  # the client has closed already
    peer.close()


def cut_off(peer: ssl.SSLSocket) -> None:
    """Ends our side by a FIN alone, and waits for the other side's end."""
    peer.shutdown(socket.SHUT_WR)
    while peer.recv(65536):  # of TCP, now
        pass
    peer.close()


def versions_and_keys(client: Client) -> None:
    session = client.certificates.folder / "session.of.client"
    for kind in ("ec", "rsa"):
        for version in VERSIONS:
            option = "-tls" + version.replace(".", "_")
            server, port = s_server(client.certificates, kind, option, "-rev")
            session.unlink(missing_ok=True)
            for resumed in ("full handshake", "resumed"):
                output, said = client.run(port, "--session", session)
                assert output == b"olleh\n", output
                assert f"TLS {version}, " in said and resumed in said, said
                assert f"CN={kind}; SHA-256 " in said, said
            server.kill()


def key_update(client: Client) -> None:
    server, port = s_server(client.certificates, "ec", "-tls1_3")
    ours = Program(client.program, f"localhost:{port}", "--ca", client.certificates.pem("ca"))
    ours.says("the certificate is good")
    ours.write("from the client\n")
    server.says("from the client")
    for command in ("k", "K"):
        mark = server.mark()
        server.write(f"{command}\n")
        server.says("SSL_do_handshake -> 1", mark)  # what follows is another line of its input
        server.write(f"after {command} from the server\n")
        ours.says(f"after {command} from the server")
        ours.write(f"after {command} from the client\n")
        server.says(f"after {command} from the client")
    server.write("q\n")  # closes the connection, without a close_notify
    assert "without ending TLS" in ours.wait(code=1)
    server.kill()


def resumption(client: Client) -> None:
    session = client.certificates.folder / "session.of.client"
    for version in VERSIONS:
        session.unlink(missing_ok=True)
        server = client.accept(
            lambda peer: (peer.session_reused, echo_all(peer))[0], version, count=3
        )
        for _ in range(2):
            assert client.run(server.port, "--session", session)[0] == b"hello\n"
        assert session.stat().st_mode & 0o777 == 0o600
        # It is of another name, and not offered.
        assert client.run(server.port, "--session", session, "--name", "127.0.0.1")[0] == b"hello\n"
        assert server.wait() == [False, True, False], server.results


def bad_certificates(client: Client) -> None:
    for certificate, complaint in (
        ("other_name", "hostname mismatch"),
        ("expired", "certificate has expired"),
        ("untrusted", "unable to get local issuer certificate"),
        ("its_own", "self-signed certificate"),
        ("for_clients", "unsuitable certificate purpose"),
    ):
        for version in VERSIONS:
            server = client.accept(echo_all, version, certificate)
            output, said = client.run(server.port, code=1)
            assert output == b"", output
            assert complaint in said, said
            (result,) = server.wait()
            assert isinstance(result, ssl.SSLError) and "ALERT" in result.reason, result
    # A good one, of nobody whom the system trusts.
    server = client.accept(echo_all)
    _, said = run(client.program, f"localhost:{server.port}", stdin=b"", code=1)
    assert "unable to get local issuer certificate" in said, said
    server.wait()


def names(client: Client) -> None:
    asked: list[str | None] = []
    certificates = client.certificates
    context = server_context(certificates.pem("ec"), certificates.key("ec"))
    context.sni_callback = lambda _peer, name, _context: asked.append(name)
    other = server_context(certificates.pem("other_name"), certificates.key("other_name"))
    other.sni_callback = context.sni_callback
    trust = certificates.pem("ca")
    for address, options, of in (
        ("localhost", (), context),
        ("127.0.0.1", (), context),
        ("127.0.0.1", ("--name", "elsewhere.example"), other),
    ):
        server = Accepting(of, echo_all)
        run(client.program, f"{address}:{server.port}", "--ca", trust, *options, stdin=b"x")
        server.value()
    assert asked == ["localhost", None, "elsewhere.example"], asked


def protocols(client: Client) -> None:
    def chosen(offered: str | None, *known: str) -> tuple[str | None, str]:
        server = client.accept(lambda peer: (peer.selected_alpn_protocol(), echo_all(peer))[0])
        server.context.set_alpn_protocols(list(known))
        _, said = client.run(server.port, *(("--alpn", offered) if offered else ()))
        return server.value(), said

    agreed, said = chosen("h2,http/1.1", "http/1.1")
    assert agreed == "http/1.1" and "ALPN http/1.1" in said, said
    # This server goes on without.
    assert chosen("h2", "http/1.1")[0] is None
    assert chosen(None, "http/1.1")[0] is None
    server, port = s_server(client.certificates, "ec", "-alpn", "h2", "-rev")
    _, said = client.run(port, "--alpn", "spdy", code=1)
    assert "no_application_protocol" in said, said
    server.kill()


def client_certificates(client: Client) -> None:
    certificates = client.certificates

    def talk(name: str | None, version: str, code: int) -> tuple[object, str]:
        server = client.accept(
            lambda peer: (peer.getpeercert()["subject"][0][0][1], echo_all(peer))[0], version
        )
        server.context.verify_mode = ssl.CERT_REQUIRED
        server.context.load_verify_locations(certificates.pem("ca"))
        files = ("--cert", certificates.pem(name), "--key", certificates.key(name)) if name else ()
        _, said = client.run(server.port, *files, code=code)
        return server.wait()[0], said

    for version in VERSIONS:
        assert talk("client", version, 0)[0] == "client"
        said = talk(None, version, 1)[1]
        expected = {"1.2": "handshake_failure", "1.3": "certificate_required"}[version]
        assert expected in said, said
        assert "unknown_ca" in talk("stranger", version, 1)[1]


def ends(client: Client) -> None:
    def say(data: bytes, end: Callable) -> Callable:
        def serve(peer: ssl.SSLSocket) -> None:
            receive_exactly(peer, 6)
            peer.sendall(data)
            end(peer)

        return serve

    large = os.urandom(16 << 20)
    for version in VERSIONS:
        for data in (large, b"bye"):
            # Sends and closes: nothing is lost.
            server = client.accept(say(data, finish), version)
            output, _ = client.run(server.port)
            assert output == data, f"{len(output)} of {len(data)} bytes"
            server.value()
            # The same without a close_notify.
            server = client.accept(say(data, cut_off), version)
            output, said = client.run(server.port, code=1)
            assert output == data, f"{len(output)} of {len(data)} bytes"
            assert "without ending TLS" in said, said
            server.value()
    server = client.accept(say(b"", reset))
    assert "reset" in client.run(server.port, code=1)[1]
    server.value()


def bulk(client: Client, total: int) -> None:
    data = os.urandom(1 << 20) * (total >> 20)
    for version in VERSIONS:
        server = client.accept(echo_all, version)
        output, _ = client.run(server.port, stdin=data)
        same = hashlib.sha256(output).digest() == hashlib.sha256(data).digest()
        assert same, f"{len(output)} of {len(data)} bytes"
        server.value()


def no_tls_at_all(client: Client) -> None:
    for answer, complaint in (
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS failed"),
        (b"220 mail.example ESMTP\r\n", "TLS failed"),
        (b"", "without ending TLS"),
    ):

        def serve(peer: socket.socket) -> None:
            peer.recv(65536)
            peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass

        server = Accepting(None, serve)
        assert complaint in client.run(server.port, code=1)[1]
        server.wait()


TESTS = (
    versions_and_keys,
    key_update,
    resumption,
    bad_certificates,
    names,
    protocols,
    client_certificates,
    ends,
    no_tls_at_all,
)
