# SPDX-License-Identifier: MIT
"""What deploy/ decides in Python: what may be installed, and what counts as a test."""
import contextlib
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time

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


@pytest.mark.parametrize("name", ["nvidia-cublas", "NVIDIA-cudnn-cu13", "cuda-bindings", "pytorch-triton"])
def test_nothing_made_for_cuda_is_installed(name):
    assert "CUDA build" in judge([("torch", "file:///torch.whl"), (name, "file:///other.whl")])
    assert judge([("torch", "file:///torch.whl"), ("triton", "file:///other.whl")]) is None


def test_downloads_have_a_bound_that_files_of_this_machine_do_not_count_for():
    with index() as url:
        assert judge([("a", f"{url}/60000000"), ("b", f"{url}/39000000"), ("c", "file:///c.whl")]) is None
        assert "110 million bytes to download, more than 100" in judge([("a", f"{url}/60000000"),
                                                                        ("b", f"{url}/50000000")])
        assert judge([("a", f"{url}/secret")]) == "the index does not tell how large a is"


def count(tmp_path, text, *options):
    (tmp_path / "log").write_text(text)
    done = subprocess.run([sys.executable, COUNT, *options, tmp_path / "log"], capture_output=True, text=True,
                          check=True)
    return done.stdout.split()


def test_skipped_tests_are_neither_passed_nor_failed(tmp_path):
    entries = [{"result": "OK", "stdout": "3 passed, 2 skipped in 0.10s"},
               {"result": "OK", "stdout": "2 skipped in 0.10s"},
               {"result": "SKIP", "stdout": ""}, {"result": "OK", "stdout": "[  PASSED  ] 4 test(s).\n"},
               {"result": "FAIL", "stdout": "1 failed, 5 passed in 1.00s"}, {"result": "FAIL", "stdout": ""},
               {"result": "OK", "stdout": "nothing"}]
    assert count(tmp_path, "\n".join(map(json.dumps, entries))) == ["13", "2", "5"]
    assert count(tmp_path, "...\n1 failed, 2 passed, 4 skipped in 3.00s\n", "--text") == ["2", "1", "4"]
    assert count(tmp_path, "died", "--text") == ["0", "1", "0"]


@pytest.mark.parametrize("line,counts", [
    ("1 failed, 3 passed, 2 errors in 1.00s", "3 3 0"), ("2 errors in 0.50s", "0 2 0"),
    ("1 passed, 1 warning, 1 error in 63.02s (0:01:03)", "1 1 0"),
    ("== 2 failed, 4 passed, 1 skipped in 9.9s ==", "4 2 1"),
    ("3 passed, 1 deselected, 2 xfailed, 1 xpassed in 0.1s", "3 0 0"), ("a test said 7 failed in 3 days", "0 1 0")])
def test_all_that_pytest_says_counts(tmp_path, line, counts):
    assert count(tmp_path, f"...F\n\x1b[31m{line}\x1b[0m\n", "--text") == counts.split()


def test_what_hangs_is_interrupted():
    script = f'. {ROOT}/deploy/common.sh; bounded 1 sleep 60'
    begin = time.monotonic()
    assert subprocess.run(["bash", "-c", script], timeout=50).returncode == 124
    assert time.monotonic() - begin < 30


PACKAGES = "torch transformers numpy zmq msgpack pytest".split()
FURTHER = "accelerate lightning tensorboard wandb trackio mlflow pandas matplotlib nbclient ipykernel mypy setuptools".split()


class Frameworks:
    """deploy/frameworks of a copy of the tree, whose build-frameworks/ has a Python with packages that are none, and a
    pip that gets nothing and says that it was asked."""

    def __init__(self, folder, packages):
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.asked = folder / "asked"
        self.folder = folder
        site = folder / "site"
        for package in packages:
            (site / package).mkdir(parents=True)
            (site / package / "__init__.py").write_text("__version__ = '2.13.0'\n")
        self.python = folder / "build-frameworks" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(f'''#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then
    echo "$*" >>{self.asked}
    case "$*" in *pandas*) exit 1 ;; *--dry-run*) ;; *) exit 0 ;; esac
    while [ "$1" != --report ]; do shift; done
    echo '{{"install": []}}' >"$2"
    exit 0
fi
export PYTHONPATH={site}
exec {sys.executable} -S "$@"
''')
        self.python.chmod(0o755)

    def run(self, *options, cwd):
        env = {**os.environ, "ATTND_FRAMEWORKS_PYTHON": "", "ATTND_PYTHON": "", "PATH": "/usr/bin:/bin",
               "HOME": str(self.folder)}
        return subprocess.run([self.folder / "deploy" / "frameworks", *options], cwd=cwd, env=env, text=True,
                              capture_output=True, timeout=100)


def test_a_folder_that_has_the_name_of_a_package_is_no_package(tmp_path):
    folder = tmp_path / "elsewhere"
    (folder / "transformers").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    frameworks = Frameworks(tmp_path, [name for name in PACKAGES if name != "transformers"])
    done = frameworks.run(cwd=folder)
    assert str(frameworks.python) not in done.stdout.splitlines()


def test_what_could_not_be_installed_is_not_tried_again(tmp_path):
    frameworks = Frameworks(tmp_path, PACKAGES + [name for name in FURTHER if name != "pandas"])
    first = frameworks.run("--install", cwd=tmp_path)
    assert first.stdout.splitlines()[-1] == str(frameworks.python), first.stderr
    assert "without pandas" in first.stderr and "pandas" in frameworks.asked.read_text()
    frameworks.asked.unlink()
    again = frameworks.run("--install", cwd=tmp_path)
    assert again.stdout.splitlines()[-1] == str(frameworks.python) and not frameworks.asked.exists()


def test_a_long_build_says_meanwhile_that_it_goes_on_and_where_it_writes(tmp_path):
    said = tmp_path / "said"
    script = f"""
        . {ROOT}/deploy/common.sh
        logged {tmp_path}/log sh -c 'echo one; until grep -q lines {said}; do sleep 0.05; done' 2>{said}
        logged {tmp_path}/log sh -c 'echo wrong; exit 3' 2>>{said} || echo failed"""
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "ATTND_TICK_S": "1"}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "failed\n"), done.stderr
    assert said.read_text(encoding="utf-8").splitlines()[0] == f"  ... 1 s, 1 lines in {tmp_path}/log"
    assert said.read_text(encoding="utf-8").endswith(f"wrong\n(from {tmp_path}/log)\n")


STANDS_IN = {  # for what deploy/run builds and starts
    "deploy/deps": "#!/bin/sh\n",
    "deploy/python": f"#!/bin/sh\necho {sys.executable}\n",
    "build/build.ninja": "build daemon/attnd: phony\nbuild clients/cli/attnctl: phony\n",
    "build/daemon/attnd": "#!/bin/sh\necho level=info event=started version=1 page=http://127.0.0.1:5580/\nexec sleep 100\n",
    "build/clients/cli/attnctl": "#!/bin/sh\necho JOB\n",
    "clients/python/examples/train_chars.py": "",
}


def test_on_no_terminal_attnd_is_to_be_started_again_before_the_page_is_there(tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for name, text in STANDS_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(["deploy/run", "--model", "decoder-only"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=100)
    assert done.returncode == 0, done
    lines = [line.split("  ")[1] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert lines[1:3] == [f"build/daemon/attnd --set history.path={tmp_path}/build/history.db &", "build/clients/cli/attnctl page"]
    assert "http" not in done.stdout
