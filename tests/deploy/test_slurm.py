# SPDX-License-Identifier: MIT
"""deploy/cluster/slurm.sh on three machines that are this one: of Slurm where that is installed, else of an srun that
starts all tasks here."""
import contextlib
import getpass
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLURM_SH = ROOT / "deploy/cluster/slurm.sh"
TRAIN = (sys.executable, ROOT / "clients/python/examples/train_ranks.py", "--epochs", "2")
PATH = os.environ["PATH"] + ":/usr/sbin"
NODES = ("m0", "m1", "m2")
PATIENCE_S = 60

# srun on one machine: every task is on a machine of its own, by its name.
SRUN = '''#!/usr/bin/env python3
import os, subprocess, sys
words, options = sys.argv[1:], {}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    options[name] = value
tasks = int(options.get("--ntasks", os.environ["SLURM_NTASKS"]))
def start(number):
    told = dict(os.environ, SLURM_PROCID=str(number), SLURM_LOCALID="0", SLURM_NTASKS=str(tasks), SLURMD_NODENAME=f"m{number}")
    path = options.get("--output", "").replace("%N", told["SLURMD_NODENAME"])
    return subprocess.Popen(words, env=told, stdout=open(path, "w") if path else None, stderr=subprocess.STDOUT if path else None)
sys.exit(max(process.wait() for process in [start(number) for number in range(tasks)]))
'''

CONF = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={place}/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/ctld.pid
SlurmdPidFile={place}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=m0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=m1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
NodeName=m2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]}
PartitionName=all Nodes=m[0-2] Default=YES
"""

# sbatch --wait asks ever more seldom.
SUBMIT = """sbatch --nodes=3 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0 --output=out "$@" || exit
while [ -n "$(squeue --noheader)" ]; do sleep 0.2; done
scontrol --oneliner show job | grep -q ' ExitCode=0:0 '"""


def is_there(*programs):
    return all(shutil.which(program, path=PATH) for program in programs)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def says(word, command, env):
    """Waits until a command prints the word and nothing else."""
    deadline = time.monotonic() + PATIENCE_S
    while (said := subprocess.run(command, env=env, capture_output=True, text=True)).stdout.strip() != word:
        assert time.monotonic() < deadline, said.stderr
        time.sleep(0.1)


@contextlib.contextmanager
def submitting(place, job):
    """The command before a script and its words, with Slurm's services behind it, as whoever runs this."""
    for directory in (place, place / "state", *(place / node for node in NODES)):
        directory.mkdir(mode=0o755)
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    (place / "conf").write_text(CONF.format(host=socket.gethostname(), place=place, user=getpass.getuser(), ports=free_ports(4)))
    job["SLURM_CONF"] = str(place / "conf")
    files = {"key-file": "key", "socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "seed"}
    with contextlib.ExitStack() as stack, open(place / "log", "w") as log:
        def start(*command):
            process = stack.enter_context(subprocess.Popen(command, env=job, stdout=log, stderr=log))
            stack.callback(process.terminate)
        start("munged", "--foreground", "--force", *(f"--{name}={place / file}" for name, file in files.items()))
        says("yes", ["bash", "-c", f"munge --socket={place}/munge --no-input >/dev/null && echo yes"], job)
        start("slurmctld", "-D", "-c")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        says("3", ["sinfo", "--noheader", "--states=idle", "--format=%D"], job)
        yield ["bash", "-c", SUBMIT, "job"]


@contextlib.contextmanager
def pretending(place, job):
    place.mkdir()
    (place / "srun").write_text(SRUN)
    (place / "srun").chmod(0o755)
    job.update(PATH=f"{place}:{job['PATH']}", SLURM_SUBMIT_DIR=str(place.parent), SLURM_JOB_ID="7", SLURM_NNODES="3", SLURM_NTASKS="3")
    yield ["bash", "-c", 'exec "$@" >out 2>&1', "job"]


@pytest.mark.skipif(not is_there("nats-server", "openssl"), reason="no nats-server or no openssl")
def test_a_job_of_slurm_has_its_fleet(tmp_path):
    """A rank on each machine, one run at the hub, and its history at the end."""
    pytest.importorskip("torch")
    way = submitting if is_there("munged", "slurmctld", "slurmd", "sbatch") else pretending
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("attnd", "attnctl"):
        (programs / name).symlink_to(os.environ[name.upper() + "_BIN"])
    ports = free_ports(2)
    job = dict(os.environ, PATH=f"{programs}:{PATH}", TMPDIR=str(tmp_path), ATTND_SOURCE=str(ROOT), GLOO_SOCKET_IFNAME="lo",
               ATTND_FLEET_PORT=str(ports[0]), MASTER_PORT=str(ports[1]))
    with way(tmp_path / "slurm", job) as before:
        done = subprocess.run([*before, SLURM_SH, *TRAIN], env=job, cwd=tmp_path, timeout=300)
    said = (tmp_path / "out").read_text()
    assert done.returncode == 0, said
    assert "its page: http://127.0.0.1:" in said
    path, = tmp_path.glob("attnd-*/history.db")
    with sqlite3.connect(path) as history:
        assert history.execute("SELECT job FROM runs").fetchall() == [("chars-ranks",)]
        assert history.execute("SELECT max(world), max(epoch) FROM runs").fetchone() == (3, 1)
    assert not (path.parent / "tls").exists() and not list(tmp_path.glob("attnd-*-*"))
