"""Certificates of both key types, good and bad ones, by the program `openssl`."""

from pathlib import Path

from programs import run

# The names of servers on this computer.
HERE = "DNS:localhost,IP:127.0.0.1"

KINDS = {"rsa": ("rsa:2048",), "ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")}


class Certificates:
    """Files in a folder: NAME.pem has the certificate, NAME.key the key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, server = ("keyUsage=critical,keyCertSign,cRLSign",), ("subjectAltName=" + HERE,)
        self.self_signed("ca", *authority)
        self.self_signed("other_ca", *authority)
        self.self_signed("its_own", *server)
        for kind in ("ec", "rsa"):
            self.issue(kind, kind=kind)
        self.issue("other_name", names="DNS:elsewhere.example")
        self.issue("expired", days=-1)
        self.issue("untrusted", issuer="other_ca")
        self.issue("for_clients", purpose="clientAuth")
        self.issue("client", purpose="clientAuth")
        self.issue("stranger", purpose="clientAuth", issuer="other_ca")

    def pem(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def self_signed(self, name: str, *extensions: str) -> None:
        added = [part for extension in extensions for part in ("-addext", extension)]
        run(
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}", *added),
            *("-newkey", *KINDS["ec"], "-keyout", self.key(name), "-out", self.pem(name)),
        )

    def issue(
        self,
        name: str,
        kind: str = "ec",
        names: str = HERE,
        purpose: str = "serverAuth",
        issuer: str = "ca",
        days: int = 2,
    ) -> None:
        request, extensions = self.folder / "request", self.folder / "extensions"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={purpose}\n")
        run(
            *("openssl", "req", "-new", "-nodes", "-subj", f"/CN={name}", "-out", request),
            *("-newkey", *KINDS[kind], "-keyout", self.key(name)),
        )
        run(
            *("openssl", "x509", "-req", "-in", request, "-out", self.pem(name)),
            *("-days", str(days), "-extfile", extensions),
            *("-CA", self.pem(issuer), "-CAkey", self.key(issuer)),
        )
