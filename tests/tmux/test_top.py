# SPDX-License-Identifier: MIT
"""attnctl top as a user sees it: what is on the screen, what keys do, and that the terminal is as before afterwards."""
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from conftest import INTERVAL_S
from harness import Attnd, Trainer, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux: apt install tmux")
STEPS = ("window.unit=step", "window.rank_grace=0", "drift.windows=2")
HEADS, T = 4, 16


def maps(sharpness):
    """Causal attention [1, HEADS, T, T], one sharpness per head: 0 looks at everything alike, 50 at one key."""
    logits = np.random.default_rng(3).permuted(np.tile(np.arange(T, dtype=float), (1, HEADS, T, 1)), axis=-1)
    logits = logits * np.reshape(np.broadcast_to(sharpness, HEADS), (1, HEADS, 1, 1)) / T
    logits = np.where(np.arange(T) > np.arange(T)[:, None], -np.inf, logits)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def send_steps(trainer, sharpness, steps, layers=2):
    for step in steps:
        for layer in range(layers):
            noise = 1 + 0.01 * np.sin(7.0 * step + layer + np.arange(HEADS))
            trainer.attention(maps(np.asarray(sharpness[layer]) * noise), step=step, layer=layer, causal=True)


def collapsed(attnd, job="gpt-small"):
    """A run in which head 3 of layer 1 became uniform and layer 0 collapsed."""
    trainer = Trainer(attnd, job)
    send_steps(trainer, ([3, 4, 5, 6], [3, 4, 5, 6]), range(6))
    send_steps(trainer, ([60, 70, 80, 90], [3, 4, 5, 0]), range(6, 16))
    attnd.settled(32)
    return trainer


def rows(terminal):
    """Names of the heads in the table, from the top."""
    return re.findall(r"^>?\s*[!i]*\s+((?:en|de)coder\.\S+) +-?\d", terminal.text(), re.MULTILINE)


def top_pid(terminal):
    shell = terminal.tmux("display-message", "-p", "#{pane_pid}").strip()
    with open(f"/proc/{shell}/task/{shell}/children") as children:
        return int(children.read().split()[0])


def asked_by_top(attnd):
    """The requests that attnd has had beside those of the test, give or take the same few."""
    return attnd.stats()["requests"] - attnd.request_id


def test_heads_trends_and_alerts_are_shown(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "gpt-small"))
    terminal.wait_for(r"attnd top  gpt-small  run [0-9a-f]{8}  active")
    terminal.wait_for(r"^ Needs attention at step 1[45]:  !! 1 critical  ! 1 warning$")
    terminal.wait_for(r"^ !! decoder\.0\.self +saturated_entropy +0\.0\d+ +0\.2500 +6 entropy_c")
    terminal.wait_for(r"^ Lower the learning rate or warm up for longer; if it comes back, bound")
    terminal.wait_for(r"lost 0  dropped 0  budget 0% of 512.0 MiB")
    terminal.wait_for(r"entropy_normalized, 8 heads, alerts first, then drift")
    terminal.wait_for(r"STEPS 0-1")
    row = terminal.wait_for(r"^>!! decoder\.0\.self\.h\d +0\.\d+ +\*-\d+\.\d (\S+) +(\S+) +entropy_col").groups()
    assert re.match(r"[▁▂▃▄▅▆▇█]{6,}$", row[0]), row
    assert row[0][0] > row[0][-1], "its entropy fell"
    assert max(map(len, terminal.lines())) <= 80


def test_sorting_and_the_order_of_the_command_line(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--sort", "head"))
    terminal.wait_for("in the model's order")
    assert rows(terminal) == [f"decoder.{layer}.self.h{head}" for layer in range(2) for head in range(4)]
    terminal.type("r")
    terminal.wait_for("from the last layer up")
    assert rows(terminal)[0] == "decoder.1.self.h3"
    terminal.type("s")
    terminal.wait_for("─ sort by ─")
    terminal.type("Home", "Down", "Down", "Enter")
    terminal.wait_for("greatest entropy_normalized first")
    assert rows(terminal)[0] == "decoder.1.self.h3", "the uniform one"
    terminal.type("r")
    terminal.wait_for("least entropy_normalized first")
    assert rows(terminal)[-1] == "decoder.1.self.h3"


def test_the_run_of_the_command_line_is_shown(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    first = collapsed(attnd).run.hex()
    trainer = Trainer(attnd, "gpt-small")
    send_steps(trainer, ([3, 4, 5, 6], [3, 4, 5, 6]), range(4))
    attnd.settled(40)
    terminal.run(command(attnd, "gpt-small", "--run", first[:12]))
    terminal.wait_for(rf"attnd top  gpt-small  run {first[:8]}  active  epoch 0 step 15")
    terminal.wait_for(r"^ !! decoder\.0\.self +saturated_entropy +0\.0\d+ +0\.2500 +6 entropy_c")
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")
    terminal.run(command(attnd, "gpt-small", "--run", "ffff"))
    terminal.wait_for("no such run of this job in memory")


def test_another_metric_is_chosen_from_a_list(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--metric", "confidence"))
    terminal.wait_for(r"confidence, 8 heads")
    terminal.type("m")
    terminal.wait_for("─ metric ─")
    terminal.wait_for("> confidence")
    terminal.type("Home")
    terminal.wait_for("> entropy ")
    terminal.type("Enter")
    terminal.wait_for(r"^ entropy, 8 heads")
    terminal.wait_for(r"decoder\.1\.self\.h3 +[12]\.\d{4} .*[▁▂▃▄▅▆▇█]{6}")


def test_a_filter_shows_what_contains_its_words(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--sort", "head"))
    terminal.wait_for("8 heads")
    terminal.type("/")
    terminal.wait_for("/_   Enter keep   Esc clear")
    terminal.type("-l", "r.1 h3")
    terminal.wait_for("1 of 8 heads")
    terminal.type("Enter")
    terminal.wait_for("filter: r.1 h3")
    assert rows(terminal) == ["decoder.1.self.h3"]
    terminal.type("Escape")
    terminal.wait_for(", 8 heads")


def test_a_head_is_opened_from_its_layer(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--sort", "head"))
    terminal.wait_for("8 heads")
    terminal.type("Tab")
    terminal.wait_for("2 layers")
    terminal.wait_for(r"^>!! decoder\.0\.self +0\.\d+ +[▁▂▃▄▅▆▇█]{4} ")
    terminal.type("Down", "Enter")
    terminal.wait_for("4 of 8 heads")
    terminal.type("End", "Enter")
    terminal.wait_for(r"^ decoder\.1\.self\.h3, \S+, epoch 0 step 15, 64 rows, 0 invalid")
    terminal.wait_for(r"mean of entropy_normalized over steps 0-1")
    terminal.wait_for(r"^> entropy_normalized +1\.0000")
    terminal.wait_for(r"^  confidence +0\.\d+ .*[▁▂▃▄▅▆▇█]{6}")
    terminal.wait_for(r"!  head_uniform since step 6: ")
    terminal.type("Down")
    terminal.wait_for(r"mean of effective_keys over")
    terminal.type("Escape")
    terminal.wait_for("4 of 8 heads")


def test_what_needs_attention_leads_to_its_heads(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal(120, 30)
    trainer = collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for("Needs attention at")
    terminal.type("a")
    terminal.wait_for(r"^>!! decoder\.0\.self +saturated_entropy +0\.0\d+ +0\.2500 +6 [▁▂▃▄▅▆▇█]{6,} +entropy_collapse")
    terminal.wait_for(r"^ saturated_entropy of decoder\.0\.self \(mean of its heads, head \d has the lowest\) is .*\n Heads that look at one key get almost no gradient .*\n Lower the learning rate or warm up for longer")
    terminal.type("End")
    terminal.wait_for(r"^>!  decoder\.1\.self\.h3 .* 0\.9500 +6 .* head_uniform")
    terminal.wait_for(r"^ A head that spreads evenly over all keys")
    terminal.type("Enter")
    terminal.wait_for(r"^ decoder\.1\.self\.h3, ")
    trainer.event("bye", step=15)
    terminal.wait_for(r"run [0-9a-f]{8}  ended ")
    terminal.wait_for(r"^ Needs attention at step 15:  !! 1 critical  ! 1 warning  firing at end")


def test_a_run_in_which_nothing_fires_says_so(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    trainer = Trainer(attnd, "gpt-small")
    terminal.run(command(attnd))
    send_steps(trainer, ([3, 4, 5, 6],), range(1), layers=1)
    terminal.wait_for("Needs attention: not known, no window has been judged yet")
    send_steps(trainer, ([3, 4, 5, 6],), range(1, 8), layers=1)
    terminal.wait_for(r"^ No alerts at step [67]\.  \d+ checks passed, \d+ not measured$")


def test_it_says_how_to_attach_and_goes_on_when_a_job_comes(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    terminal.run(command(attnd))
    terminal.wait_for("No job yet. Attach one to a training loop:")
    terminal.wait_for(r'with attnd\.watch\(model, job="gpt-small"\):')
    send_steps(Trainer(attnd, "gpt-small"), ([3, 4, 5, 6],), range(3), layers=1)
    terminal.wait_for(r"decoder\.0\.self\.h0 +0\.\d+")


def test_a_job_that_is_asked_for_is_waited_for(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    send_steps(Trainer(attnd, "other"), ([3, 4, 5, 6],), range(3), layers=1)
    terminal.run(command(attnd, "mine"))
    terminal.wait_for("attnd knows no job 'mine' yet")
    trainer = Trainer(attnd, "mine")
    trainer.event("hello", layers=[])
    terminal.wait_for("mine has sent nothing that was measured yet")
    send_steps(trainer, ([3, 4, 5, 6],), range(3), layers=1)
    terminal.wait_for(r"decoder\.0\.self\.h0 +0\.\d+")


def test_of_several_jobs_one_is_chosen(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    first, second = Trainer(attnd, "first"), Trainer(attnd, "second")
    send_steps(first, ([3, 4, 5, 6],), range(3), layers=1)
    send_steps(second, ([3, 4, 5, 6],), range(5), layers=1)
    wait_until(lambda: len(attnd.call("jobs")) == 2, "two jobs")
    terminal.run(command(attnd))
    names = re.findall(r"^>? *(first|second) ", terminal.wait_for(r"^>(.*\n).*(first|second) .*").string, re.MULTILINE)
    assert sorted(names) == ["first", "second"]
    terminal.type("Down", "Enter")
    terminal.wait_for(rf"attnd top  {names[1]}  run")
    terminal.wait_for(r"decoder\.0\.self\.h0 +0\.\d+")
    terminal.type("J")
    terminal.wait_for(rf"^> {names[1]} ")


def test_numbers_move_unless_paused(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    trainer = Trainer(attnd, "gpt-small")
    send_steps(trainer, ([3, 4, 5, 6],), range(3), layers=1)
    terminal.run(command(attnd))
    terminal.wait_for("epoch 0 step 2 ")
    send_steps(trainer, ([3, 4, 5, 6],), range(3, 8), layers=1)
    terminal.wait_for("epoch 0 step 7 ")
    terminal.type("p")
    terminal.wait_for("PAUSED: p goes on")
    before, looks_again = asked_by_top(attnd), time.monotonic() + 10 * INTERVAL_S
    send_steps(trainer, ([3, 4, 5, 6],), range(8, 10), layers=1)
    attnd.settled(10)
    wait_until(lambda: time.monotonic() > looks_again, "ten intervals")
    assert "epoch 0 step 7 " in terminal.text()
    assert asked_by_top(attnd) - before <= 1, "paused top asks nothing but what it was about to"
    terminal.type("p")
    terminal.wait_for("epoch 0 step 9 ")


def test_without_history_trends_are_what_top_has_seen(open_terminal, command):
    attnd, terminal = Attnd(*STEPS, "history.enabled=false"), open_terminal()
    trainer = Trainer(attnd, "gpt-small")
    send_steps(trainer, ([3, 4, 5, 6],), range(1), layers=1)
    terminal.run(command(attnd, "--sort", "head"))
    terminal.wait_for("SEEN SO FAR")
    for step in range(1, 5):
        send_steps(trainer, ([3, 4, 5, 6 + step],), range(step, step + 1), layers=1)
        terminal.wait_for(f"epoch 0 step {step} ")
    terminal.wait_for(r"decoder\.0\.self\.h3 +0\.\d+ +\S+ +[▁▂▃▄▅▆▇█]{3}")


def test_it_follows_the_size_of_the_terminal(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for("PATTERN")
    terminal.resize(140, 40)
    terminal.wait_for(r"NOW +WINDOW +SHIFT")
    terminal.wait_for(r"1-8 of 8$")
    terminal.resize(50, 8)
    terminal.wait_for(r"attnctl top needs 60 x 10\nthis is 50 x 8")
    terminal.resize(60, 10)
    terminal.wait_for(r"1-2 of 8$")
    assert max(map(len, terminal.lines())) <= 60
    terminal.resize(200, 50)
    terminal.wait_for(r"entropy_collapse since step 6$")


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_an_attnd_that_goes_away_is_noticed_and_found_again(open_terminal, command, sig):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    trainer = collapsed(attnd)
    terminal.run(command(attnd, "--timeout", "5"))
    terminal.wait_for("8 heads")
    attnd.process.send_signal(sig)
    terminal.wait_for(r"^ attnd does not answer since [1-9][0-9]* s; trying again")
    assert "decoder.0.self.h0" in terminal.text(), "what is known is still shown"
    if sig == signal.SIGSTOP:
        attnd.process.send_signal(signal.SIGCONT)
    else:
        attnd.process.wait()
        trainer.wait_forgotten()
        attnd.start()
        trainer.wait_subscribed()
    terminal.wait_for(r"lost \d+  dropped")
    send_steps(trainer, ([3, 4, 5, 6],) * 2, range(16, 18))
    terminal.wait_for("step 17 ")
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")


@pytest.mark.parametrize("end", ["q", "C-c", signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT,
                                 signal.SIGUSR1])
def test_the_terminal_is_as_before_however_top_ends(open_terminal, command, end):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(f"ulimit -c 0; cd {attnd.directory}; stty -a > before; {command(attnd)}; echo \"ended with $?\"; stty -a > after")
    terminal.wait_for("8 heads")
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
    assert "8 heads" not in terminal.text()
    wait_until(lambda: os.path.exists(os.path.join(attnd.directory, "after")), "stty")
    wait_until(lambda: os.path.getsize(os.path.join(attnd.directory, "after")), "its output")
    with open(os.path.join(attnd.directory, "before")) as before, open(os.path.join(attnd.directory, "after")) as after:
        assert before.read() == after.read()


def test_it_can_be_stopped_and_continued(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for("8 heads")
    terminal.type("C-z")
    terminal.wait_for(r"Stopped")
    assert not terminal.is_alternate()
    terminal.run("fg")
    terminal.wait_for("8 heads")
    assert terminal.is_alternate()
    terminal.type("q")
    terminal.wait_for(r"^[#$] ?$")


def test_without_utf8_everything_is_ascii(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal(LC_ALL="C")
    collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for(r"decoder\.0\.self\.h\d +0\.\d+ +\*-\d+\.\d [.:=+*%@-]{6,} ")
    assert terminal.text().isascii()
    terminal.type("?")
    terminal.wait_for(r"\+- keys -")
    assert terminal.text().isascii()


def test_a_locale_that_is_not_installed_still_says_utf8(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal(LC_ALL="xx_XX.UTF-8")
    collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for(r"decoder\.0\.self\.h\d +0\.\d+ +\*-\d+\.\d [▁▂▃▄▅▆▇█]{6,}")


def test_no_color_is_respected(open_terminal, command):
    attnd, plain, colored = Attnd(*STEPS), open_terminal(NO_COLOR="1"), open_terminal()
    collapsed(attnd)
    shown = {}
    for name, terminal in (("plain", plain), ("colored", colored)):
        terminal.run(command(attnd))
        terminal.wait_for(r"^>!! decoder\.0\.self\.h\d")
        shown[name] = terminal.text("-e")
    color = r"\x1b\[[0-9;]*\b(3[0-7]|4[0-7]|38|48)[;m]"
    assert re.search(color, shown["colored"])
    assert not re.search(color, shown["plain"])


@pytest.mark.parametrize("term, reason", [
    ("no-such-terminal", "no terminal of that kind is known on this machine"),
    ("dumb", "such a terminal cannot place its cursor")])
def test_a_terminal_that_cannot_do_it_is_refused(open_terminal, command, term, reason):
    attnd, terminal = Attnd(*STEPS), open_terminal(120, 24)
    terminal.run(f"TERM={term} {command(attnd)}; echo \"ended with $?\"")
    terminal.wait_for("ended with 2")
    assert f"attnctl: TERM is '{term}': {reason}. Try TERM=xterm-256color" in terminal.text().replace("\n", "")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_waits_and_does_not_spin(open_terminal, command):
    """Looking five times a second, at an attnd that is there and at one that is gone."""
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--timeout", "5"))
    terminal.wait_for("8 heads")
    pid = top_pid(terminal)
    before, began, looks = cpu_seconds(pid), time.monotonic(), asked_by_top(attnd)
    wait_until(lambda: asked_by_top(attnd) >= looks + 10, "ten looks")
    attnd.process.kill()
    terminal.wait_for(r"attnd does not answer since \d+ s")
    assert cpu_seconds(pid) - before < 0.2 * (time.monotonic() - began)


def test_it_ends_with_its_terminal(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd))
    terminal.wait_for("8 heads")
    pid = top_pid(terminal)
    terminal.close()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") or "zombie" in open(f"/proc/{pid}/status").read(), "its end")


def test_a_rare_look_still_notices_that_attnd_is_gone(open_terminal, command):
    attnd, terminal = Attnd(*STEPS), open_terminal()
    collapsed(attnd)
    terminal.run(command(attnd, "--timeout", "5").replace(f"--interval {INTERVAL_S}", "--interval 6"))
    terminal.wait_for("8 heads")
    attnd.process.kill()
    terminal.wait_for("attnd does not answer since")
    attnd.process.wait()
    attnd.start()
    terminal.wait_for(r"lost \d+  dropped")
