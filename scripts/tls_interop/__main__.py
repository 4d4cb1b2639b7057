"""TLS with other people's programs: `openssl`, `curl` and Python's `ssl`, in both directions.

    python3 scripts/tls_interop FOLDER              with the examples that were built in this folder
    python3 scripts/tls_interop FOLDER MIB          with so many MiB each way instead of 64
    python3 scripts/tls_interop FOLDER MIB NAME...  these tests only
"""

import sys
import tempfile
import time
from pathlib import Path

import our_client
import our_server
from certificates import Certificates
from programs import end_all


def main(binaries: Path, mebibytes: int, chosen: list[str]) -> None:
    def test(name: str, function, *arguments) -> None:
        if not chosen or name in chosen:
            begin = time.monotonic()
            function(*arguments)
            print(f"ok {name} ({time.monotonic() - begin:.1f} s)", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        servers = our_server.Servers(binaries, certificates)
        silent = our_server.Silent(servers.echo)
        for function in our_server.TESTS:
            test(f"server.{function.__name__}", function, servers)
        client = our_client.Client(binaries, certificates)
        for function in our_client.TESTS:
            test(f"client.{function.__name__}", function, client)
        test("server.bulk", our_server.bulk, servers, mebibytes << 20)
        test("client.bulk", our_client.bulk, client, mebibytes << 20)
        test("server.handshakes_that_stop", silent.check)
        servers.stop()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int((sys.argv[2:] or ["64"])[0]), sys.argv[3:])
    finally:
        end_all()
