# SPDX-License-Identifier: MIT
"""deploy/prometheus and deploy/grafana: a real Prometheus scrapes a real attnd, and a rule fires on a collapse."""
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

import numpy as np
import pytest
from harness import ATTND, PATIENCE_S, Trainer, free_ports, sharp_maps, softmax_maps, wait_until
from test_metrics import Scraped

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
RULES = PROMETHEUS / "attnd.rules.yml"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
needs_prometheus = pytest.mark.skipif(not (shutil.which("prometheus") and shutil.which("promtool")),
                                      reason="Prometheus is not installed (deploy/deps test)")


def promtool(*arguments):
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, cwd=PROMETHEUS)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


# The files


@needs_prometheus
@pytest.mark.parametrize("words", [("check", "config", "prometheus.yml"), ("test", "rules", "attnd.rules.test.yml")])
def test_the_example_config_is_valid_and_the_rules_pass_their_tests(words):
    assert "SUCCESS" in promtool(*words)


def test_each_rule_has_a_test():
    names = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = set(re.findall(r"alertname: (\w+)\n *exp_alerts:\n", (PROMETHEUS / "attnd.rules.test.yml").read_text()))
    assert len(names) == len(set(names)) and set(names) == tested


def panels():
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield path.stem, panel


def dashboard_expressions():
    """Every query of every panel and variable, with the variables filled in."""
    for uid, panel in panels():
        for target in panel["targets"]:
            yield f"{uid}: {panel['title']}", target["expr"]
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.stem}: ${variable['name']}", re.fullmatch(r"label_values\((\w+), \w+\)",
                                                                        variable["definition"]).group(1)


def fill(expression, instance="a:1", job="gpt"):
    for name, value in (("$__rate_interval", "1m"), ("$instance", instance), ("$job", job)):
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def rule_expressions():
    """Without a YAML library: an expression ends where the next key of its rule begins."""
    for name, text in re.findall(r"- alert: (\w+)\n +expr: (.*?)\n +(?:for|labels):", RULES.read_text(), re.S):
        yield name, text.lstrip("|").strip()


@needs_prometheus
def test_every_expression_of_the_dashboards_parses(tmp_path):
    rules = [f"      - {{record: 'x:y{i}', expr: {json.dumps(fill(expression))}}}"
             for i, (_, expression) in enumerate(dashboard_expressions())]
    path = tmp_path / "expressions.yml"
    path.write_text("groups:\n  - name: expressions\n    rules:\n" + "\n".join(rules) + "\n")
    assert f"{len(rules)} rules found" in promtool("check", "rules", path) and len(rules) > 70


@needs_prometheus
def test_what_came_again_is_not_received(tmp_path):
    series, tests = [], []
    for instance, job, again in (("a:1", "gpt", 30), ("b:1", "new", None)):  # of the other nothing has ever come again
        for kind, of in (("", f'instance="{instance}", job="attnd"'), ("_training", f'instance="{instance}", job="{job}"')):
            series.append((f"attnd{kind}_messages_received_total{{{of}}}", 60))
            series.append((f'attnd{kind}_messages_dropped_total{{{of}, reason="late"}}', 15))
            series += [(f'attnd{kind}_messages_dropped_total{{{of}, reason="repeated"}}', again)] if again else []
        for where, expression in dashboard_expressions():
            if "messages_received_total" in expression:
                labels = "" if "Dropped" in where else f'instance="{instance}", job="{job if "-job" in where else "attnd"}"'
                per_s = (60 - (again or 0)) / 15
                tests.append((fill(expression, instance, job), f"{{{labels}}}", 1 / per_s if "Dropped" in where else per_s))
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"tests": [{
        "interval": "15s", "input_series": [{"series": name, "values": f"0+{each}x40"} for name, each in series],
        "promql_expr_test": [{"expr": expression, "eval_time": "5m", "exp_samples": [{"labels": labels, "value": value}]}
                             for expression, labels, value in tests]}]}))
    assert len(tests) == 8 and "SUCCESS" in promtool("test", "rules", path)


def test_expressions_name_only_metrics_that_there_are():
    has_fleet = "libnats" in subprocess.run(["ldd", ATTND], capture_output=True, text=True, check=True).stdout
    families = set()
    for role in ("off", "node", "hub") if has_fleet else ("off",):
        daemon = Scraped("http.metrics_heads=4", *([f"fleet.role={role}", "fleet.url=nats://127.0.0.1:1"] if role != "off" else []))
        families |= set(re.findall(r"^# TYPE (\S+) (\S+)$", daemon.scrape()[1], re.M))
        daemon.close()
    names = {"up"} | {name + suffix for name, kind in families
                      for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}
    expressions = list(dashboard_expressions()) + list(rule_expressions())
    assert sum("attnd_fleet_" in expression for _, expression in expressions) > 15
    assert len(list(rule_expressions())) == RULES.read_text().count("- alert:")
    for where, expression in expressions:
        used = set(re.findall(r"\b(?:attnd|process)_\w+|\bup\b", re.sub(r'"[^"]*"', "", expression)))
        assert used and used <= names or "Fleet" in where and not has_fleet, (where, used - names)


def test_dashboards_are_what_make_py_writes():
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.dashboards() == {path.name: path.read_text() for path in DASHBOARDS}


def test_dashboards_can_be_provisioned():
    uids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        assert board["uid"] == path.stem and board["id"] is None
        uids.add(board["uid"])
        assert [v["name"] for v in board["templating"]["list"]][0] == "datasource"
        identifiers = [panel["id"] for panel in board["panels"]]
        assert len(identifiers) == len(set(identifiers))
        cells = [(x, y) for p in board["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
                 for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]
        assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap"
    assert uids == {"attnd-pipeline", "attnd-job"}
    for _, panel in panels():
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    datasource = (GRAFANA / "provisioning" / "datasources" / "attnd.yml").read_text()
    assert "uid: attnd-prometheus" in datasource


# A real one


class Prometheus:
    """Scrapes one attnd every second; rules fire without delay."""

    def __init__(self, directory, target):
        self.address = f"127.0.0.1:{free_ports(1)}"
        (directory / "attnd.rules.yml").write_text(re.sub(r"for: \d+m", "for: 1s", RULES.read_text()))
        config = (PROMETHEUS / "prometheus.yml").read_text()
        (directory / "prometheus.yml").write_text(config.replace("15s", "1s").replace("127.0.0.1:5580", target))
        self.log = open(directory / "log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
             f"--web.listen-address={self.address}", "--log.level=warn"], stdout=self.log, stderr=self.log)

    def get(self, path, **parameters):
        url = f"http://{self.address}/api/v1/{path}?" + urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def ready(self):
        try:
            return self.get("targets")["activeTargets"]
        except OSError:
            assert self.process.poll() is None, "prometheus has ended"
            return None

    def firing(self, rule):
        return [alert["labels"] for alert in self.get("alerts")["alerts"]
                if alert["labels"]["alertname"] == rule and alert["state"] == "firing"]

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def watched(tmp_path):
    daemon = Scraped("window.unit=step", "window.rank_grace=0")
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{daemon.port}")
    try:
        wait_until(prometheus.ready, "Prometheus")
        yield daemon, prometheus
    finally:
        prometheus.close()


@needs_prometheus
def test_a_collapse_fires_in_prometheus_and_is_resolved(watched):
    daemon, prometheus = watched
    trainer = Trainer(daemon, "gpt-small")
    layer = 'attnd_attention_entropy_ratio{job="gpt-small",layer="1"}'

    def train(step, sharpness):
        for index, value in enumerate((1, sharpness)):
            trainer.attention(sharp_maps(value, 4, causal=False), layer=index, step=step, tokens=np.arange(16, dtype=np.int32)[None] % 5)

    def entropy():
        result = prometheus.query(layer)
        return float(result[0]["value"][1]) if result else None

    train(0, 1)
    assert wait_until(entropy, "the first scrape") > 0.9
    assert prometheus.firing("AttndAttentionCollapsed") == []
    for step in range(1, 12):
        train(step, 500)
    (labels,) = wait_until(lambda: prometheus.firing("AttndAttentionCollapsed"), "the rule")
    assert {name: labels[name] for name in ("job", "stack", "layer", "site", "severity")} == dict(
        job="gpt-small", stack="decoder", layer="1", site="self", severity="critical")
    (labels,) = wait_until(lambda: prometheus.firing("AttndRuleFiring"), "attnd's own rule")
    assert labels["rule"] == "entropy_collapse" and labels["job"] == "gpt-small"
    for step in range(12, 18):
        train(step, 1)
    wait_until(lambda: not prometheus.firing("AttndAttentionCollapsed"), "the end of the alert")


@needs_prometheus
def test_every_expression_runs_on_what_is_scraped(watched, rng):
    daemon, prometheus = watched
    trainer = Trainer(daemon, "gpt")
    for step in range(8):
        trainer.attention(softmax_maps(rng, 1, 4, 12, 12), layer=0, step=step)
    instance = f"127.0.0.1:{daemon.port}"
    wait_until(lambda: len(prometheus.query("count_over_time(attnd_jobs[1m]) > 2")) == 1, "three scrapes")
    nothing = [where for where, expression in dashboard_expressions()
               if not prometheus.query(fill(expression, instance=instance))]
    # Absent here: no fleet, no token numbers, no drift after 8 windows of learning, nothing dropped, no alert, and no
    # quantile of what has not happened since the first scrape.
    quiet = ("Induction", "Drift", "Dropped", "Alerts that fire", "logit", "Waiting for a worker", "Computing", "Processing",
             "HTTP requests take", "Fleet")
    assert [where for where in nothing if not any(word in where for word in quiet)] == []
    assert prometheus.query('up{job="attnd"}')[0]["value"][1] == "1"
    assert not [alert for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]
