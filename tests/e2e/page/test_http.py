# SPDX-License-Identifier: MIT
"""HTTP: the API is the control methods as JSON; the page, its port, and what says whether attnd is well."""
import base64
import gzip
import hashlib
import json
import os
import re
import resource
import select
import socket
import sqlite3
import struct
import subprocess
import time
import urllib.request

import pytest
from harness import ATTND, PATIENCE_S, SANITIZED, Trainer, softmax_maps, wait_log, wait_until
from web import Stream, Web, train


def without_snapshot(value):
    if isinstance(value, dict):
        return {key: without_snapshot(item) for key, item in value.items() if key not in ("snapshot", "uptime_s")}
    return [without_snapshot(item) for item in value] if isinstance(value, list) else value


def test_the_api_answers_what_control_answers(web, rng):
    trainer = train(web, rng)
    trainer.event("log", step=3, values={"loss": 2.5})
    trainer.event("epoch_end", epoch=0)
    trainer.event("bye")
    web.settled(11)
    for path, method, params in (("jobs", "jobs", {}), ("summary?job=job", "summary", dict(job="job")),
                                 ("summary?job=job&stack=decoder&layer=1", "summary", dict(job="job", stack="decoder", layer=1)),
                                 ("plan?job=job", "plan.get", dict(job="job")), ("plan", "plan.get", {})):
        assert without_snapshot(web.json("/api/v1/" + path)) == json.loads(json.dumps(
            without_snapshot(web.call(method, **params)), default=lambda data: data.hex())), path
    web.call("flush")
    wait_until(lambda: web.stats()["stored"] > 0, "the window in the history")
    for path, method, params in (
            ("runs?job=job", "runs", dict(job="job")), ("layers?job=job", "windows", dict(job="job")),
            ("history?job=job&layer=1&head=2&statistics=mean,max&limit=5", "history",
             dict(job="job", layer=1, head=2, statistics=["mean", "max"], limit=5)),
            ("map?job=job", "map", dict(job="job")), ("log?job=job", "log", dict(job="job")),
            ("alerts?job=job", "alerts", dict(job="job")),
            ("compare?job=job&job_b=job", "compare", dict(job="job", job_b="job"))):
        assert web.json("/api/v1/" + path) == web.call(method, **params), path
    version = web.json("/api/v1/version")
    assert version["version"] == web.call("ping")["version"]
    assert (version["directory"], version["ingest"]) == (web.directory, web.endpoint("ingest"))
    assert web.json("/api/v1/stats")["received"] == 11


def test_packed_numbers_are_base64(web, rng):
    train(web, rng).event("epoch_end", epoch=0)
    web.settled(9)
    wait_until(lambda: web.stats()["stored"] > 0, "the window in the history")
    packed = web.json("/api/v1/history?job=job&head=1&packed=1&statistics=mean")
    plain = web.json("/api/v1/history?job=job&head=1&statistics=mean")
    (value,) = struct.unpack("<d", base64.b64decode(packed["values"]["mean"]))
    assert [value] == plain["values"]["mean"]


@pytest.mark.parametrize("path, status, code, says", ids=range(25), argvalues=[
    ("/api/v1/history?job=nobody", 404, "job_unknown", ""),
    ("/api/v1/history", 400, "argument", "job"),
    ("/api/v1/history?job=x&limit=ten", 400, "argument", "limit: a whole number"),
    ("/api/v1/history?job=x&limit=99999999999999999999999", 400, "argument", "limit"),
    ("/api/v1/history?job=x&packed=maybe", 400, "argument", "packed: 1 or 0"),
    ("/api/v1/history?job=x&job=y", 400, "argument", "job: given twice"),
    ("/api/v1/history?job", 400, "argument", "job"),
    ("/api/v1/runs?color=red", 400, "argument", "color: no such parameter (valid: job, limit, or_null)"),
    ("/api/v1/runs?%3Cscript%3E=1", 400, "argument", "(not printable)"),
    ("/api/v1/version?x=1", 400, "argument", "(valid: or_null)"),
    ("/api/v1/live?job=job&metrics=entropy,nonsense", 400, "argument", "metrics: nonsense: no such metric (valid: those of /api/v1/metrics)"),
    ("/api/v1/summary?job=job&metrics=", 400, "argument", "metrics: : no such metric"),
    ("/api/v1/history?job=" + "x" * 600, 400, "argument", "511"),
    ("/api/v1/history?job=%FF%FE", 400, "argument", "printable ASCII"),
    ("/api/v1/history?job=job%00x", 400, "argument", "printable ASCII"),
    ("/api/v1/events?kinds=live,lies", 400, "argument", "kinds"),
    ("/api/v1/events?job=a%2Fb", 400, "argument", "job"),
    ("/api/v1/nothing", 404, "path", "openapi"),
    ("/api/v1/", 404, "path", ""),
    ("/nothing", 404, "path", ""),
    ("/assets/nothing", 404, "path", ""),
    ("/assets/../../etc/passwd", 404, "path", ""),
    ("/assets/%2e%2e/%2e%2e/etc/passwd", 404, "path", ""),
    ("/%2e%2e%2f%2e%2e%2fetc/passwd", 404, "path", ""),
    ("//", 404, "path", ""),
])
def test_what_is_wrong_is_said(attnd_web, path, status, code, says):
    error = attnd_web.json(path, status)["error"]
    assert error["code"] == code and says in error["message"] and "<script" not in error["message"]


def test_each_answer_is_about_one_run(web, rng):
    """A second run that has fewer layers: the first one's values are not mixed in."""
    runs = []
    for layers, received in (2, 4), (1, 7):
        trainer = Trainer(web, "two")
        runs.append(trainer.run.hex())
        for layer in range(layers):
            trainer.attention(softmax_maps(rng, 1, 2, 4, 4), layer=layer)
        trainer.event("epoch_end")
        trainer.event("bye")
        web.settled(received)
    web.call("flush")
    for path in ("live", "summary"):
        newest = json.loads(web.get(f"/api/v1/{path}?job=two")[1])
        assert [(one["run"], one["layer"]) for one in newest] == [(runs[1], 0)]
        first = json.loads(web.get(f"/api/v1/{path}?job=two&run={runs[0][:6]}")[1])
        assert sorted((one["run"], one["layer"]) for one in first) == [(runs[0], 0), (runs[0], 1)]
        response, body = web.get(f"/api/v1/{path}?job=two&run=0123456789")
        assert response.status == 404 and json.loads(body)["error"]["code"] == "run_unknown"


def test_numbers_of_other_metrics_are_left_out(rng):
    """Their names stay: a page says what there is without loading all of it."""
    web = Web("metrics.spectrum=true")
    train(web, rng, steps=2, layers=2).event("epoch_end")
    web.settled(5)
    wait_until(lambda: web.get("/api/v1/summary?job=job")[0].status == 200, "the summary")
    for path in ("summary", "live"):
        for whole, some in zip(web.json(f"/api/v1/{path}?job=job"), web.json(f"/api/v1/{path}?job=job&metrics=entropy,first_token")):
            for key in ("heads", "drift"):
                kept = {name: numbers if name in ("entropy", "first_token") else None for name, numbers in whole.get(key, {}).items()}
                assert some.get(key, {}) == kept, (path, key)
            assert some["heads"]["entropy"] and {key: some[key] for key in some if key not in ("heads", "drift")} == {
                key: whole[key] for key in whole if key not in ("heads", "drift")}


def test_openapi_says_what_the_handlers_do(attnd_web):
    """Every path with every parameter it names is taken, and no other parameter is."""
    api = attnd_web.json("/api/v1/openapi.json")
    assert api["openapi"].startswith("3.0") and len(api["paths"]) > 20
    values = {"integer": "0", "boolean": "1", "array": "mean", "string": "x"}
    for path, item in api["paths"].items():
        if "post" in item:  # test_changes.py
            assert list(item) == ["post"] and item["post"]["parameters"][0]["name"] == "X-Attnd"
            continue
        assert list(item) == ["get"]
        parameters = [parameter for parameter in item["get"]["parameters"] if parameter["in"] == "query"]
        if "{" in path or "events" in path:
            continue
        query = "&".join(f"{p['name']}={values[p['schema']['type']]}" for p in parameters)
        response, body = attnd_web.get(path + "?" + query)
        assert "no such parameter" not in body.decode(errors="replace"), (path, body)
        assert response.status in (200, 400, 404), (path, body)
        if path.startswith("/api/"):
            assert "no such parameter" in attnd_web.get(path + "?other=1")[1].decode(), path
        if response.status == 200:
            (kind,) = item["get"]["responses"]["200"]["content"]
            assert response.headers["Content-Type"].startswith(kind), path
        else:
            assert set(json.loads(body)["error"]) == {"code", "message"}


def test_answers_have_the_keys_that_openapi_says(rng):
    web = Web("maps.every=0s")
    for _ in range(2):
        train(web, rng, steps=2, layers=2).event("epoch_end")
    web.settled(10)
    for path in ("map", "summary", "compare"):
        wait_until(lambda: web.get(f"/api/v1/{path}?job=job")[0].status == 200, path)
    api, checked = web.json("/api/v1/openapi.json"), set()
    for path, item in api["paths"].items():
        if "post" in item:
            continue
        schema = item["get"]["responses"]["200"]["content"].get("application/json", {}).get("schema")
        if not schema:
            continue
        needed = [p["name"] for p in item["get"]["parameters"] if p.get("required")]
        if needed:
            response, body = web.get(path)
            assert response.status == 400 and f"{needed[0]} is needed" in json.loads(body)["error"]["message"]
        answer = web.json(path + ("?job=job" if needed else ""))
        assert isinstance(answer, list) == (schema["type"] == "array") and answer, path
        for one in answer if isinstance(answer, list) else [answer]:
            assert set((schema.get("items") or schema)["required"]) <= set(one), path
        checked.add(path)
    assert len(checked) > 14


def test_the_metrics_of_the_list_are_those_of_results(web, rng):
    train(web, rng, steps=1, layers=1)
    web.settled(1)
    listed = {metric["name"]: metric for metric in web.json("/api/v1/metrics")}
    stream = Stream(web, "?kinds=live")
    train(web, rng, steps=1, layers=1, first=1)
    live = stream.until("live")[2]
    stream.close()
    for group in ("heads", "spectrum"):
        for name, values in live[group].items():
            if name == "pattern" or not all(isinstance(value, (int, float, type(None))) for value in values):
                continue
            low, high = listed[name]["domain"] or (-1e308, 1e308)
            assert listed[name]["group"] == group and listed[name]["description"]
            assert all(value is None or low - 1e-6 <= value <= high + 1e-6 for value in values), name


def test_the_rules_in_force_are_those_that_are_on_and_apply_to_the_job():
    web = Web(config="rules:\n  losses:\n    enabled: false\n  entropy_collapse:\n    below: 0.2\n    clear: 0.3\n"
                     "  mine:\n    metric: first_token\n    rises_by: 0.25\n    within: 3\n    job: gpt-*\n")
    rules = {rule["name"]: rule for rule in web.json("/api/v1/rules")}
    assert "losses" not in rules and list(rules) == [rule["name"] for rule in web.call("rules")]
    assert rules["mine"] == dict(name="mine", metric="first_token", statistic="mean", per_key=False, each="layer", job="gpt-*", layer="*",
                                 condition="rises_by", bound=0.25, clear=rules["mine"]["clear"], within=3, after_clear=False,
                                 severity="warning", why=None, advice=None, needs=None, **{"for": 1})
    collapse = rules["entropy_collapse"]
    assert (collapse["condition"], collapse["bound"], collapse["clear"], collapse["for"]) == ("below", 0.2, 0.3, 8)
    assert all(sentence.endswith(".") for sentence in (collapse["why"], collapse["advice"]))
    assert "mine" in {rule["name"] for rule in web.json("/api/v1/rules?job=gpt-a")}
    assert "mine" not in {rule["name"] for rule in web.json("/api/v1/rules?job=bert")}
    assert web.json("/api/v1/rules?job=a%20b", 400)["error"]["message"].startswith("job: not the name of one")


def test_no_rule_is_in_force_while_alerts_are_off():
    web = Web("alerts.enabled=false")
    assert web.json("/api/v1/rules") == web.call("rules") == []


# The page


def test_the_page_has_its_headers_and_files(attnd_web):
    response, body = attnd_web.get("/")
    assert response.status == 200 and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    for name, value in (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
                        ("X-Frame-Options", "DENY"), ("Cross-Origin-Resource-Policy", "same-origin")):
        assert response.headers[name] == value
    assert not re.search(rb"""(src|href)=["']?(https?:)?//""", body), "the page asks another machine"
    assert b" style=" not in body
    for tag in ("script", "style"):  # what stands in the page is what the policy names
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
        named = base64.b64encode(hashlib.sha256(inline).digest()).decode()
        assert f"{tag}-src 'self' 'sha256-{named}';" in response.headers["Content-Security-Policy"]
    for path in re.findall(rb"""["'](/assets/[^"']+)["']""", body):
        assert attnd_web.get(path.decode())[0].status == 200, path


def test_files_are_compressed_once_and_not_sent_again(attnd_web):
    response, packed = attnd_web.get("/assets/d3.min.js", Accept_Encoding="gzip, deflate")
    assert response.headers["Content-Encoding"] == "gzip" and len(packed) < 120_000
    plain_response, plain = attnd_web.get("/assets/d3.min.js")
    assert "Content-Encoding" not in plain_response.headers and gzip.decompress(packed) == plain
    refused, same = attnd_web.get("/assets/d3.min.js", Accept_Encoding="gzip;q=0")
    assert "Content-Encoding" not in refused.headers and same == plain
    etag = response.headers["ETag"]
    again, nothing = attnd_web.get("/assets/d3.min.js", If_None_Match=etag)
    assert again.status == 304 and nothing == b"" and again.headers["ETag"] == etag
    assert attnd_web.get("/assets/d3.min.js", If_None_Match='"other"')[0].status == 200


@pytest.mark.parametrize("accepted, encoding", [
    ("gzip;q=0.5", "gzip"), ("br, GZIP ; q=1", "gzip"), ("gzip; q=0", None), ("gzip;q=0.000", None), ("x-gzip", None)])
def test_the_weight_of_gzip_is_heard(attnd_web, accepted, encoding):
    assert attnd_web.get("/assets/main.js", Accept_Encoding=accepted)[0].headers["Content-Encoding"] == encoding


def test_head_has_the_headers_only(attnd_web):
    for path in ("/", "/api/v1/version", "/metrics", "/healthz", "/assets/d3.min.js"):
        response, body = attnd_web.get(path, method="HEAD")
        assert response.status == 200 and body == b"" and int(response.headers["Content-Length"]) > 0, path


def test_strange_methods_bodies_hosts_and_origins_are_refused(attnd_web):
    before = attnd_web.stats()["http_refused"]
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response, _ = attnd_web.get("/api/v1/jobs", method=method)
        assert response.status == 405 and response.headers["Allow"] == "GET, HEAD"
    assert attnd_web.get("/api/v1/jobs", body=b"x" * 100)[0].status == 413
    for host in ("evil.example", "evil.example:5580", "localhost.evil.example", "", "[::1", "127.0.0.1:x", "a" * 300):
        assert attnd_web.get("/", Host=host)[0].status == 421, host
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80", "192.168.1.7:5580"):
        assert attnd_web.get("/", Host=host)[0].status == 200, host
    for origin in ("http://evil.example", "null", "file://", "http://localhost:1"):
        assert attnd_web.get("/api/v1/jobs", Origin=origin, Host="localhost")[0].status == 403, origin
    for origin in ("http://localhost", "https://localhost"):
        assert attnd_web.get("/api/v1/jobs", Origin=origin, Host="localhost")[0].status == 200
    assert attnd_web.stats()["http_refused"] == before + 5 + 1 + 7 + 4


def test_names_of_the_config_are_known_hosts():
    daemon = Web("http.hosts=attnd.example gpu7")
    assert daemon.get("/", Host="attnd.example")[0].status == 200
    assert daemon.get("/", Host="GPU7:8080")[0].status == 200
    assert daemon.get("/", Host="gpu70")[0].status == 421


# Its port


def start(*settings, directory):
    """An attnd that is expected not to start."""
    return subprocess.run([ATTND, f"--set=history.path={directory}/history.db",
                           *(f"--set={name}.endpoint=ipc://{directory}/{name}" for name in ("ingest", "publish", "control", "tap")),
                           *(f"--set={setting}" for setting in settings)], capture_output=True, text=True, timeout=2 * PATIENCE_S)


def test_a_taken_default_port_becomes_a_free_one(tmp_path):
    holder = None
    try:
        holder = socket.create_server(("127.0.0.1", 5580))
    except OSError:
        pass  # somebody else holds it
    daemon = Web("http.endpoint=tcp://127.0.0.1:5580")
    assert daemon.port != 5580 and daemon.get("/api/v1/version")[0].status == 200
    wait_log(daemon, f"event=http_port_taken endpoint=tcp://127.0.0.1:5580 instead=tcp://127.0.0.1:{daemon.port}")
    chosen = start(f"http.endpoint=tcp://127.0.0.1:{daemon.port}", directory=tmp_path)
    assert chosen.returncode == 1 and "Address already in use" in chosen.stderr, "a port that somebody chose is that one"
    daemon.close()
    if holder:
        holder.close()


def page_of(daemon):
    """The file's line, and its mode."""
    path = os.path.join(daemon.directory, "page")
    with open(path) as file:
        return file.read(), os.stat(path).st_mode & 0o777


def test_the_directory_says_where_the_page_is():
    daemons = [Web("http.endpoint=tcp://127.0.0.1:5580") for _ in range(2)]
    urls = []
    for daemon in daemons:
        text, mode = page_of(daemon)
        assert text == f"http://127.0.0.1:{daemon.port}/\n" and mode == 0o600
        with urllib.request.urlopen(text.strip(), timeout=PATIENCE_S) as answer:
            assert answer.read().startswith(b"<!doctype html>")
        urls.append(text)
    assert urls[0] != urls[1], "both began with the default port"
    for daemon in daemons:
        daemon.close()
        assert not os.path.exists(os.path.join(daemon.directory, "page"))


def test_a_page_that_is_no_longer_served_is_not_named():
    daemon = Web()
    os.remove(os.path.join(daemon.directory, "page"))
    wait_until(lambda: os.path.exists(os.path.join(daemon.directory, "page")), "it is written again")
    daemon.process.kill()
    daemon.process.wait()
    assert page_of(daemon)
    daemon.settings += ("http.enabled=false",)
    daemon.start()
    assert not os.path.exists(os.path.join(daemon.directory, "page"))


# Health


def test_health_and_readiness(tmp_path):
    daemon = Web()
    assert daemon.get("/healthz")[1] == b"ok\n" and daemon.get("/readyz")[1] == b"ready\n"
    daemon.close()
    daemon = Web("history.enabled=false")
    assert daemon.get("/readyz")[0].status == 200, "off on purpose"
    daemon.close()
    daemon = Web("history.path=/proc/nowhere/history.db")
    response, body = daemon.get("/readyz")
    assert response.status == 503 and json.loads(body)["error"]["code"] == "history_off"
    assert daemon.get("/healthz")[0].status == 200


@pytest.mark.skipif(SANITIZED, reason="a sanitizer makes one question as dear as all")
def test_health_does_not_wait_behind_dear_questions(rng):
    """Each answer has half a million numbers as text, and takes the HTTP thread 0.1 s or more: 24 of them are more than health
    and `http.timeout` wait for, and none is refused, because it waits for the HTTP thread only. HEAD: nobody reads them."""
    daemon = Web("http.connections=64", "publish.budget=1GiB", "http.timeout=2s", "metrics.spectrum=false", "history.enabled=false")
    Trainer(daemon, "gpt").attention(softmax_maps(rng, 1, 32, 128, 128))
    daemon.settled(1)
    for _ in range(3):  # a test that stands still for a while finds all answers there, whoever waited
        dear = [daemon.connect() for _ in range(24)]
        for connection in dear:
            connection.request("HEAD", "/api/v1/maps?job=gpt")
        checked = [daemon.get(path)[0].status for path in ("/healthz", "/readyz", "/healthz")]
        waited = select.select([dear[-1].sock], [], [], 0)[0]
        answers = [connection.getresponse() for connection in dear]
        assert checked == [200] * 3 and {answer.status for answer in answers} == {200}
        if not waited:
            break
    assert not waited, "health has waited for all of them"
    (size,) = {int(answer.headers["Content-Length"]) for answer in answers}
    assert size > 5_000_000, "an answer is dear"


@pytest.mark.skipif(SANITIZED, reason="a sanitizer makes one result as dear as all")
def test_health_does_not_wait_behind_results_for_the_stream(rng):
    daemon = Web("publish.budget=4GiB", "metrics.spectrum=false", "history.enabled=false")
    stream, trainer, waited_s = Stream(daemon), Trainer(daemon, "job"), []
    for step in range(3):  # the machine may be busy once
        for layer in range(80):
            trainer.attention(softmax_maps(rng, 1, 128, 4, 4), layer=layer, step=step)
        daemon.settled(80 * (step + 1))
        daemon.call("flush")
        begin = time.monotonic()
        assert daemon.get("/healthz")[0].status == 200
        waited_s.append(time.monotonic() - begin)
    assert min(waited_s) < 0.5, waited_s


def readiness(daemon):
    response, body = daemon.get("/readyz")
    return (200, "") if response.status == 200 else (response.status, json.loads(body)["error"]["message"])


def test_a_history_that_cannot_be_written_is_not_ready(rng):
    """And is ready again when there is room, though nobody sends anything any more."""
    daemon = Web("history.commit=20ms", "history.checkpoint=100ms")
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    train(daemon, rng).event("bye")
    daemon.settled(9)
    status, why = wait_until(lambda: readiness(daemon)[1] and readiness(daemon), "the disk is full")
    assert status == 503 and why.startswith("the history cannot be written: ")
    assert daemon.stats()["history"]["reason"] in why and daemon.stats()["store_dropped"] > 0
    assert daemon.get("/healthz")[0].status == 200
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: readiness(daemon) == (200, ""), "room again")
    wait_log(daemon, "event=history_recovered")
    assert daemon.stats()["history"]["reason"] is None


def test_a_damaged_history_is_not_ready_until_it_is_repaired(tmp_path, rng):
    """That is done once: when a question meets damage again, it stays."""
    path = tmp_path / "history.db"
    daemon = Web("history.commit=20ms", f"history.path={path}")
    for times in 1, 2:
        train(daemon, rng, job=f"job{times}").event("bye")
        daemon.settled(9 * times)
        wait_until(lambda: daemon.stats()["stored"] and not daemon.stats()["history"]["waiting"], "the history")
        assert readiness(daemon) == (200, "")
        with sqlite3.connect(path, timeout=20) as database:
            assert database.execute("UPDATE states SET data = x'0102'").rowcount > 0
        with pytest.raises(RuntimeError):
            daemon.call("history", job=f"job{times}")
        wait_until(lambda: "event=history_repaired" in daemon.log_text(), "the repair")
        if times == 1:
            wait_until(lambda: readiness(daemon) == (200, ""), "it is ready again")
            assert daemon.stats()["store_unreadable"] > 0
    wait_until(lambda: "event=history_not_repaired" in daemon.log_text(), "it is not repaired")
    status, why = readiness(daemon)
    assert status == 503 and why.startswith("the history is damaged: ")
    assert daemon.stats()["history"]["damaged"] == why and daemon.stats()["history"]["reason"] is None
    assert daemon.log_text().count("event=history_damaged") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk")
def test_a_full_disk_is_not_ready_before_anything_fails(tmp_path, attnd_by):
    """The history's disk is one that only attnd sees, full to the brim and then not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    attnd_by(f"unshare -m sh -c 'mount -t tmpfs -o size=4m none {disk} && exec $ATTND' sh \"$@\"")
    daemon = Web(f"history.path={disk}/history.db")
    assert readiness(daemon) == (200, "")
    filler = f"/proc/{daemon.process.pid}/root{disk}/filler"
    with open(filler, "wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 16))
    assert readiness(daemon) == (503, "the history cannot be written: its disk is full")
    os.remove(filler)
    assert readiness(daemon) == (200, "")
