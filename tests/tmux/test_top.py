# SPDX-License-Identifier: MIT
"""attnctl top as a user sees it: what is on the screen, what keys do, and that the terminal is as before afterwards."""
import itertools
import os
import pathlib
import re
import shutil
import signal
import time

import numpy as np
import pytest

from conftest import INTERVAL_S, command
from harness import Attnd, Trainer, sharp_maps, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux: apt install tmux")
STEPS = ("window.unit=step", "window.rank_grace=0", "drift.windows=2")
HEADS = 4
TOKENS = np.arange(16, dtype=np.int32)[None] % 5  # what tells induction from collapse


def send_steps(trainer, sharpness, steps, layers=2):
    for step in steps:
        for layer in range(layers):
            noise = 1 + 0.01 * np.sin(7.0 * step + layer + np.arange(HEADS))
            trainer.attention(sharp_maps(np.asarray(sharpness[layer]) * noise, HEADS), step=step, layer=layer, causal=True, tokens=TOKENS)


def send_well(trainer, *steps):
    """One layer, in which all is well."""
    send_steps(trainer, ([3, 4, 5, 6],), range(*steps), layers=1)


@pytest.fixture
def attnd():
    return Attnd(*STEPS)


@pytest.fixture
def trainer(attnd):
    return Trainer(attnd, "gpt-small")


@pytest.fixture
def collapsed(attnd, trainer):
    """The trainer of a run in which head 3 of layer 1 became uniform and layer 0 collapsed."""
    send_steps(trainer, ([3, 4, 5, 6], [3, 4, 5, 6]), range(6))
    send_steps(trainer, ([60, 70, 80, 90], [3, 4, 5, 0]), range(6, 16))
    attnd.settled(32)
    return trainer


def top_pid(terminal):
    shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
    with open(f"/proc/{shell}/task/{shell}/children") as children:
        return int(children.read().split()[0])


def asked_by_top(attnd):
    """The requests that attnd has had beside those of the test, give or take the same few."""
    return attnd.stats()["requests"] - attnd.request_id


def test_runs_in_trouble_come_first_and_one_is_opened(attnd, collapsed, open_top):
    healthy = Trainer(attnd, "a-healthy-one")
    send_well(healthy, 8)
    for step in range(8):
        healthy.event("log", values={"loss": 4 - step / 4}, step=step)
    attnd.settled(48)
    terminal = open_top(attnd)
    terminal.wait_for(r"^ attnd top  2 runs, 1 in trouble")
    terminal.wait_for(r"lost 0  dropped 0")
    terminal.wait_for(r"^!!>gpt-small +15 .* each query looks at one key: d")
    terminal.wait_for(r"^   a-healthy-one +7 +[▁▂▃▄▅▆▇█]{6} 2\.25 +no alerts, \d+ checks passed")
    assert max(map(len, terminal.lines())) <= 80
    terminal.type("Enter")
    terminal.wait_for(r"^ gpt-small  active  epoch 0 step 15  run [0-9a-f]{8}")
    terminal.wait_for(r"^ !! decoder\.0\.self  entropy_collapse between steps \d+ and 6  \d more \(Tab\)")
    terminal.wait_for(r"^ each query looks at one key: saturated_entropy of decoder\.0\.self")
    terminal.wait_for(r"^ Lower the learning rate or warm up for longer; if it comes back, bound")
    line = terminal.wait_for(r"^   decoder\.0\.self +0\.\d+ +([▁▂▃▄▅▆▇█]{30,})$").group(1)
    assert line[0] > line[-1], "its entropy fell"
    terminal.wait_for(r"^   steps [01] to 1[45]; entropy_normalized from 0\.\d+ to ")
    terminal.wait_for(r"^!!>decoder\.0\.self +0\.\d+ ")
    terminal.type("Escape")
    terminal.wait_for(r"^!!>gpt-small +15 ")


def test_the_heads_of_a_layer_are_opened_and_left(attnd, collapsed, open_top):
    terminal = open_top(attnd, "gpt-small")
    terminal.wait_for("LAYERS, mean of the heads: 2")
    terminal.type("Down", "Enter")
    terminal.wait_for("HEADS: 4")
    terminal.wait_for(r"^!  decoder\.1\.self\.h3 +1 ")
    terminal.type("Escape")
    terminal.wait_for("LAYERS, mean of the heads: 2")


def test_the_run_of_the_command_line_is_shown(attnd, collapsed, open_top):
    first = collapsed.run.hex()
    send_steps(Trainer(attnd, "gpt-small"), ([3, 4, 5, 6], [3, 4, 5, 6]), range(4))
    attnd.settled(40)
    terminal = open_top(attnd, "gpt-small", "--run", first[:12])
    terminal.wait_for(rf"^ gpt-small  active  epoch 0 step 15  run {first[:8]}")
    terminal.wait_for(r"^ !! decoder\.0\.self  entropy_collapse between steps \d+ and 6 ")
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")
    terminal.run(command(attnd, "gpt-small", "--run", "ffff"))
    terminal.wait_for("no such run of this job in memory")


def test_another_metric_is_chosen_by_its_beginning(attnd, collapsed, open_top):
    terminal = open_top(attnd, "gpt-small", "--metric", "confidence")
    terminal.wait_for(r"; confidence from ")
    terminal.type("m")
    terminal.type("-l", "effective_k")
    terminal.wait_for("metric: effective_k_")
    terminal.type("Enter")
    terminal.wait_for(r"; effective_keys from 1")
    terminal.wait_for(r"^   decoder\.1\.self\.h3 +\d+\.?\d* ")


def test_a_filter_shows_the_runs_that_have_it_in_their_name(attnd, open_top):
    for job in ("gpt-small", "gpt-large", "bert"):
        send_well(Trainer(attnd, job), 3)
    terminal = open_top(attnd)
    terminal.wait_for("3 runs, 0 in trouble")
    terminal.type("/")
    terminal.wait_for("/_   Enter keep   Esc clear")
    terminal.type("-l", "GPT")
    terminal.type("Enter")
    terminal.wait_for("filter: GPT")
    assert "gpt-small" in terminal.text() and "bert" not in terminal.text()
    terminal.type("Escape")
    terminal.wait_for("bert")


def test_all_alerts_of_a_run_are_a_tab_away_also_when_it_has_ended(attnd, collapsed, open_top):
    terminal = open_top(attnd, "gpt-small", size=(120, 30))
    terminal.wait_for(r"more \(Tab\)")
    terminal.type("Tab")
    terminal.wait_for(r"^!!>decoder\.0\.self +between steps \d+ and 6 +entropy_collapse: each query looks at one key")
    terminal.wait_for(r"^!  decoder\.1\.self\.h3 +between steps \d+ and 6 +head_uniform: all keys get the same weight again")
    collapsed.event("bye", step=15)
    terminal.wait_for(r"^ gpt-small  ended .* run [0-9a-f]{8}")
    terminal.wait_for(r"below 0\.25 for \d+ captures, when the run ended")


def test_a_run_in_which_nothing_fires_says_so(attnd, trainer, open_top):
    terminal = open_top(attnd, "gpt-small")
    send_well(trainer, 1)
    terminal.wait_for("Not monitoring yet: the first check comes with the first capture")
    send_well(trainer, 1, 8)
    terminal.wait_for(r"^ No alerts at step 7: \d+ checks passed, \d+ not measured$")


def test_a_run_that_ended_before_its_first_window_says_so(attnd, trainer, open_top):
    trainer.event("hello")
    trainer.event("bye")
    terminal = open_top(attnd, "gpt-small")
    terminal.wait_for("The run ended before the first check, which comes with the first capture")


def test_layers_whose_numbers_have_stopped_are_counted_beside_the_checks_that_pass(attnd, trainer, open_top):
    send_steps(trainer, ([3, 4, 5, 6],) * 2, range(3))
    send_well(trainer, 3, 21)
    terminal = open_top(attnd)
    terminal.wait_for(r"no alerts; no numbers of 1 layer$")
    terminal.type("Enter")
    terminal.wait_for(r"^ No alerts at step 20; no numbers of 1 layer: \d+ checks passed, \d+ not measured$")


def test_it_says_how_to_attach_and_goes_on_when_a_job_comes(attnd, open_top):
    terminal = open_top(attnd)
    terminal.wait_for("No job yet. Attach one to a training loop:")
    terminal.wait_for(r'with attnd\.watch\(model, job="gpt-small"\):')
    send_well(Trainer(attnd, "gpt-small"), 3)
    terminal.wait_for(r"^  >gpt-small +2 ")


def test_a_job_that_is_asked_for_is_waited_for(attnd, open_top):
    send_well(Trainer(attnd, "other"), 3)
    terminal = open_top(attnd, "mine")
    terminal.wait_for("attnd knows no job 'mine' yet")
    trainer = Trainer(attnd, "mine")
    trainer.event("hello", layers=[])
    terminal.wait_for("mine has sent nothing that was measured, or")
    send_well(trainer, 3)
    terminal.wait_for(r"decoder\.0\.self +0\.\d+")


def test_numbers_move_unless_paused(attnd, trainer, open_top):
    send_well(trainer, 3)
    terminal = open_top(attnd)
    terminal.wait_for("gpt-small +2 ")
    send_well(trainer, 3, 8)
    terminal.wait_for("gpt-small +7 ")
    terminal.type("p")
    terminal.wait_for("PAUSED: p goes on")
    before, looks_again = asked_by_top(attnd), time.monotonic() + 10 * INTERVAL_S
    send_well(trainer, 8, 10)
    attnd.settled(10)
    wait_until(lambda: time.monotonic() > looks_again, "ten intervals")
    assert re.search("gpt-small +7 ", terminal.text())
    assert asked_by_top(attnd) - before <= 1, "paused top asks nothing but what it was about to"
    terminal.type("p")
    terminal.wait_for("gpt-small +9 ")


def test_it_follows_the_size_of_the_terminal(attnd, open_top):
    trainers = [Trainer(attnd, f"job-{i:02}") for i in range(22)]
    for trainer in trainers:
        trainer.event("hello", layers=[])
    terminal = open_top(attnd)
    terminal.wait_for(r"1-20 of 22$")
    assert len(re.findall(r"job-\d\d", terminal.text())) == 20
    terminal.resize(140, 40)
    terminal.wait_for(r"STATE   STEP")
    terminal.wait_for("job-21")
    terminal.resize(50, 8)
    terminal.wait_for(r"attnctl top needs 60 x 10\nthis is 50 x 8")
    terminal.resize(60, 10)
    terminal.wait_for(r"1-6 of 22$")
    assert max(map(len, terminal.lines())) <= 60


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_an_attnd_that_goes_away_is_noticed_and_found_again(attnd, collapsed, open_top, sig):
    terminal = open_top(attnd, "--timeout", "5")
    terminal.wait_for("gpt-small")
    terminal.type("Enter")
    terminal.wait_for("LAYERS, mean of the heads: 2")
    attnd.process.send_signal(sig)
    terminal.wait_for(r"^ attnd does not answer since [1-9][0-9]* s; trying again")
    assert "decoder.0.self" in terminal.text(), "what is known is still shown"
    if sig == signal.SIGSTOP:
        attnd.process.send_signal(signal.SIGCONT)
    else:
        attnd.process.wait()
        collapsed.wait_forgotten()
        attnd.start()
        collapsed.wait_subscribed()
    terminal.wait_for(r"lost \d+  dropped")
    steps = itertools.count(16)

    def goes_on():  # an attnd that stood still has been forgotten when its last ping was over, or not
        send_steps(collapsed, ([3, 4, 5, 6],) * 2, [next(steps)])
        time.sleep(INTERVAL_S)
        return re.search(r"step (1[6-9]|[2-9]\d|\d{3,}) ", terminal.text())

    wait_until(goes_on, "a later step")
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")


@pytest.mark.parametrize("end", ["q", "C-c", signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT,
                                 signal.SIGUSR1])
def test_the_terminal_is_as_before_however_top_ends(attnd, collapsed, open_terminal, end):
    terminal = open_terminal()
    terminal.run(f"ulimit -c 0; cd {attnd.directory}; stty -a > before; {command(attnd)}; echo \"ended with $?\"; stty -a > after")
    terminal.wait_for(r"^!!>gpt-small")
    assert terminal.is_alternate() and not terminal.shows_cursor()
    if isinstance(end, str):
        terminal.type(end)
    else:
        os.kill(top_pid(terminal), end)
    code = int(terminal.wait_for(r"^ended with (\d+)").group(1))
    fatal = end in (signal.SIGSEGV, signal.SIGABRT, signal.SIGUSR1)
    assert code == (128 + end if fatal else 0)
    wait_until(lambda: not terminal.is_alternate(), "the screen of before")
    assert terminal.shows_cursor()
    assert "in trouble" not in terminal.text()
    after = pathlib.Path(attnd.directory, "after")
    wait_until(lambda: after.exists() and after.read_text(), "what stty says")
    assert pathlib.Path(attnd.directory, "before").read_text() == after.read_text()


def test_it_can_be_stopped_and_continued(attnd, collapsed, open_top):
    terminal = open_top(attnd)
    terminal.wait_for(r"^!!>gpt-small")
    terminal.type("C-z")
    terminal.wait_for(r"Stopped")
    assert not terminal.is_alternate()
    terminal.run("fg")
    terminal.wait_for(r"^!!>gpt-small")
    assert terminal.is_alternate()
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")


def test_without_utf8_everything_is_ascii(attnd, collapsed, open_top):
    terminal = open_top(attnd, "gpt-small", LC_ALL="C")
    terminal.wait_for(r"decoder\.0\.self +0\.\d+ +[.:=+*%@-]{30,}$")
    assert terminal.text().isascii()
    terminal.type("?")
    terminal.wait_for(r"layers or alerts of a run")
    assert terminal.text().isascii()


def test_a_locale_that_is_not_installed_still_says_utf8(attnd, collapsed, open_top):
    terminal = open_top(attnd, "gpt-small", LC_ALL="xx_XX.UTF-8")
    terminal.wait_for(r"decoder\.0\.self +0\.\d+ +[▁▂▃▄▅▆▇█]{30,}$")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}], ids=["plain", "colored"])
def test_no_color_is_respected(attnd, collapsed, open_top, environment):
    terminal = open_top(attnd, **environment)
    terminal.wait_for(r"^!!>gpt-small")
    assert bool(re.search(r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|38|48)[;m]", terminal.text("-e"))) == (not environment)


@pytest.mark.parametrize("term, reason", [
    ("no-such-terminal", "no terminal of that kind is known on this machine"),
    ("dumb", "such a terminal cannot place its cursor")])
def test_a_terminal_that_cannot_do_it_is_refused(attnd, open_terminal, term, reason):
    terminal = open_terminal(120, 24)
    terminal.run(f"TERM={term} {command(attnd)}; echo \"ended with $?\"")
    terminal.wait_for("ended with 2")
    assert f"attnctl: TERM is '{term}': {reason}. Try TERM=xterm-256color" in terminal.text().replace("\n", "")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_waits_and_does_not_spin(attnd, collapsed, open_top):
    """Looking five times a second, at an attnd that is there and at one that is gone."""
    terminal = open_top(attnd, "--timeout", "5")
    terminal.wait_for(r"^!!>gpt-small")
    pid = top_pid(terminal)
    before, began, looks = cpu_seconds(pid), time.monotonic(), asked_by_top(attnd)
    wait_until(lambda: asked_by_top(attnd) >= looks + 10, "ten looks")
    attnd.process.kill()
    terminal.wait_for(r"attnd does not answer since \d+ s")
    assert cpu_seconds(pid) - before < 0.2 * (time.monotonic() - began)


def test_it_ends_with_its_terminal(attnd, collapsed, open_top):
    terminal = open_top(attnd)
    terminal.wait_for(r"^!!>gpt-small")
    pid = top_pid(terminal)
    terminal.close()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") or "zombie" in open(f"/proc/{pid}/status").read(), "its end")


def test_a_rare_look_still_notices_that_attnd_is_gone(attnd, collapsed, open_terminal):
    terminal = open_terminal()
    terminal.run(command(attnd, "--timeout", "5").replace(f"--interval {INTERVAL_S}", "--interval 6"))
    terminal.wait_for(r"^!!>gpt-small")
    attnd.process.kill()
    terminal.wait_for("attnd does not answer since")
    attnd.process.wait()
    attnd.start()
    terminal.wait_for(r"lost \d+  dropped")
