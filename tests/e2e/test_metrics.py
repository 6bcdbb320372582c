# SPDX-License-Identifier: MIT
"""/metrics: both formats are valid by others' judgement, and what they say is what attnd says elsewhere."""
import math
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from harness import PATIENCE_S, Attnd, Trainer, softmax_maps, wait_until
from web import Web

OPENMETRICS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75," \
              "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"  # what Prometheus sends


class Scraped(Web):
    def scrape(self, **headers):
        response, body = self.get("/metrics", **headers)
        assert response.status == 200
        return response.headers["Content-Type"], body.decode()

    def samples(self):
        """Of text 0.0.4: (name, labels) to value."""
        found = {}
        for line in self.scrape()[1].splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line).groups()
            labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")))
            assert (name, labels) not in found, f"{name} {labels} twice"
            found[name, labels] = float(value)
        return found

    def value(self, name, **labels):
        return self.samples().get((name, tuple(sorted(labels.items()))))


def layer_labels(layer, job="gpt"):
    return dict(job=job, stack="decoder", layer=str(layer), site="self")


def train(daemon, rng, job="gpt", steps=6, layers=2, heads=4):
    trainer = Trainer(daemon, job)
    daemon.trainers.append(trainer)  # one that is let go of closes its socket
    for step in range(steps):
        for layer in range(layers):
            trainer.attention(softmax_maps(rng, 2, heads, 12, 12, causal=True), layer=layer, step=step, causal=True)
    return trainer


def shown(daemon, layer=0, job="gpt", count=1):
    """Results come to the page by a queue of their own."""
    return wait_until(lambda: daemon.value("attnd_attention_messages_total", **layer_labels(layer, job)) == count or None,
                      f"{count} messages of layer {layer} on the page")


@pytest.fixture
def scraped():
    return Scraped("window.unit=step", "window.rank_grace=0")


@pytest.fixture(scope="module")
def trained():
    """One that has shown a run of two layers and six steps, for tests that change nothing."""
    daemon = Scraped("window.unit=step", "window.rank_grace=0")
    Attnd.all.remove(daemon)  # it outlives a test
    train(daemon, np.random.default_rng(20260))
    daemon.settled(12)
    for layer in range(2):
        shown(daemon, layer, count=6)
    yield daemon
    daemon.close()
    daemon.discard()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_nothing_to_say(trained):
    check = subprocess.run(["promtool", "check", "metrics"], input=trained.scrape()[1].encode(), capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_openmetrics_is_strict_and_says_the_same(trained):
    parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="Debian: python3-prometheus-client")
    kind, text = trained.scrape(Accept=OPENMETRICS)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    parsed = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
              for family in parser.text_string_to_metric_families(text) for sample in family.samples}
    plain = trained.samples()
    assert {key[0] for key in parsed} == {key[0] for key in plain}
    attention = [key for key in plain if key[0].startswith("attnd_attention")]
    assert len(attention) > 40 and all(parsed[key] == plain[key] for key in attention)


@pytest.mark.parametrize("accept, openmetrics", [
    (None, False), ("*/*", False), ("text/plain", False), (OPENMETRICS, True), ("application/openmetrics-text", True),
    ("application/openmetrics-text;q=0", False), ("application/openmetrics-text; q=0.3, text/plain; q=0.5", False),
    ("application/openmetrics-text;q=x,", False), (",;q=,;;,", False), ("a" * 2000, False)])
def test_the_format_is_what_is_accepted(trained, accept, openmetrics):
    kind, text = trained.scrape(**{"Accept": accept} if accept else {})
    assert ("openmetrics" in kind) == openmetrics == text.endswith("# EOF\n")


def test_layers_say_what_live_says(trained):
    for layer in range(2):
        (live,) = trained.call("live", job="gpt", layer=layer)
        samples, labels = trained.samples(), tuple(sorted(layer_labels(layer).items()))
        for metric, name in (("entropy_normalized", "entropy{}_ratio"), ("first_token", "first_token{}_ratio"),
                             ("confidence", "confidence{}_ratio"), ("effective_keys", "effective_keys{}"),
                             ("mean_distance", "distance{}_tokens"), ("local_mass", "local{}_ratio")):
            values = live["heads"][metric]
            for part, pooled in (("", np.mean), ("_min", np.min), ("_max", np.max)):
                said = samples.get(("attnd_attention_" + name.format(part), labels))
                assert said is None or math.isclose(said, pooled(values), rel_tol=1e-8), (metric, part)
            assert ("attnd_attention_" + name.format(""), labels) in samples
        assert math.isclose(samples["attnd_attention_sink_ratio", labels], live["sink_rate"], rel_tol=1e-8)
        assert samples["attnd_attention_rows_total", labels] == 6 * live["rows"] == 6 * 2 * 4 * 12
        assert math.isclose(samples["attnd_attention_newest_message_timestamp_seconds", labels], live["time_ns"] / 1e9,
                            abs_tol=1e-3)


def test_drift_is_that_of_the_summary(rng):
    daemon = Scraped("window.unit=step", "window.rank_grace=0", "drift.windows=3", "http.metrics_heads=1000")
    train(daemon, rng, steps=8)
    daemon.settled(16)

    def same():
        (summary,) = daemon.call("summary", job="gpt", layer=0)
        shift = np.array([metric["shift"] for metric in summary.get("drift", {}).values()], float)
        said = daemon.value("attnd_attention_drift_shift_max", **layer_labels(0))
        return summary["step"] == 6 and said and math.isclose(said, np.nanmax(abs(shift)), rel_tol=1e-8) and (shift, daemon)

    shift, _ = wait_until(same, "the drift of the last closed window")
    for head in range(4):
        said = daemon.value("attnd_detail_drift_shift", head=str(head), **layer_labels(0))
        assert math.isclose(said, np.nanmax(abs(shift[:, head])), rel_tol=1e-8)


def test_counters_are_those_of_stats(scraped, rng):
    trainer = train(scraped, rng)
    trainer.send(b"tensor/gpt/decoder/0/self/", b"\xc1")
    stats = scraped.settled(13)
    samples = scraped.samples()
    assert samples["attnd_messages_received_total", ()] == stats["received"] == 13
    assert samples["attnd_messages_processed_total", ()] == stats["processed"] == 12
    dropped = {dict(labels)["reason"]: value for (name, labels), value in samples.items()
               if name == "attnd_messages_dropped_total"}
    assert {reason: count for reason, count in dropped.items() if count} == stats["dropped"] == {"header_malformed": 1}
    assert dropped["late"] == 0
    for name in ("processing", "waiting", "computing"):
        assert samples[f"attnd_message_{name}_seconds_count", ()] == 12
        assert samples[f"attnd_message_{name}_seconds_bucket", (("le", "+Inf"),)] == 12
        assert 0 < samples[f"attnd_message_{name}_seconds_sum", ()] < 12 * PATIENCE_S
    assert samples["attnd_in_flight_bytes", ()] == 0 and samples["attnd_history_up", ()] == 1
    assert samples["attnd_http_requests_total", ()] == 0


def test_the_process_is_this_process(scraped):
    samples, pid = scraped.samples(), scraped.process.pid
    assert abs(samples["process_resident_memory_bytes", ()] / 1024 - scraped.rss_kb()) < 8192
    assert abs(samples["process_open_fds", ()] - len(os.listdir(f"/proc/{pid}/fd"))) <= 4
    assert samples["process_max_fds", ()] >= 1024 and 0 <= samples["process_cpu_seconds_total", ()] < PATIENCE_S
    assert 0 <= os.stat(f"/proc/{pid}").st_ctime - samples["process_start_time_seconds", ()] + 2 < 10
    assert samples["process_threads", ()] == len(os.listdir(f"/proc/{pid}/task"))


def test_a_job_and_its_state(scraped, rng):
    trainer = train(scraped, rng)
    shown(scraped, layer=1, count=6)
    assert scraped.value("attnd_training_step", job="gpt") == 5
    assert scraped.value("attnd_training_state", job="gpt", state="active") == 1
    assert scraped.value("attnd_training_info", job="gpt", run=trainer.run.hex()) == 1
    assert scraped.value("attnd_layers") == scraped.value("attnd_layers_exposed") == 2
    trainer.event("bye", step=5)
    wait_until(lambda: scraped.value("attnd_training_state", job="gpt", state="ended") == 1, "the end")
    assert scraped.value("attnd_training_state", job="gpt", state="active") == 0
    assert not [key for key in scraped.samples() if key[0].startswith("attnd_attention")], "numbers of a run that is over"


def test_a_new_run_takes_the_place_of_the_old_one(scraped, rng):
    train(scraped, rng, layers=3)
    shown(scraped, layer=2, count=6)
    second = Trainer(scraped, "gpt")
    second.attention(softmax_maps(rng, 2, 4, 12, 12), layer=0)
    wait_until(lambda: scraped.value("attnd_training_info", job="gpt", run=second.run.hex()), "the new run")
    shown(scraped, layer=0, count=1)
    assert scraped.value("attnd_attention_heads", **layer_labels(2)) is None


def test_alerts_that_fire_are_counted_by_rule(scraped):
    trainer = Trainer(scraped, "gpt")
    one_key = np.zeros((1, 2, 16, 16), np.float32)
    one_key[..., 3] = 1
    for step in range(9):
        trainer.attention(one_key, step=step)
    firing = dict(job="gpt", rule="entropy_collapse", severity="warning")
    wait_until(lambda: scraped.value("attnd_alerts_firing", **firing) == 1, "the collapse")
    assert scraped.value("attnd_attention_entropy_ratio", **layer_labels(0)) == 0
    trainer.event("bye", step=8)
    wait_until(lambda: scraped.value("attnd_alerts_firing", **firing) is None, "the end of it")
    assert scraped.value("attnd_alerts_firing_at_end", **firing) == 1


HOSTILE = ['a"} 1\nevil_metric 1\n#', "back\\slash", "line\nend", "\x00", "üml", "a" * 129, "{job}", "a b", "# EOF"]


def test_hostile_job_names_are_refused_and_odd_ones_are_shown(scraped, rng):
    for name in HOSTILE:
        trainer = Trainer(scraped, name)
        scraped.trainers.append(trainer)
        trainer.attention(softmax_maps(rng, 1, 2, 4, 4))
    odd = ["a" * 128, "_.-", "0", "Up.Down-9_"]
    for name in odd:
        train(scraped, rng, job=name, steps=1, layers=1)
    scraped.settled(len(HOSTILE) + len(odd))
    for name in odd:
        shown(scraped, job=name)
    samples = scraped.samples()
    assert {dict(labels)["job"] for name, labels in samples if name == "attnd_attention_heads"} == set(odd)
    assert not [key for key in samples if not re.match("attnd_|process_", key[0])]


def test_a_config_that_is_refused_shows():
    daemon = Scraped(config="plan: {every: 5}\n")
    assert daemon.value("attnd_config_last_reload_successful") == 1
    first = daemon.value("attnd_config_last_reload_success_timestamp_seconds")
    daemon.rewrite("plan: {evry: 6}\n")
    wait_until(lambda: daemon.value("attnd_config_last_reload_successful") == 0, "the refusal")
    assert daemon.value("attnd_config_last_reload_success_timestamp_seconds") == first
    daemon.rewrite("plan: {every: 6}\n")
    wait_until(lambda: daemon.value("attnd_config_last_reload_successful") == 1, "the better one")
    assert daemon.value("attnd_config_last_reload_success_timestamp_seconds") > first


def test_monitor_answers_what_jobs_answers(trained):
    (job,) = trained.call("monitor")["jobs"]
    (known,) = trained.call("jobs")
    assert all(job[key] == known[key] for key in ("job", "run", "state", "epoch", "step", "world", "ranks", "received",
                                                   "processed", "lost", "dropped"))
    assert (job["runs"], job["layers"], job["firing"]) == (1, 2, [])
    with pytest.raises(RuntimeError, match="argument"):
        trained.call("monitor", layer=0)


def test_monitor_answers_about_the_run_that_is_asked_for(scraped, rng):
    first = Trainer(scraped, "gpt", run=b"1" * 16)
    first.attention(softmax_maps(rng, 1, 2, 4, 4), step=7)
    wait_until(lambda: [job["step"] for job in scraped.call("jobs")] == [7], "the first run's step")
    second = Trainer(scraped, "gpt", run=b"2" * 16)
    second.attention(softmax_maps(rng, 1, 2, 4, 4), step=9)
    wait_until(lambda: {job["step"] for job in scraped.call("jobs")} == {7, 9}, "the second one's")
    (newest,), (asked,) = (scraped.call("monitor", **which)["jobs"] for which in ({}, dict(job="gpt", run="3131")))
    assert (newest["run"], newest["step"]) == ("32" * 16, 9) and (asked["run"], asked["step"]) == ("31" * 16, 7)
    assert asked["runs"] == newest["runs"] == 2 and asked["received"] == 1
    with pytest.raises(RuntimeError, match="run_unknown"):
        scraped.call("monitor", job="gpt", run="33")
