# SPDX-License-Identifier: MIT
"""A user who has no attnd, and starts programs as from a login."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from harness import ATTND, PATIENCE_S

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")


class Person:
    """A user of their own, where the tests may make one, so that no place of theirs has a daemon. `runtime` is their
    $XDG_RUNTIME_DIR, with which some programs are started; `home` has everything else."""

    def __init__(self):
        self.uid = os.geteuid()
        self.prefix = []
        if self.uid == 0 and shutil.which("setpriv"):
            other = 100000 + os.getpid()
            prefix = ["setpriv", f"--reuid={other}", f"--regid={other}", "--clear-groups"]
            may_read = subprocess.run([*prefix, "test", "-r", os.path.join(ROOT, "clients", "python", "attnd")])
            if may_read.returncode == 0:  # a checkout below /root is for root alone
                self.uid, self.prefix = other, prefix
        self.elsewhere = f"/tmp/attnd-{self.uid}"
        if os.path.lexists(self.elsewhere) or os.path.lexists(f"/run/user/{self.uid}/attnd"):
            pytest.skip(f"user {self.uid} may have an attnd")
        self.home = self.make(tempfile.mkdtemp(prefix="attnd-home-"))
        self.runtime = self.make(os.path.join(self.home, "runtime"))
        self.place = os.path.join(self.runtime, "attnd")
        self.running = []

    def make(self, directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chown(directory, self.uid, -1)
        return directory

    def start(self, *command, runtime=True, **options):
        environment = {"XDG_RUNTIME_DIR": self.runtime} if runtime else {}  # and nothing else, as under cron
        environment.update({name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")},
                           PYTHONPATH=os.path.join(ROOT, "clients", "python"), PYTHONDONTWRITEBYTECODE="1")
        process = subprocess.Popen([*self.prefix, *command], env=environment, stderr=subprocess.PIPE, text=True, **options)
        self.running.append(process)
        return process

    def daemon(self, directory, *settings):
        settings = (f"history.path={self.home}/history.db", *settings)
        return self.start(ATTND, "--address", directory, *(word for setting in settings for word in ("--set", setting)))

    def attnctl(self, *words, runtime=True):
        process = self.start(ATTNCTL, *words, runtime=runtime, stdout=subprocess.PIPE)
        out, said = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, said

    def received(self, **options):
        """Messages of the trainer, as the daemon that attnctl finds has them."""
        code, out, _ = self.attnctl("jobs", "--json", **options)
        return sum(job["received"] for job in json.loads(out)) if code == 0 else 0

    def python(self, expression):
        process = self.start(sys.executable, "-c", f"import attnd; print({expression})", stdout=subprocess.PIPE)
        out, said = process.communicate(timeout=PATIENCE_S)
        return out.strip() or said.strip().splitlines()[-1]

    def leave(self):
        for process in self.running:
            process.kill()
            process.communicate()
        for directory in (self.home, self.elsewhere):
            shutil.rmtree(directory, ignore_errors=True)
