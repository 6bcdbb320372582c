# SPDX-License-Identifier: MIT
"""A shell in a terminal, into which the beginning of a command line is typed, and Tab."""
import os
import pty
import re
import select
import signal
import time

PATIENCE_S = float(os.environ.get("ATTND_TEST_PATIENCE", "30"))


def shown(said):
    """Without bells, colours and the like, and what a backspace took back."""
    said = re.sub("\a|\x1b\\[[0-9;?]*[a-zA-Z]", "", said)
    taken = None
    while taken != said:
        taken, said = said, re.sub("[^\b]\b", "", said)
    return said


class Shell:
    """An interactive shell without anybody's settings; PATH begins with `programs`."""

    def __init__(self, command, setup, programs, directory, **variables):
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(directory),
                       "LC_ALL": "C.UTF-8", "PS1": "ready> ", **variables}
        self.said = ""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execvpe(command[0], list(command), environment)
        self.type(f"{setup}; echo is''-ready\n")
        self.wait("is-ready")

    def type(self, text):
        os.write(self.terminal, text.encode())

    def wait(self, text):
        """Reads until `text` was said, and forgets what came before it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < deadline, f"no {text!r} in {self.said!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.said = shown(self.said + os.read(self.terminal, 65536).decode(errors="replace"))
        self.said = self.said.partition(text)[2]

    def assert_completes(self, line, expected):
        """A character behind what Tab made shows where the cursor is: behind a blank or not."""
        self.type(f"{line}\t")
        self.type("Z")
        self.wait(f"{expected}Z")
        self.type("\x15\n")  # the line is none
        self.wait("ready> ")

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)
