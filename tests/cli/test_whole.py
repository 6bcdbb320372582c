# SPDX-License-Identifier: MIT
"""attnctl as a whole: what holds of every command of its table, its manual, and its completion in real shells."""
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/fuzz"))
from invoke import ATTNCTL  # noqa: E402
from invoke import attnctl as run  # noqa: E402
from make_recordings import FILES  # noqa: E402
from shells import Shell  # noqa: E402

PAGES = Path(os.environ["ATTNCTL_PAGES"]).resolve()
SCRIPTS = ROOT / "clients/cli/help/completion"
TIMEOUT_S = 60


def need(program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed (deploy/deps test)")


def candidates(*words):
    done = run("__complete", *words)
    assert done.returncode == 0 and done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


COMMANDS = candidates("")
every_command = pytest.mark.parametrize("name", COMMANDS)


@functools.cache
def help_of(name):
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def examples_of(name):
    """The lines of the last block of examples, which is the table's."""
    block = help_of(name).rpartition("\nexample")[2].split("\n\n")[0]
    return [line.strip() for line in block.splitlines()[1:]]


def takes(name, option):
    return re.search(rf"^  --{option}\b", help_of(name), re.M) is not None


def test_there_are_commands():
    assert {"jobs", "summary", "analyze", "check", "bridge", "help"} <= set(COMMANDS)
    listed = run("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", listed, re.M), name
    assert run("help").stdout == listed


@every_command
def test_help_says_how_and_shows_an_example(name):
    said = help_of(name)
    assert said.startswith(f"usage: attnctl {name}")
    assert max(map(len, said.splitlines())) <= 80
    assert run("help", name).stdout == said == run("--help", name).stdout
    examples = examples_of(name)
    assert 1 <= len(examples) <= 3
    assert all(example.startswith(f"attnctl {name}") for example in examples)
    assert "\nExit status: 0 done; 1 " in said and takes(name, "help")


def test_programs_can_read_the_table():
    table = json.loads(run("help", "--json").stdout)["commands"]
    assert [command["name"] for command in table] == COMMANDS
    for command in table:
        assert [f"--{option['name']}" for option in command["options"]] == candidates(command["name"], "--")
        assert command["examples"] == examples_of(command["name"])
    assert json.loads(run("--json", "help", "jobs").stdout)["commands"] == [table[0]]


def test_the_list_fits_a_terminal():
    assert max(map(len, run("--help").stdout.splitlines())) <= 80
    assert len(run("--help").stdout.splitlines()) <= 60


@every_command
def test_an_unknown_option_is_refused_in_a_line_or_two(name):
    for option, says in (("--frobnicate", f"(see attnctl {name} --help)"), ("--hlep", "did you mean --help?")):
        for line in ((name, option), (option, name)):
            done = run(*line)
            assert (done.returncode, done.stdout) == (2, ""), line
            assert len(done.stderr.splitlines()) <= 2 and option in done.stderr and says in done.stderr


@every_command
def test_an_example_is_what_the_command_takes(name, tmp_path):
    """Of attnd, nobody is there: that, or a file that is missing, is all that may be wrong with one."""
    (tmp_path / "run.rec").write_bytes(FILES["good"])
    environment = {**os.environ, "PATH": f"{Path(ATTNCTL).parent}:{os.environ['PATH']}", "ATTND_PYTHON": sys.executable,
                   "ATTND_ADDRESS": f"{tmp_path}/nobody", "PYTHONPATH": str(ROOT / "clients/python")}
    codes = []
    for example in examples_of(name):
        there = f"attnctl --timeout 0.1 --endpoint ipc://{tmp_path}/nobody "
        line = example.replace("attnctl ", there, 1) if takes(name, "timeout") else example
        done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        codes.append(done.returncode)
        assert "usage:" not in done.stderr and "no option" not in done.stderr, (example, done.stderr)
        if done.returncode == 3:
            assert f"ipc://{tmp_path}/nobody" in done.stderr and "start it with `attnd`" in done.stderr
            assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert (3 in codes) == takes(name, "endpoint"), (codes, examples_of(name))


def test_what_cannot_be_written_is_said():
    for redirection in (">/dev/full", ">&-"):
        done = subprocess.run(["sh", "-c", f"{shlex.quote(ATTNCTL)} help jobs {redirection}"], stderr=subprocess.PIPE,
                              text=True, timeout=TIMEOUT_S)
        assert (done.returncode, done.stderr) == (1, "attnctl: cannot write the output\n")


def test_a_reader_that_has_had_enough_is_no_failure():
    line = f"{shlex.quote(ATTNCTL)} help jobs | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stderr == "" and done.stdout.splitlines()[1:] == ["0"]
    reader, writer = os.pipe()
    os.close(reader)
    done = run("help", "jobs", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_slips_are_understood():
    for line, says in ((["jbos"], "no command 'jbos': did you mean 'jobs'?"),
                       (["help", "sumary"], "no command 'sumary': did you mean 'summary'?"),
                       (["analyze", "--cuasal"], "no option --cuasal: did you mean --causal?"),
                       (["bridge", "--projct=x", "wandb"], "no option --projct=x: did you mean --project?"),
                       (["check", "--rule"], "--rule needs a value"),
                       (["frobnicate"], "no command 'frobnicate' (see attnctl --help)")):
        done = run(*line)
        assert (done.returncode, done.stdout) == (2, "") and says in done.stderr, line


def test_an_alias_with_an_endpoint_does_for_every_command():
    Path("run.rec").write_bytes(FILES["empty"])
    for line in (["check", "run.rec"], ["analyze", "none.npy"], ["help", "jobs"]):
        plain, alias = run(*line), run("--endpoint", "ipc:///nobody", "--timeout", "1", *line)
        assert (plain.returncode, plain.stderr, plain.stdout) == (alias.returncode, alias.stderr, alias.stdout)
        assert plain.returncode != 3


def test_bridge_has_the_options_that_python_has():
    pytest.importorskip("zmq")
    pytest.importorskip("msgpack")
    sys.path.insert(0, str(ROOT / "clients/python"))
    from attnd.bridge import cli
    sinks = cli._parser()._subparsers._group_actions[0].choices
    theirs = {option for sink in sinks.values() for option in sink._option_string_actions if option.startswith("--")}
    assert set(candidates("bridge", "--")) == theirs
    assert set(candidates("bridge", "")) == set(sinks)
    for sink in sinks.values():
        for option, action in sink._option_string_actions.items():
            if option.startswith("--"):
                shown = re.search(rf"^  {option}( [A-Z]+)?(?: |$)", help_of("bridge"), re.M)
                assert shown and (shown.group(1) is not None) == (action.nargs != 0), option


def test_bridge_says_in_a_line_what_is_wrong():
    pytest.importorskip("zmq")
    pytest.importorskip("msgpack")
    environment = {**os.environ, "ATTND_PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "clients/python")}
    for line, says in ((["nowhere"], "invalid choice: 'nowhere'"), (["tensorboard"], "required: DIRECTORY"), ([], "SINK is missing"),
                       (["--timeout", "soon", "jsonl"], "'soon': must be 1ms to 3600s"), (["jsonl", "--timeout", "0"], "must be 1ms")):
        done = run("bridge", *line, env=environment)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert done.stderr.startswith("attnctl") and says in done.stderr and "--help)" in done.stderr


# the manual


def pages():
    return sorted(PAGES.glob("man?/*.?"))


def test_every_command_has_a_page_that_has_its_options_and_examples():
    assert {path.name for path in pages()} == {"attnd.8", "attnctl.1", *(f"attnctl-{name}.1" for name in COMMANDS)}
    for name in COMMANDS:
        text = (PAGES / f"man1/attnctl-{name}.1").read_text()
        plain = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")
        for word in re.findall(r"^  (--[a-z-]+)", help_of(name), re.M) + examples_of(name):
            assert word in plain, (name, word)
        assert f"attnctl\\-{name}" in (PAGES / "man1/attnctl.1").read_text()


@pytest.mark.parametrize("tool", [["mandoc", "-Tlint"], ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]],
                         ids=["mandoc", "man"])
def test_pages_are_sound(tool):
    need(tool[0])
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    for path in pages():
        done = subprocess.run([*tool, path], capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)
        said = done.stderr + (done.stdout if tool[0] == "mandoc" else "")
        assert (done.returncode, said) == (0, ""), path.name


def test_a_page_reads_as_it_should():
    need("man")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""}
    page = subprocess.run(["man", "-l", PAGES / "man1/attnctl-plan.1"], capture_output=True, text=True, env=environment,
                          timeout=TIMEOUT_S).stdout
    assert "attnctl plan get [JOB] | set JOB KEY=VALUE... | reset JOB [OPTIONS]" in page
    assert "attnctl plan set 'gpt-*' every=10 layers='decoder.*.self' heads=0-3,7" in page
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
        assert f"\n{heading}\n" in page


# the shells

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], f". {SCRIPTS}/attnctl.bash"),
    "zsh": (["zsh", "-f", "-i"], f"bindkey -e; fpath=({SCRIPTS} $fpath); autoload -U compinit; compinit -u -D"),
}


@pytest.fixture(params=SHELLS)
def shell(request, tmp_path):
    command, setup = SHELLS[request.param]
    need(command[0])
    (tmp_path / "run.rec").touch()
    (tmp_path / "with blank.rec").touch()
    shell = Shell(command, setup, Path(ATTNCTL).parent, tmp_path, ATTND_ADDRESS="/nobody")
    yield shell
    shell.close()


def test_a_shell_completes_what_is_typed(shell):
    for line, expected in (("attnctl summ", "attnctl summary "),
                           ("attnctl --json summ", "attnctl --json summary "),
                           ("attnctl summary --stack=d", "attnctl summary --stack=decoder "),
                           ("attnctl summary --stack e", "attnctl summary --stack encoder "),
                           ("attnctl summary --metric entropy_n", "attnctl summary --metric entropy_normalized "),
                           ("attnctl --endpoint tcp://[::1]:5572 tai", "attnctl --endpoint tcp://[::1]:5572 tail "),
                           ("attnctl check r", "attnctl check run.rec "),
                           ("attnctl check w", "attnctl check with\\ blank.rec "),
                           ("attnctl check --rules=r", "attnctl check --rules=run.rec "),
                           ("attnctl plan set gpt ev", "attnctl plan set gpt every="),
                           ("attnctl tail su", "attnctl tail summary/"),
                           ("attnctl analyze --groups core,sp", "attnctl analyze --groups core,spectrum "),
                           ("attnctl summary gp", "attnctl summary gp")):
        shell.assert_completes(line, expected)


def test_fish_completes_what_is_typed(tmp_path):
    need("fish")
    Path("run.rec").touch()
    environment = {**os.environ, "PATH": f"{Path(ATTNCTL).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
                   "ATTND_ADDRESS": "/nobody"}
    for line, expected in (("attnctl summ", "summary\tthe newest window of a job, per layer and head\n"),
                           ("attnctl --json help re", "record\twrite a job's messages to a file, until Ctrl-C\n"
                                                      "replay\tsend a recording to attnd again, as the training job did\n"),
                           ("attnctl summary --stack=", "--stack=decoder\n--stack=encoder\n"),
                           ("attnctl check r", "run.rec\n"),
                           ("attnctl check --rules=r", "--rules=run.rec\n"),
                           ("attnctl plan set gpt ev", "every=\n"),
                           ("attnctl summary g", "")):
        done = subprocess.run(["fish", "--no-config", "-c", f"source {SCRIPTS}/attnctl.fish; complete -C'{line}'"],
                              env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert (done.stdout, done.stderr) == (expected, ""), line


@pytest.mark.parametrize("command, script", [(["bash", "-n"], "attnctl.bash"), (["zsh", "-n"], "_attnctl"),
                                             (["fish", "--no-execute"], "attnctl.fish")])
def test_scripts_are_sound(command, script):
    need(command[0])
    done = subprocess.run([*command, SCRIPTS / script], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_starts_no_thread_per_processor():
    """What it is linked with would: main, the two of ZeroMQ and the one that drains its socket are all; and it may run
    where its parent may."""
    process = subprocess.Popen([ATTNCTL, "tail", "--address", "/tmp/attnd-nobody-is-here"])
    status = Path(f"/proc/{process.pid}/status")
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not re.search("\nThreads:\t([4-9]|\\d\\d)", status.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        allowed = re.search(r"Cpus_allowed:.*", status.read_text())[0]
        assert allowed == re.search(r"Cpus_allowed:.*", Path("/proc/self/status").read_text())[0]
        if "ATTND_TEST_SANITIZED" not in os.environ:
            time.sleep(0.05)
            assert "\nThreads:\t4\n" in status.read_text()
    finally:
        process.kill()
        process.wait()
