# SPDX-License-Identifier: MIT
"""attnctl plot without the half second in which Python loads matplotlib: attnctl runs a stand-in for Python, which tells
what it was handed; that is done in a fork of this process, which has loaded all of it."""
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[2]
TELL = "#!/bin/sh\nprintf 'handed:'\nprintf '%s\\0' \"$@\"\n"


class Warm:
    def __init__(self, attnctl):
        sys.path.insert(0, str(ROOT / "clients" / "python"))
        from attnd import plots
        from attnd.plots import command

        for kind in ("heatmap", "tokens"):  # with all that is loaded when something is drawn
            plots.render(plots.draw(kind, [[1.0]]), "svg")
        self._main, self._attnctl = command.main, attnctl
        self._folder = tempfile.TemporaryDirectory(prefix="attnd-warm-")
        self._python = pathlib.Path(self._folder.name) / "python"
        self._python.write_text(TELL)
        self._python.chmod(0o755)

    def plot(self, *words, cwd=None, stdin=None, **more):
        """As subprocess.run() of attnctl plot has it."""
        line = [self._attnctl, "plot", *map(str, words)]
        env = {**os.environ, **more, "ATTND_PYTHON": str(self._python)}
        told = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=cwd, env=env, stdin=stdin)
        if not told.stdout.startswith("handed:"):
            return told
        # -c, the program, the module, the package beside attnctl and other Pythons come first
        handed = told.stdout[len("handed:"):-1].split("\0")[5:]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                self._become(handed, cwd, stdin, more, out, err)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            texts = [_text(file) for file in (out, err)]
        return subprocess.CompletedProcess(line, code, *texts)

    def _become(self, handed, cwd, stdin, more, out, err):
        code = 70
        try:
            os.environ.update(more, ATTND_ATTNCTL=os.path.abspath(self._attnctl))
            os.chdir(cwd or ".")
            if stdin is not None:
                os.dup2(stdin, 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            code = self._main(handed)
            sys.stdout.flush()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


def _text(file):
    file.seek(0)
    return file.read().decode()
