# SPDX-License-Identifier: MIT
"""finisher: a process beside the training that makes states of what the kernels leave.

A layer of 32 heads takes it tens of milliseconds of Python (256 rows). A thread of the training's process would take the
interpreter's lock for them, again and again, and the training would wait: on an H100 steps of 71 ms took 171 when all 8
layers were captured, and 82 with the process. The process has no GPU and a low priority, and ends when the training does.
It is started with the first capture; nothing is captured until it is there, which takes as long as `import torch`. Where none
can be started, or it fails, which is said, `run` works where it is called.
"""
from __future__ import annotations

import os
import pathlib
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, Callable, Optional, TypeVar

from ..base.once import log

STARTS_S, ANSWERS_S = 120.0, 60.0
_ALIVE_S = 5.0  # after so long without anything to do it looks whether the training is there
_NICE = 10
_Made = TypeVar("_Made")


class Finisher:
    """One process. Threads: any; they take turns."""

    def __init__(self) -> None:
        self.pid = os.getpid()  # the one that may use it: after a fork the child needs its own
        self._turn = threading.Lock()
        self._connection: Optional[Connection] = None
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._starting = threading.Thread(target=self._start, name="attnd starts", daemon=True)
        self._starting.start()

    @property
    def is_ready(self) -> bool:
        """Whether `run` need not wait for the process: it is there, or there will be none."""
        return not self._starting.is_alive()

    def run(self, call: Callable[..., _Made], *arguments: Any, data: Any) -> _Made:
        """call(*arguments, data) there: all can be pickled, but for the bytes `data`. Its exceptions are RuntimeErrors here."""
        with self._turn:
            connection = self._connection
            if connection is not None:
                try:
                    connection.send_bytes(pickle.dumps((call, arguments)))  # send() would share tensors' memory
                    connection.send_bytes(data)
                    is_made, answer = self._answer(connection, ANSWERS_S)
                except Exception as error:
                    self._fails(error)
                else:
                    if not is_made:
                        raise RuntimeError(answer)
                    return answer  # type: ignore[no-any-return]
        return call(*arguments, data)

    def _start(self) -> None:
        if not _is_python():
            log.warning("this Python is built into %s: no process can be started beside it that finishes what is captured on an "
                        "accelerator. The sender thread does, and the training's steps may wait", sys.executable or "a program")
            return
        said = tempfile.TemporaryFile()
        try:
            ours, theirs = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWERS_S), 0))
            with theirs:
                code = (f"import sys; sys.path[:] = {[str(path) for path in sys.path]!r}; from {__name__} import serve; "
                        f"serve({theirs.fileno()}, {self.pid})")
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                    pass_fds=[theirs.fileno()], start_new_session=True,
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
            self._connection = Connection(ours.detach())
            self._answer(self._connection, STARTS_S)
        except Exception as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            self._fails(error, next((line for line in reversed(lines) if line), ""))

    @staticmethod
    def _answer(connection: Connection, within_s: float) -> Any:
        if not connection.poll(within_s):
            raise TimeoutError(f"no answer within {within_s:.0f} s")
        return pickle.loads(connection.recv_bytes())

    def _fails(self, error: Exception, said: str = "") -> None:
        log.warning("the process that finishes what is captured on an accelerator failed (%s): the sender thread does it from "
                    "now on, and the training's steps may wait", said or f"{type(error).__name__}: {error}")
        self.close()

    def close(self) -> None:
        """Ends the process, which the end of the training does as well."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


_one: Optional[Finisher] = None
_making = threading.Lock()


def shared() -> Finisher:
    """That of this process."""
    global _one
    one = _one
    if one is not None and one.pid == os.getpid():
        return one
    with _making:
        if _one is None or _one.pid != os.getpid():
            _one = Finisher()
        return _one


def _is_python() -> bool:
    """Whether sys.executable is an interpreter: where one is built into a program, it is that program."""
    return pathlib.Path(sys.executable or "").name.lower().startswith(("python", "pypy")) and not hasattr(sys, "frozen")


def serve(descriptor: int, parent: int) -> None:
    """The process: answers until the training is gone."""
    import torch
    torch.set_num_threads(1)
    os.nice(_NICE)
    with Connection(descriptor) as connection:
        connection.send_bytes(pickle.dumps(None))
        while True:
            while not connection.poll(_ALIVE_S):
                if os.getppid() != parent:
                    return
            try:
                asked, data = connection.recv_bytes(), connection.recv_bytes()
            except EOFError:
                return
            try:
                call, arguments = pickle.loads(asked)
                answer = True, call(*arguments, data)
            except Exception:
                answer = False, traceback.format_exc()
            connection.send_bytes(pickle.dumps(answer))
