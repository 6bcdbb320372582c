# SPDX-License-Identifier: MIT
"""Which run is shown, since when, and whether it is alive; views that wait for what is not there yet; moments in the address."""
import time

import numpy as np
import pytest
from conftest import module_text
from harness import Trainer, began, softmax_maps, wait_until
from test_page import shown

HEADS, T = 2, 8
SETTINGS = ("window.rank_grace=0", "http.live_interval=0s")
SOON = "rules: {entropy_collapse: {for: 2}}\n"


def one_key():
    """Every query looks at the second key alone."""
    weights = np.zeros((1, HEADS, T, T), np.float32)
    weights[..., 1] = 1
    return weights


def maps(seed=1):
    return softmax_maps(np.random.default_rng(seed), 1, HEADS, T, T)


def publish(trainer, steps, layers=1, weights=None, **keys):
    for step in steps:
        for layer in range(layers):
            trainer.attention(maps(step) if weights is None else weights, layer=layer, step=step, **keys)


def runs_of(site, job):
    """Those in the history."""
    return (site.api("runs", job=job, or_null=1) or {"runs": []})["runs"]


def end(site, trainer, step):
    trainer.event("bye", step=step)
    hex_digits = trainer.run.hex()
    wait_until(lambda: any(run["run"] == hex_digits and run["state"] == "ended" for run in runs_of(site, trainer.job)), "the end of the run in the history")


def windows(site, job):
    """The last steps of those in the history."""
    return (site.api("grid", job=job, or_null=1) or {"windows": {"last": []}})["windows"]["last"]


def cells(page):
    return page.count(".heat .cell")


def row_of(place, page, job, run=""):
    """The row of a run in the list of all: texts by the names of columns. The list is shown then."""
    if page.hash() != "#/":
        page.open(place, "#/").ready()
    wait_until(lambda: page.texts(".home tbody tr"), "the list of runs")
    heads = page.texts(".home th")
    (row,) = [row for row in page.rows(".home tbody tr") if row[1] in (job, f"{job} {run[:8]}")]
    return dict(zip(heads, row))


@pytest.fixture(scope="module")
def place(module_site):
    """Windows of a step each."""
    return module_site("window.unit=step", "window.length=1", "window.every=1", *SETTINGS, config=SOON)


@pytest.fixture(scope="module")
def twice(place):
    """A run of four layers that has ended, and one of two that goes on, as [digits of the first, of the second]."""
    first = Trainer(place.daemon, "twice")
    publish(first, range(3), layers=4)
    end(place, first, 2)
    second = Trainer(place.daemon, "twice")
    publish(second, range(4), layers=2)
    wait_until(lambda: len(place.api("live", job="twice", run=second.run.hex(), or_null=1) or []) == 2, "both layers")
    return [first.run.hex(), second.run.hex(), second]


def test_each_run_shows_its_own_layers_alone(place, twice, page):
    first, second, trainer = twice
    for run, layers in (("", 2), (first, 4), (second, 2), (first[:8], 4)):
        page.open(place, f"#/overview?job=twice&run={run}").ready()
        assert cells(page) == layers * HEADS, run
    page.open(place, f"#/overview?job=twice&run={first}").ready()
    publish(trainer, [4], layers=2)
    wait_until(lambda: place.api("live", job="twice", run=second)[0]["step"] == 4, "the other run's step")
    assert cells(page) == 4 * HEADS and "step 2" in page.text("#where")
    wait_until(lambda: row_of(place, page, "twice", second)["step"] == "4", "its step in the list")


def test_an_unknown_run_is_said_to_be_unknown(place, twice, page):
    page.open(place, "#/overview?job=twice&run=ffffffff")
    wait_until(lambda: "twice has no run ffffffff" in page.text("main"), "what is wrong")
    assert any(text.startswith(twice[0][:8]) for text in page.texts("main a"))


def test_of_two_runs_at_once_the_one_that_goes_on_is_shown(place, page):
    older, newer = (Trainer(place.daemon, "both") for _ in range(2))
    publish(older, range(3))
    wait_until(lambda: windows(place, "both"), "the older run")
    publish(newer, range(3), layers=2)

    def shows(trainer, count):
        chosen = page.js("return document.querySelector('#run').selectedOptions[0]?.textContent ?? ''")
        return cells(page) == count and trainer.run.hex()[:8] in chosen
    page.open(place, "#/overview?job=both").ready()
    wait_until(lambda: shows(newer, 2 * HEADS), "the newest that is active")
    publish(older, [3])
    wait_until(lambda: any((one["run"], one["step"]) == (older.run.hex(), 3) for one in place.api("jobs")), "the older one's next step")
    assert shows(newer, 2 * HEADS)
    end(place, newer, 2)
    wait_until(lambda: shows(older, HEADS), "the one that goes on")
    end(place, older, 3)
    page.open(place, "#/overview?job=both").ready()
    wait_until(lambda: shows(older, HEADS), "the one that ended last")


def test_lists_say_when_runs_began(place, twice, page):
    page.open(place, "#/overview?job=twice").ready()
    publish(twice[2], [5, 6], layers=2)
    runs = wait_until(lambda: (lambda runs: len(runs) == 2 and runs)(runs_of(place, "twice")), "both runs in the history")
    for run in runs:
        began = page.js("return new Date(arguments[0] / 1e6).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'})", run["first_ns"])
        wait_until(lambda: row_of(place, page, "twice", run["run"])["began"] == began, "when it began")
        assert any(text.startswith(f"{run['run'][:8]}, {began} ") for text in page.texts("#run option"))


def test_a_run_that_is_not_in_the_history_yet_says_when_it_began_once_it_is(place, page):
    trainer = Trainer(place.daemon, "young")
    publish(trainer, [0])
    wait_until(lambda: place.api("live", job="young", or_null=1), "its numbers")
    assert row_of(place, page, "young")["began"] == "" or runs_of(place, "young")  # a checkpoint may have come
    publish(trainer, [1, 2])
    wait_until(lambda: row_of(place, page, "young")["began"] != "", "when it began")


def test_a_job_that_comes_later_is_shown_when_it_comes(place, page):
    page.open(place, "#/overview?job=future")
    wait_until(lambda: "does not know a job named future" in page.text("main"), "that there is none")
    publish(Trainer(place.daemon, "future"), [0])
    wait_until(lambda: cells(page) == HEADS, "the job")


@pytest.mark.parametrize("view", ["overview", "layer", "head", "model", "tokens"])
def test_views_heal_with_the_first_layer(place, page, view):
    trainer = Trainer(place.daemon, f"late-{view}")
    trainer.event("hello")
    wait_until(lambda: any(job["job"] == trainer.job for job in place.api("jobs")), "the job")
    page.open(place, f"#/{view}?job={trainer.job}")
    wait_until(lambda: "measured yet" in page.text("main"), "that there is nothing yet")
    publish(trainer, [0], layers=2)
    wait_until(lambda: page.count("main svg") > 0, "the first layer")
    assert "measured yet" not in page.text("main")


def test_a_job_whose_captures_are_all_dropped_is_no_job_that_captures_nothing(place, page):
    trainer = Trainer(place.daemon, "all-dropped")
    trainer.event("hello", dropped_total=7)
    wait_until(lambda: any(job["job"] == trainer.job and job["dropped"].get("source") for job in place.api("jobs")),
               "the losses")
    page.open(place, f"#/overview?job={trainer.job}")
    wait_until(lambda: "measured yet" in page.text("main"), "that there is nothing yet")
    said = page.text("main")
    assert "and 7 of its messages were lost or dropped: attnctl summary all-dropped says why." in said
    assert "every 50th step" not in said


def test_the_skip_link_stays_in_the_view(place, twice, page):
    page.open(place, "#/head?job=twice&layer=1").ready()
    before = page.hash()
    page.js("const skip = document.querySelector('.skip'); skip.focus(); skip.click()")
    assert page.js("return document.activeElement.id") == "view" and page.hash() == before
    assert "decoder.1.self.h0" in page.texts("main h2")


@pytest.mark.parametrize("job, last, firing", [("falls", one_key, True), ("recovers", maps, False)])
def test_what_fires_at_the_end_is_what_had_not_been_resolved(place, page, job, last, firing):
    trainer = Trainer(place.daemon, job)
    publish(trainer, range(2))
    publish(trainer, range(2, 7), weights=one_key())
    publish(trainer, [7], weights=last())
    end(place, trainer, 7)
    page.open(place, f"#/overview?job={job}").ready()
    wait_until(lambda: "at the end of the run" in page.text(".attention"), "the verdict")
    rules = page.texts(".attention .trouble header b")
    assert ("entropy_collapse" in rules) == firing
    assert any("entropy_collapse" in text for text in page.texts(".alerts li.resolved")) == (not firing)
    alerts = place.api("verdict", job=job)["alerts"]
    said = f"warning decoder.0.self {began(alerts[0])}: each query looks at one key" if firing else "No alerts"
    assert not firing or alerts[0]["since"][1] == 2
    wait_until(lambda: row_of(place, page, job)["verdict"].startswith(said), "its sentence in the list")


@pytest.mark.parametrize("is_over", [False, True])
def test_of_two_alerts_list_and_page_name_the_one_that_attnd_names_first(place, page, is_over):
    """Not the one that began first: a NaN from step 6 on comes before heads that look at one key since step 2."""
    trainer, broken = Trainer(place.daemon, f"two.{is_over}"), maps()
    broken[:, 1, 3] = np.nan
    publish(trainer, range(2), layers=2)
    for step in range(2, 9):
        trainer.attention(one_key(), layer=0, step=step)
        trainer.attention(maps(step) if step < 6 else broken, layer=1, step=step)
    if is_over:
        end(place, trainer, 8)

    def names():
        answer = place.api("verdict", job=trainer.job, or_null=1)
        return {alert["rule"] for alert in answer["alerts"]} if answer else set()
    wait_until(lambda: {"first_invalid", "entropy_collapse"} <= names(), "both alerts")
    first = place.api("verdict", job=trainer.job)["alerts"][0]
    assert (first["rule"], first["since"][1]) == ("first_invalid", 6)
    wait_until(lambda: row_of(place, page, trainer.job)["verdict"].startswith("critical decoder.1.self.h1 between steps 5 and 6: "), "its sentence in the list")
    page.open(place, f"#/overview?job={trainer.job}").ready()
    wait_until(lambda: page.texts(".attention .trouble b")[:1] == ["first_invalid"], "the verdict")


def test_what_a_job_dropped_itself_is_in_the_table(place, page):
    trainer = Trainer(place.daemon, "dropping")
    publish(trainer, [0])
    trainer.event("hello", dropped_total=7)
    trainer.event("hello", dropped_total=7, seq=0)  # of two processes with one rank
    for _ in range(2):
        trainer.event("log", values={"loss": 2.5}, reliable=True, seq=0)  # sent again on the reliable lane, which is no loss
    wait_until(lambda: any(job["dropped"] == {"seq_duplicate": 1, "repeated": 1, "source": 7} for job in place.daemon.call("jobs")), "the total")
    wait_until(lambda: row_of(place, page, "dropping")["lost"] == "8", "the drops in the list")
    (received,) = (job["received"] for job in place.daemon.call("jobs") if job["job"] == "dropping")
    titles, messages = page.js("return [...document.querySelectorAll('.home .lost span')].map((cell) => cell.title)"), f"{received - 1} messages"
    parts = (messages, "7 source", "1 seq_duplicate", "1 sent again, which is no loss")
    assert any(all(part in title for part in parts) for title in titles), "without what was sent again"


def test_a_silent_run_says_since_when(place, twice, page):
    publish(Trainer(place.daemon, "silent"), [0], time_ns=time.time_ns() - 3600 * 10**9)
    wait_until(lambda: place.api("live", job="silent", or_null=1), "its numbers")
    page.open(place, "#/overview?job=silent").ready()
    assert "last heard" not in page.text("#where"), "the trainer's clock is not attnd's"
    page.js("const {now, parse} = Date; Date.now = () => now() + 571e3; Date.parse = (text) => parse(text) + 571e3")  # both clocks go on
    publish(twice[2], [9], layers=2)
    wait_until(lambda: "last heard 10 min ago" in page.text("#where"), "since when")
    page.screenshot("silent-1440-light")
    page.js("location.hash = '#/'")
    wait_until(lambda: page.texts(".home tbody tr"), "the list")
    assert row_of(place, page, "silent")["state"] == "silent last heard 10 min ago"
    assert row_of(place, page, "twice", twice[1])["state"] == "active", "of one that goes on it is not said"


@pytest.mark.parametrize("state, silent_s, interval_s, said", [
    ("active", 20, None, ""), ("active", 40, None, "last heard 40 s ago"), ("active", 40, 60, ""), ("active", 200, 60, "last heard 3 min ago"),
    ("idle", 7200, 1, "last heard 2 h ago"), ("ended", 7200, 1, "")])
def test_silence_is_measured_by_the_runs_own_pace(page, state, silent_s, interval_s, said):
    assert page.js(
        f"const [state, silent, interval] = arguments, {{silenceOf}} = {module_text('run_text.js')};"
        "return silenceOf({state}, {at: Date.now() - 1000 * silent, interval: interval && 1000 * interval})",
        state, silent_s, interval_s) == said


def test_a_moment_stays_when_the_run_grows(place, page):
    trainer = Trainer(place.daemon, "grows")
    publish(trainer, range(121))
    wait_until(lambda: len(windows(place, "grows")) >= 120, "windows")
    page.open(place, "#/overview?job=grows&at=step100").ready()
    assert page.text(".time").endswith("step 100")
    publish(trainer, range(121, 620))
    wait_until(lambda: page.js("return document.querySelector('.time input').max") == "400", "more windows than the picture has")
    assert page.text(".time").split()[-1] in ("100", "101") and "at=step100" in page.hash()
    assert "visible" in page.js("return [...document.querySelectorAll('.timeline .rule')].map((c) => c.getAttribute('visibility'))")


@pytest.mark.parametrize("wrong", ["foo", "3", "step99999", "constructor"])
def test_a_moment_that_is_none_is_said_to_be_none(place, twice, page, wrong):
    page.open(place, f"#/overview?job=twice&at={wrong}").ready()
    assert f"at={wrong} names no window of this run" in page.text("main") and "undefined" not in page.text("main")
    assert page.text(".time").endswith("live")


def test_what_the_address_has_wrong_is_mended_and_said(place, twice, page):
    page.open(place, "#/constructor")
    wait_until(lambda: page.hash() == "#/home", "the list of runs")
    for view in ("overview", "head", "layer"):
        page.open(place, f"#/{view}?job=twice&metric=none").ready()
        assert "There is no metric named none. This is entropy_normalized." in page.text("main")
    page.open(place, "#/overview?job=twice&metric=none").ready()
    assert "entropy_normalized" in page.text(".heat header") and page.count(".heat .cell.missing") == 0


def test_a_layer_or_a_head_that_is_none_is_said_to_be_none(place, twice, page):
    for view in ("head", "layer", "tokens"):
        page.open(place, f"#/{view}?job=twice&stack=decoder&layer=77&site=self").ready()
        assert "This run has no layer decoder.77.self. This is decoder.0.self. There are: decoder.0.self" in page.text("main"), view
        page.open(place, f"#/{view}?job=twice&layer=0&head=9").ready()
        assert f"decoder.0.self has no head 9. Valid: 0 to {HEADS - 1}." in page.text("main"), view
        page.open(place, f"#/{view}?job=twice&layer=0&head=1").ready()
        assert " has no " not in page.text("main"), view
    page.open(place, "#/head?job=twice&layer=77&head=9").ready()
    page.screenshot("wrong-place-1440-light")
    page.click("main .note a")
    wait_until(lambda: "layer=0" in page.hash() and "head=" not in page.hash(), "a layer that there is")


def test_a_run_without_epochs_is_told_what_to_do(own_site, page):
    site = own_site(*SETTINGS)
    page.open(site)
    wait_until(lambda: "w.epoch_end()" in page.text("main pre"), "how a job is attached")
    trainer = Trainer(site.daemon, "endless")
    publish(trainer, range(5))
    wait_until(lambda: page.texts(".home .run a") == ["endless"], "the job")
    page.open(site, "#/overview?job=endless").ready()
    wait_until(lambda: "checks passed up to step 4" in page.text(".attention"), "when it is judged")
    page.screenshot("no-epochs-1440-light")
    trainer.event("epoch_end", step=5)
    trainer.attention(maps(), epoch=1, step=6)
    trainer.event("epoch_end", epoch=1, step=6)
    wait_until(lambda: page.js("return document.querySelector('.timeline svg') !== null"), "the picture when there are epochs")


def test_a_run_that_ended_before_its_first_window_was_not_monitored(own_site, page):
    site = own_site(*SETTINGS)
    trainer = Trainer(site.daemon, "brief")
    trainer.event("hello", layers=[dict(stack="decoder", layer=0, site="self", heads=HEADS)])
    trainer.event("bye")
    site.daemon.settled(2)
    page.open(site, "#/overview?job=brief").ready()
    wait_until(lambda: "The run ended before the first check" in page.text(".attention"), "that it was not judged")
    assert page.text(".attention h2") == "Not monitored"
    assert "No numbers came in the last captures of decoder.0.self." in page.text(".attention")
    assert page.text(".heat .note") == "brief sent nothing that was measured before it ended."


def through_a_proxy(page, is_so):
    """Requests of the browser have a header of those that forward; attnd's own user needs no token."""
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", dict(headers={"X-Forwarded-For": "192.0.2.1"} if is_so else {}))


def test_a_token_is_asked_for_on_the_page(own_site, page, tmp_path):
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("0123456789abcdefXYZ\n")
    site = own_site(f"http.token_file={tmp_path / 'token'}", *SETTINGS)

    def give(token):
        page.js("document.querySelector('#token-text').value = arguments[0]", token)
        page.click("#token button")

    def is_shown():
        return page.texts(".home .run a") == ["guarded"] and page.text("#connection") == "connected"

    try:
        publish(Trainer(site.daemon, "guarded"), [0])
        page.open(site)
        wait_until(is_shown, "the job, without a token")
        through_a_proxy(page, True)
        page.open(site)
        wait_until(lambda: page.text("#connection") == "token needed", "that a token is needed")
        assert page.js("return document.activeElement.id") == "token-text"
        page.screenshot("token-1440-light")
        give("wrong")
        wait_until(lambda: "does not take this token" in page.text("#token"), "that it is the wrong one")
        give("0123456789abcdefXYZ")
        wait_until(is_shown, "the job")
        assert page.js("return document.getElementById('token').hidden")
        page.js("sessionStorage.clear()")
        page.driver.get("about:blank")
        page.open(site, "#token=0123456789abcdefXYZ")
        wait_until(is_shown, "the job, by a link with the token")
        assert "0123456789abcdefXYZ" not in page.js("return location.href + JSON.stringify(history.state) + document.cookie")
        page.complaints()  # of what was refused
    finally:
        page.js("sessionStorage.clear()")
        through_a_proxy(page, False)


def test_on_a_phone_the_chosen_head_is_below_its_cell(place, twice, page):
    page.open(place, "#/overview?job=twice", width=390, height=844).ready()
    page.keys(".heat svg", "ArrowRight")
    box = page.js("const b = (s) => document.querySelector(s).getBoundingClientRect();"
                  "return [b('.heat').bottom, b('.one-head').top, b('.timeline').bottom, b('.heat').top, b('#where').height]")
    assert box[0] <= box[1] < box[0] + 30 and box[2] < box[3]
    assert box[4] > 10 and "epoch 0 · step" in page.text("#where")


def test_a_run_that_has_ended_is_known_after_a_restart(place, twice, page):
    first = twice[0]
    page.driver.get("about:blank")
    place.daemon.stop()
    place.daemon.start()
    page.open(place, f"#/overview?job=twice&run={first}").ready()
    assert cells(page) == 4 * HEADS
    (known,) = [job for job in place.api("jobs") if job["run"] == first]
    row = row_of(place, page, "twice", first)
    assert (known["state"], row["state"], row["step"], row["lost"]) == ("ended", "ended", "2", "0")


def test_no_column_of_the_list_is_cut_and_names_can_be_told_apart(place, twice, page):
    names = [f"gpt-small-with-a-name-as-long-as-people-give-them-learning-rate-0.0003-seed-{seed:04}" for seed in (17, 18)]
    for name in names:
        long = Trainer(place.daemon, name)
        publish(long, [123456], layers=2)
        end(place, long, 1234567)
    for width in (1440, 1280, 390):
        page.open(place, "#/?search=gpt-small", width=width).ready()
        wait_until(lambda: len(page.texts(".home .run a")) == 2, "the runs")
        page.screenshot(f"runs-{width}-light")
        assert sorted(page.texts(".home .run a")) == ["…-0017", "…-0018"] and page.fits()
        assert page.js("return [...document.querySelectorAll('.home .run a')].every((a) => a.scrollWidth <= a.clientWidth)"), width


@pytest.fixture(scope="module")
def odd(place):
    """Runs that have nothing to show, or what no training should send."""
    named = {"name": "n" * 128, "nothing": "nan", "once": "once", "clock": "clock"}
    for what, job in named.items():
        trainer = Trainer(place.daemon, job)
        steps, more = range(1 if what == "once" else 4), {"time_ns": 4 * 10**18} if what == "clock" else {}  # of the year 2096
        publish(trainer, steps, layers=2, weights=np.full((1, HEADS, T, T), np.nan, np.float32) if what == "nothing" else None, **more)
        if what == "nothing":
            for step in steps:
                trainer.event("log", values={"loss": None}, step=step)
        trainer.event("epoch_end", step=len(steps))
        end(place, trainer, len(steps) - 1)
    return named


@pytest.mark.parametrize("what, width, dark", [
    pytest.param(what, width, dark, marks=() if (what, width) in (("nothing", 1440), ("name", 390)) else pytest.mark.long)
    for what in ("name", "nothing", "once", "clock") for width, dark in ((1440, False), (390, True))])
def test_a_run_with_nothing_sound_in_it_is_drawn_in_all_views(place, odd, page, what, width, dark):
    for view in ("", "overview", "layer", "head", "model", "tokens", "runs"):
        page.open(place, f"#/{view}?job={odd[what]}", width=width, dark=dark).ready()
        page.screenshot(f"odd-{what}-{view}-{width}")
        assert page.fits(), view
        assert not any(word in page.text("body") for word in ("undefined", "[object", "null", "Infinity")), view
    if what == "nothing":
        page.open(place, f"#/overview?job={odd[what]}", width=width, dark=dark).ready()
        wait_until(lambda: "Loss NaN, first at step 0." in page.text(".attention"), "the loss")


def marks(page):
    return page.js("return (document.querySelector('.heat .outline.firing').getAttribute('d') ?? '').length")


@pytest.fixture(scope="module")
def fallen(module_site):
    """Of two layers the first looks at one key only from step 6 on. The run goes on."""
    site = module_site("window.unit=step", "window.length=2", "window.every=2", *SETTINGS, config=SOON)
    trainer = Trainer(site.daemon, "falling")
    for step in range(16):
        for layer in (0, 1):
            trainer.attention(one_key() if layer == 0 and step >= 6 else maps(step), layer=layer, step=step)
    wait_until(lambda: any(alert["rule"] == "entropy_collapse" for alert in site.api("alerts")["firing"]), "the alert")
    wait_until(lambda: len(windows(site, "falling")) >= 7, "the windows")
    return site


def test_a_collapse_shows_where_and_since_when(fallen, page):
    page.open(fallen, "#/overview?job=falling").ready()
    (alert,) = [one for one in fallen.api("alerts", job="falling")["firing"] if one["rule"] == "entropy_collapse"]
    assert (alert["layer"], alert["head"]) == (0, None) and alert["since"][1] >= 6
    text = page.text(".attention")
    assert "entropy_collapse" in text and began(alert) in text and alert["message"].startswith("each query looks at one key: ")
    assert marks(page) > 0
    page.keys(".heat svg", "ArrowRight")
    assert f"entropy_collapse {began(alert)}" in page.text(".columns > .stack:last-child")
    page.slide(0)
    assert marks(page) == 0 and "at other times" in page.text(".alerts header"), "nothing fired at the first window"
    page.open(fallen, "#/head?job=falling&layer=0&head=1").ready()
    assert any("entropy_collapse" in text for text in page.texts(".figure.wide svg .over"))


def test_what_is_left_after_a_restart_and_the_run_that_follows(fallen, page):
    page.open(fallen, "#/overview?job=falling&cell=decoder.0.self.h1").ready()
    first = fallen.api("runs", job="falling")["runs"][0]["run"]
    fallen.daemon.stop()
    wait_until(lambda: page.js("return document.getElementById('connection').dataset.state") == "lost", "that the connection is lost")
    fallen.daemon.start()
    wait_until(lambda: page.text("#connection") == "connected" and cells(page) == 2 * HEADS, "the numbers of the history")
    grid = fallen.api("grid", job="falling")["layers"][0]["values"]
    wait_until(lambda: page.text(".big") == shown(grid[1][-1]), "the number of the last window")
    page.open(fallen, "#/head?job=falling&layer=0&head=1").ready()
    assert "kept in 8 × 8 cells" in page.text(".picture header") and page.texts(".figure.wide svg .line")
    page.open(fallen, "#/overview?job=falling").ready()
    trainer = Trainer(fallen.daemon, "falling")
    trainer.attention(np.full((1, 3, T, T), 1 / T, np.float32), layer=5, step=0)
    wait_until(lambda: cells(page) == 3 and "newest active" in page.text("#run"), "the next run alone")
    assert first[:8] not in page.js("return document.querySelector('#run').selectedOptions[0].textContent")
    page.js("const s = document.getElementById('run'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))", first)
    wait_until(lambda: cells(page) == 2 * HEADS and f"run={first}" in page.hash(), "the run before")
    page.complaints()  # of the time without attnd
