# SPDX-License-Identifier: MIT
"""Runs are people's own: name, notes, tags, star, archived, and deleting, over control and HTTP, and what is refused."""
import contextlib
import json
import sqlite3
import subprocess

import numpy as np
import pytest
from harness import PATIENCE_S, Trainer, softmax_maps, wait_until
from test_users import STRANGER, as_root
from web import Web, train, write_tokens

NOTHING = dict(name="", notes="", tags=[], star=False, archived=False)
NAMES = ("name", "notes", "tags", "star", "archived")
OTHER = "0" * 32


def post(web, path, body, status=None, **headers):
    """The answer to a change; with `status` its error, when that is no 200."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = {"X_Attnd": "1", "Content_Type": "application/json", **headers}
    response, answer = web.get(f"/api/v1/run/{path}", "POST", data, **{name: value for name, value in said.items() if value})
    assert response.status == (status or 200), answer
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(answer) if response.status == 200 else json.loads(answer)["error"]


def run_of(web, rng, job="job", ends=True, epochs=1, layers=2, heads=3):
    """The digits of a run that is in the history, a window for each epoch and layer."""
    trainer = Trainer(web, job)
    web.trainers.append(trainer)
    for epoch in range(epochs):
        for layer in range(layers):
            trainer.attention(softmax_maps(rng, 1, heads, 8, 8), layer=layer, step=epoch, epoch=epoch)
        trainer.event("log", step=epoch, epoch=epoch, values={"loss": 2.5})
        trainer.event("epoch_end", epoch=epoch)
    run = trainer.run.hex()
    if ends:
        trainer.event("bye")
        wait_until(lambda: stored(web, run)["state"] == "ended", "the end in the history")
    wait_until(lambda: sum(track["windows"] for layer in web.call("windows", job=job, run=run)["layers"] for track in layer["tracks"]
                           ) >= epochs * layers, "the windows in the history")
    return run


def stored(web, run):
    """Its map, with what it has lost or not got yet as KeyError."""
    return {one["run"]: one for one in web.call("runs")["runs"]}[run]


def card(run):
    return {key: run[key] for key in NAMES}


def rows_of(web):
    """How many rows each table has that is of runs."""
    tables = ("runs", "layers", "windows", "states", "chunks", "series", "maps", "sketches", "kept", "logs", "log_points", "alerts")
    with contextlib.closing(sqlite3.connect(f"file:{web.history_path}?mode=ro", uri=True)) as db:
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_a_run_has_a_name_notes_tags_and_a_star(web, rng):
    run, other = run_of(web, rng, ends=False), run_of(web, rng, "other")
    assert card(stored(web, run)) == NOTHING
    said = dict(name="exp 1: größer", notes="one\n\ttwo", tags=["b", "a", "b"], star=True)
    changed = post(web, "set", dict(job="job", run=run, **said))
    assert changed == stored(web, run) == web.json("/api/v1/runs?job=job")["runs"][0]
    assert card(changed) == dict(said, tags=["a", "b"], archived=False)
    assert card(web.call("run.set", job="job", run=run, archived=True, tags=[])) == dict(said, tags=[], archived=True)
    assert card(web.call("run.set", job="job", run=run, name=None, notes="")) == dict(said, tags=[], notes="", archived=True)
    assert card(stored(web, other)) == NOTHING
    web.trainers[0].attention(np.full((1, 2, 4, 4), 0.25, np.float32), step=9)  # the run goes on, and is saved
    web.call("flush")
    web.restart(web.trainers[0])
    assert card(stored(web, run)) == dict(said, tags=[], notes="", archived=True)


def test_the_longest_is_taken(web, rng):
    run = run_of(web, rng)
    said = dict(name="ä" * 100, notes="n" * 8192, tags=sorted(f"{i:02}" + "t" * 30 for i in range(16)), star=True, archived=True)
    assert card(post(web, "set", dict(job="job", run=run, **said))) == said


@pytest.mark.parametrize("key, value, says", [
    ("name", "n" * 201, "at most 200 bytes"), ("name", "a\nb", "without control characters"), ("name", "a\x7f", "control"),
    ("name", "\x85", "control"), ("name", 1, "name is not accepted: 1"), ("name", ["a"], "a list of 1"), ("name", {"a": 1}, "a map"),
    ("name", True, "true"), ("notes", "n" * 8193, "at most 8192 bytes"), ("notes", "a\rb", "line feeds"), ("notes", -1, "-1"),
    ("tags", "a", "the text 'a'"), ("tags", ["a b"], "a list of 1"), ("tags", [""], "words of 1 to 32"), ("tags", ["a" * 33], "32 bytes"),
    ("tags", [str(i) for i in range(17)], "a list of 17"), ("tags", [["a"]], "a list of 1"), ("tags", ["\t"], "control"),
    ("star", 1, "star is not accepted: 1"), ("star", "true", "true, false"), ("archived", 0.5, "the float 0.5"),
    ("colour", "red", "no parameter 'colour'"), ("dry", True, "no parameter 'dry'"), ("run", "abc", "all 32"),
    ("run", "x" * 32, "hexadecimal"), ("job", "no/job", "job is not accepted"), ("job", None, "job is missing"), ("run", None, "run is missing"),
])
def test_what_is_wrong_is_refused_by_name(attnd_web, key, value, says):
    before = attnd_web.stats()["request_errors"]
    error = post(attnd_web, "set", {"job": "job", "run": OTHER, "star": True, key: value}, 400)
    assert error["code"] == "argument" and says in error["message"], error
    assert attnd_web.stats()["request_errors"] == before + 1


@pytest.mark.parametrize("body, headers, status, code, says", ids=range(18), argvalues=[
    ({}, {}, 400, "argument", "job is missing"),
    (b"", {}, 411, "body", "a body is needed"),
    (b"[]", {}, 400, "body", "JSON object"),
    (b"{", {}, 400, "body", "JSON object"),
    (("{" + "ä" * 200).encode(), {}, 400, "body", "JSON object"),
    (b"\xff", {}, 400, "body", "JSON object"),
    (b'{"job": "a", "job": "b"}', {}, 400, "body", "duplicate"),
    (b'{"job": "a\\u0000"}', {}, 400, "body", "JSON object"),
    (b"[" * 5000, {}, 400, "body", "JSON object"),
    (b" " * (32 << 10) + b"{}", {}, 413, "body", "http.max_body"),
    ({}, dict(X_Attnd=None), 403, "header", "X-Attnd: 1"),
    ({}, dict(X_Attnd="2"), 403, "header", "X-Attnd: 1"),
    ({}, dict(Content_Type="text/plain"), 415, "body", "application/json"),
    ({}, dict(Content_Type="application/jsonx"), 415, "body", "application/json"),
    ({}, dict(Content_Type=None), 415, "body", "application/json"),
    ({}, dict(Origin="http://evil.example"), 403, "origin", "other origins"),
    ({}, dict(Origin="null"), 403, "origin", "other origins"),
    ({}, dict(Host="evil.example"), 421, "host", "http.hosts"),
])
def test_a_change_that_others_could_make_is_refused_and_counted(attnd_web, body, headers, status, code, says):
    before = attnd_web.metric("attnd_http_requests_refused_total")
    for path in ("set", "delete"):
        error = post(attnd_web, path, body, status, **headers)
        assert error["code"] == code and says in error["message"], error
    if code != "argument":
        assert attnd_web.metric("attnd_http_requests_refused_total") == before + 2


def test_only_post_changes_something(attnd_web):
    for path in ("/api/v1/run/set", "/api/v1/run/delete"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            response, body = attnd_web.get(path, method)
            assert (response.status, response.headers["Allow"]) == (405, "POST"), method
            assert method == "HEAD" or json.loads(body)["error"]["code"] == "method"
    assert attnd_web.get("/api/v1/runs", "POST", b"{}")[0].headers["Allow"] == "GET, HEAD"
    assert "not in the address" in post(attnd_web, "set?job=a", {}, 400)["message"]
    assert post(attnd_web, "set", dict(job="nobody", run=OTHER, star=True), 404)["code"] == "job_unknown"
    assert "one of name" in post(attnd_web, "set", dict(job="a", run=OTHER), 400)["message"]


def test_openapi_says_what_is_taken_and_answered(web, rng):
    run, api = run_of(web, rng), web.json("/api/v1/openapi.json")
    values = {"string": "x", "boolean": True, "array": ["a"]}
    for path in ("set", "delete"):
        said = api["paths"][f"/api/v1/run/{path}"]["post"]
        schema = said["requestBody"]["content"]["application/json"]["schema"]
        body = {name: values[one["type"]] for name, one in schema["properties"].items()} | dict(job="job", run=run)
        assert schema["required"] == ["job", "run"] and set(body) > {"job", "run"}
        assert set(said["responses"]["200"]["content"]["application/json"]["schema"]["required"]) <= set(post(web, path, body))
        assert "no parameter 'other'" in post(web, path, dict(body, other=1), 400)["message"]


def test_a_body_that_does_not_come_ends_its_connection(attnd_web):
    head = b"POST /api/v1/run/set HTTP/1.1\r\nHost: localhost\r\nX-Attnd: 1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    client = attnd_web.by_hand(head)
    assert client.recv(1) == b""  # after http.timeout
    chunked = attnd_web.by_hand(head.replace(b"Content-Length: 99", b"Transfer-Encoding: chunked"))
    assert b" 411 " in chunked.recv(4096)


def test_a_run_is_deleted_with_all_that_is_of_it(web, rng):
    run, kept = run_of(web, rng, epochs=70), run_of(web, rng, "kept")
    before = wait_until(lambda: rows_of(web)["chunks"] == 2 and rows_of(web), "the chunks")
    assert before["log_points"] == 71
    dry = post(web, "delete", dict(job="job", run=run, dry=True))
    assert dry["deleted"] is False and dry["bytes"] > 1000 and rows_of(web) == before
    done = post(web, "delete", dict(job="job", run=run))
    assert done == dict(dry, deleted=True)
    assert [one["run"] for one in web.call("runs")["runs"]] == [one["run"] for one in web.call("jobs")] == [kept]
    for method in ("windows", "summary", "live", "log"):
        with pytest.raises(RuntimeError, match="job_unknown"):
            web.call(method, job="job")
    assert web.call("alerts")["firing"] == []
    wait_until(lambda: rows_of(web)["runs"] == 1, "the rows that have gone")
    left = rows_of(web)
    assert (left["layers"], left["logs"], left["log_points"], left["chunks"], left["series"]) == (2, 1, 1, 0, 0)
    assert post(web, "delete", dict(job="job", run=run), 404)["code"] == "job_unknown"
    web.restart()
    assert [one["run"] for one in web.call("jobs")] == [kept] and rows_of(web) == left


def bytes_used(web):
    with contextlib.closing(sqlite3.connect(f"file:{web.history_path}?mode=ro", uri=True)) as db:
        pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
    return (pages - free) * size, free


def test_what_deleting_frees_is_about_what_was_said(web, rng):
    """In pages of the file, which becomes smaller by them."""
    run = run_of(web, rng, epochs=160, heads=16)
    wait_until(lambda: rows_of(web)["chunks"] == 4, "the chunks")
    before, _ = bytes_used(web)
    said = web.call("run.delete", job="job", run=run)["bytes"]
    wait_until(lambda: rows_of(web)["runs"] == 0, "the rows that have gone")
    after, free = wait_until(lambda: bytes_used(web) if bytes_used(web)[1] == 0 else None, "the pages that are given back")
    assert free == 0 and before - after > 1 << 20
    assert 0.8 < said / (before - after) < 1.25, (said, before - after)


def test_a_run_that_goes_on_is_not_deleted(web, rng):
    run = run_of(web, rng, ends=False)
    for body in (dict(dry=True), {}):
        error = post(web, "delete", dict(job="job", run=run, **body), 409)
        assert error["code"] == "running" and "goes on" in error["message"]
    assert stored(web, run)["state"] == "active"
    web.trainers[0].event("bye")
    wait_until(lambda: web.call("jobs")[0]["state"] == "ended", "the end")
    wait_until(lambda: web.call("run.delete", job="job", run=run)["deleted"], "that it goes")
    trainer = Trainer(web, "job", run=bytes.fromhex(run))  # what comes of it later begins it anew
    trainer.attention(np.full((1, 2, 4, 4), 0.25, np.float32), step=5)
    trainer.event("epoch_end", step=5)
    wait_until(lambda: stored(web, run)["step"] == 5, "the run that has begun anew")
    assert card(stored(web, run)) == NOTHING


@pytest.mark.parametrize("point", ["store_before_commit", "store_after_commit", "store_deleting"])
def test_a_kill_while_a_run_goes_leaves_it_whole_or_gone(web, rng, point, monkeypatch):
    run = run_of(web, rng, epochs=3)
    rows = rows_of(web)
    web.stop()
    monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:1")
    web.start()
    monkeypatch.delenv("ATTND_CRASH_AT")
    with contextlib.suppress(AssertionError):
        web.call("run.delete", timeout=1, job="job", run=run)
    web.process.wait(PATIENCE_S)
    web.start()
    if rows_of(web)["runs"] and [one["run"] for one in web.call("runs")["runs"]] == [run]:
        assert point != "store_deleting" and rows_of(web) == rows
    else:
        assert point != "store_before_commit" and web.call("jobs") == []
        wait_until(lambda: not any(rows_of(web).values()), "the rest of it gone")


def test_tokens_change_what_their_role_says(tmp_path, rng):
    path = tmp_path / "tokens"
    tokens = {role: f"{role}-0123456789abcdef" for role in ("read", "plan", "admin")}
    write_tokens(path, *(f"{token} {role} a*" for role, token in tokens.items()))
    web = Web(f"http.token_file={path}")
    mine, other = run_of(web, rng, "a"), run_of(web, rng, "b")

    def status(role, what, job="a", run=mine, **body):
        headers = dict(X_Attnd="1", Content_Type="application/json", Authorization=f"Bearer {tokens[role]}", X_Forwarded_For="192.0.2.1")
        response, answer = web.get(f"/api/v1/run/{what}", "POST", json.dumps(dict(job=job, run=run, **body)), **headers)
        return response.status, json.loads(answer).get("error", {}).get("code")
    assert status("read", "set", star=True) == (403, "access")
    assert status("plan", "set", star=True) == (200, None)
    assert status("plan", "delete", dry=True) == (403, "access")
    assert [status(role, "set", "b", other, star=True) for role in tokens] == 3 * [(404, "job_unknown")]
    assert status("admin", "delete") == (200, None)
    assert [run["run"] for run in web.call("runs")["runs"]] == [other]


@as_root
def test_another_user_of_this_machine_may_change_and_not_delete(rng):
    web = Web(f"http.users={STRANGER}")
    run = run_of(web, rng)

    def ask(what):
        body = json.dumps(dict(job="job", run=run, **({"star": True} if what == "set" else {})))
        result = subprocess.run(["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "curl", "-s", "-w", "\n%{http_code}",
                                 "-H", "X-Attnd: 1", "-H", "Content-Type: application/json", "-d", body,
                                 f"http://127.0.0.1:{web.port}/api/v1/run/{what}"], capture_output=True, text=True, timeout=2 * PATIENCE_S)
        return result.stdout.rpartition("\n")[2]
    assert (ask("set"), ask("delete")) == ("200", "403")
    assert stored(web, run)["star"] is True


def test_without_a_history_nothing_is_kept(rng):
    web = Web("history.enabled=false")
    trainer = train(web, rng)
    assert post(web, "set", dict(job="job", run=trainer.run.hex(), star=True), 503)["code"] == "history_off"
