# SPDX-License-Identifier: MIT
"""What deploy/ decides in Python: what may be installed, and what counts as a test."""
import contextlib
import http.server
import importlib.util
import json
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

COUNT = ROOT / "deploy" / "count_tests.py"


def judge(packages, megabytes=100):
    spec = importlib.util.spec_from_file_location("pip_plan", ROOT / "deploy" / "pip_plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.judge([{"metadata": {"name": name}, "download_info": {"url": url}} for name, url in packages],
                        megabytes)


class Index(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        """/<bytes> is a file of that size; of others nothing is told."""
        self.send_response(200)
        if self.path[1:].isdigit():
            self.send_header("Content-Length", self.path[1:])
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def index():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("name", ["nvidia-cublas", "NVIDIA-cudnn-cu13", "triton", "cuda-bindings", "pytorch-triton"])
def test_nothing_made_for_cuda_is_installed(name):
    assert "CUDA build" in judge([("torch", "file:///torch.whl"), (name, "file:///other.whl")])
    assert judge([("torch", "file:///torch.whl"), ("tritonclient", "file:///other.whl")]) is None


def test_downloads_have_a_bound_that_files_of_this_machine_do_not_count_for():
    with index() as url:
        assert judge([("a", f"{url}/60000000"), ("b", f"{url}/39000000"), ("c", "file:///c.whl")]) is None
        assert "110 million bytes to download, more than 100" in judge([("a", f"{url}/60000000"),
                                                                        ("b", f"{url}/50000000")])
        assert judge([("a", f"{url}/secret")]) == "the index does not tell how large a is"


def count(tmp_path, text, *options):
    (tmp_path / "log").write_text(text)
    done = subprocess.run([sys.executable, COUNT, *options, tmp_path / "log"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_skipped_tests_are_neither_passed_nor_failed(tmp_path):
    entries = [{"result": "OK", "stdout": "3 passed, 2 skipped in 0.10s"}, {"result": "OK", "stdout": "2 skipped in 0.10s"},
               {"result": "SKIP", "stdout": ""}, {"result": "OK", "stdout": "[  PASSED  ] 4 test(s).\n"},
               {"result": "FAIL", "stdout": "1 failed, 5 passed in 1.00s"}, {"result": "FAIL", "stdout": ""},
               {"result": "OK", "stdout": "nothing"}]
    assert count(tmp_path, "\n".join(map(json.dumps, entries))) == ["13", "2", "5"]
    assert count(tmp_path, "...\n1 failed, 2 passed, 4 skipped in 3.00s\n", "--text") == ["2", "1", "4"]
    assert count(tmp_path, "died", "--text") == ["0", "1", "0"]
