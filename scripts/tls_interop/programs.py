"""Other programs: started, listened to, written to, and ended."""

import re
import signal
import subprocess
import threading
import time
from pathlib import Path

# Longest time for anything that has no limit of its own, in seconds.
PATIENCE = 30


class Program:
    """A program whose output is collected while it runs."""

    running: list["Program"] = []

    def __init__(self, *command: str | Path) -> None:
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.output = b""
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        Program.running.append(self)

    def _read(self) -> None:
        while chunk := self.process.stdout.read1(65536):
            with self.changed:
                self.output += chunk
                self.changed.notify_all()

    def text(self) -> str:
        with self.changed:
            return self.output.decode(errors="replace")

    def says(self, pattern: str, begin: int = 0, patience: float = PATIENCE) -> re.Match:
        """Waits until the output behind `begin` has a match of the pattern."""
        end = time.monotonic() + patience
        with self.changed:
            while True:
                text = self.output.decode(errors="replace")[begin:]
                if match := re.search(pattern, text):
                    return match
                left = end - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    raise AssertionError(f"{self} does not say {pattern!r}, but:\n{text}")

    def mark(self) -> int:
        """Where the output ends at present."""
        return len(self.text())

    def write(self, text: str) -> None:
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def finish_input(self) -> None:
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def wait(self, code: int | None = 0) -> str:
        """Waits for its end, with this exit code, and returns what it has said."""
        try:
            actual = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} does not end; it has said:\n{self.text()}") from None
        self.reader.join(PATIENCE)
        Program.running.remove(self)
        text = self.text()
        if code is not None and actual != code:
            raise AssertionError(f"{self}: exit code {actual}, expected {code}:\n{text}")
        return text

    def stop(self) -> str:
        """Ends a server, which then says what it has done."""
        assert self.process.poll() is None, f"{self} has ended by itself:\n{self.text()}"
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends what cannot be asked to."""
        self.process.kill()
        self.wait(code=None)

    def __str__(self) -> str:
        return " ".join(self.command)


class Server(Program):
    """One of our servers, which says where it listens."""

    def __init__(self, *command: str | Path) -> None:
        super().__init__(*command)
        self.port = int(self.says(r"listening on 127\.0\.0\.1:(\d+)").group(1))


def run(*command: str | Path, stdin: bytes = b"", code: int = 0) -> tuple[bytes, str]:
    """Runs a program to its end; what it has written to its outputs."""
    command = [str(part) for part in command]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120)
    said = done.stderr.decode(errors="replace")
    if done.returncode != code:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}: {said}")
    return done.stdout, said


def end_all() -> None:
    """Whatever is left, after a failure."""
    for program in list(Program.running):
        program.process.kill()
