# SPDX-License-Identifier: MIT
"""http.token_file: who is let in with a token, and which jobs they see."""
import json
import os
import signal
import subprocess

import numpy as np
import pytest
from harness import ATTND, PATIENCE_S, wait_until
from web import Stream, Web, train, write_tokens

# A proxy says so: the user that attnd runs as needs no token, and tests run as that user.
FORWARDED = dict(X_Forwarded_For="192.0.2.1")
ALL, SOME, STEERS = "all-0123456789abcdef", "some-0123456789abcdef", "steers-0123456789abcdef"
SECRET = "b-secret"


def with_token(token):
    return dict(FORWARDED, Authorization=f"Bearer {token}")


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    write_tokens(path, "# who may look", f"{ALL}  # as before there were patterns", f"{SOME} read a*", f"{STEERS} plan b-*")
    return path


@pytest.fixture
def two(tokens):
    """Two jobs of which SOME sees one, with a history and an alert each."""
    web = Web(f"http.token_file={tokens}", "http.live_interval=0s", "http.heartbeat=1h", "maps.every=0s",
              config="rules:\n  flat:\n    metric: entropy\n    above: 0.0001\n    severity: info\n"
                     "  hidden:\n    metric: entropy\n    above: 10\n    job: b-*\n")
    web.call("plan.set", job=SECRET, every=7)
    rng = np.random.default_rng(3)
    for messages, job in ((9, "a-open"), (18, SECRET)):  # one after the other: the secret one is the newer one
        train(web, rng, job=job).event("epoch_end")
        web.settled(messages)
        wait_until(lambda job=job: (web.json(f"/api/v1/alerts?job={job}&or_null=1") or {}).get("alerts"), f"an alert of {job}")
    return web


def listening(web, token):
    stream = Stream(web, **with_token(token))
    assert stream.next()[1] == "hello"
    return stream


def ask(web, token, path):
    response, body = web.get(path, **with_token(token))
    return response.status, body


def code_of(answer):
    status, body = answer
    return status, json.loads(body)["error"]["code"] if status != 200 else json.loads(body)


def reload(web, word="tokens_read"):
    before = web.log_text().count(word)
    web.process.send_signal(signal.SIGHUP)
    wait_until(lambda: web.log_text().count(word) > before, word)


# Letting in


def test_a_token_is_asked_for(tokens):
    web = Web(f"http.token_file={tokens}")
    for path in ("/", "/healthz", "/readyz", "/assets/d3.min.js"):
        assert web.get(path, **FORWARDED)[0].status == 200, path
    for path in ("/api/v1/jobs", "/metrics", "/api/v1/events", "/api/v1/openapi.json"):
        response, body = web.get(path, **FORWARDED)
        assert response.status == 401 and response.headers["WWW-Authenticate"].startswith("Bearer")
        for wrong in ("Bearer ", "Bearer x", "Bearer " + ALL[:-1], "Bearer " + ALL + "x"):
            assert web.get(path, Authorization=wrong, **FORWARDED)[0].status == 401, wrong
            assert web.get(path, Authorization=wrong)[0].status == 401, "also of attnd's own user"
        for other in ("Basic " + ALL, ALL):
            assert web.get(path, Authorization=other, **FORWARDED)[0].status == 401, other
    for token in (ALL, SOME, STEERS):
        assert ask(web, token, "/api/v1/jobs") == (200, b"[]")
        listening(web, token).close()
    assert web.get(f"/api/v1/events?access_token={ALL}", **FORWARDED)[0].status == 401, "addresses stand in logs"
    assert web.get("/metrics")[0].status == 200, "who could read the file needs no token"
    for token in (ALL, SOME, STEERS):
        assert token not in web.log_text()


def test_two_authorizations_are_refused(tokens):
    web = Web(f"http.token_file={tokens}")
    for name, values in (("Authorization", (f"Bearer {ALL}", f"Bearer {SOME}")), ("X-Forwarded-User", ("ann", "bob"))):
        result = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
                                 *(word for value in values for word in ("-H", f"{name}: {value}")),
                                 f"http://127.0.0.1:{web.port}/api/v1/jobs"], capture_output=True, text=True)
        assert result.stdout == "400", name


@pytest.mark.parametrize("lines,mode,why", [
    ([f"{ALL} write *"], 0o600, "tokens:1: role: 'write': not a role over HTTP (valid: read, plan, admin)"),
    ([ALL], 0o640, "tokens: others can read it, so it is no secret (chmod 600; better, make a new one)"),
], ids=["role", "readable"])
def test_a_bad_token_file_stops_the_start(tmp_path, lines, mode, why):
    write_tokens(tmp_path / "tokens", *lines)
    (tmp_path / "tokens").chmod(mode)
    result = subprocess.run([ATTND, "--address", str(tmp_path / "a"), "--set", f"http.token_file={tmp_path / 'tokens'}", "--set",
                             "http.endpoint=tcp://127.0.0.1:*", "--set", "history.enabled=false"],
                            capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert result.returncode == 1 and f"http.token_file: {tmp_path}/{why}" in result.stderr, result.stderr
    assert ALL not in result.stderr


# Jobs


def test_what_may_not_be_seen_is_not_there(two):
    """Of every route: who sees a* only gets the same for a job that is there as for one that is not."""
    paths = json.loads(ask(two, ALL, "/api/v1/openapi.json")[1])["paths"]
    asked = {path: item["get"] for path, item in paths.items() if "get" in item}  # test_changes.py has what changes something
    named = [path for path, item in asked.items() if "job" in {one["name"] for one in item.get("parameters", ())}]
    assert len(named) > 14 and "/api/v1/events" in named
    shown = set()
    for path in named:
        if path == "/api/v1/events":
            continue
        hidden, nowhere, own = (ask(two, SOME, f"{path}?job={job}") for job in (SECRET, "b-nowhere", "a-nowhere"))
        assert hidden == nowhere, path
        if path not in ("/api/v1/plan", "/api/v1/rules"):  # which answer for any name
            assert code_of(hidden) == code_of(own), path
        assert SECRET.encode() not in hidden[1]
        for extra in ("&or_null=1", "&run=0"):
            assert ask(two, SOME, f"{path}?job={SECRET}{extra}") == ask(two, SOME, f"{path}?job=b-nowhere{extra}"), path
        if SECRET.encode() in ask(two, ALL, f"{path}?job={SECRET}")[1]:
            shown.add(path.rsplit("/", 1)[1])
        assert ask(two, SOME, f"{path}?job=a-open") == ask(two, ALL, f"{path}?job=a-open"), path
    assert shown >= {"runs", "layers", "summary", "live", "history", "grid", "maps", "alerts", "verdict"}, "the test can fail"
    both = [ask(two, SOME, f"/api/v1/compare?job=a-open&job_b={job}") for job in (SECRET, "b-nowhere")]
    assert both[0] == both[1] and both[0][0] == 404 and ask(two, ALL, f"/api/v1/compare?job=a-open&job_b={SECRET}")[0] == 200


def test_lists_have_the_jobs_that_may_be_seen(two):
    for path in ("jobs", "runs", "alerts", "rules", "plan"):
        assert SECRET.encode() in ask(two, ALL, f"/api/v1/{path}")[1] or path == "rules", path
        status, body = ask(two, SOME, f"/api/v1/{path}")
        assert status == 200 and b"b-" not in body and SECRET.encode() not in body, path
    assert {one["job"] for one in json.loads(ask(two, SOME, "/api/v1/jobs")[1])} == {"a-open"}
    assert {one["name"] for one in json.loads(ask(two, ALL, "/api/v1/rules")[1])} >= {"flat", "hidden"}
    rules = {one["name"] for one in json.loads(ask(two, SOME, "/api/v1/rules")[1])}
    assert "flat" in rules and "hidden" not in rules
    newest = json.loads(ask(two, SOME, "/api/v1/runs?limit=1")[1])
    assert [run["job"] for run in newest["runs"]] == ["a-open"] and newest["more"] is False, "the newer one does not count"
    assert [run["job"] for run in json.loads(ask(two, ALL, "/api/v1/runs?limit=1")[1])["runs"]] == [SECRET]
    assert ask(two, SOME, "/api/v1/stats") == ask(two, SOME, "/api/v1/nothing") != ask(two, ALL, "/api/v1/stats")


def test_metrics_are_of_the_jobs_that_may_be_seen(two):
    some, every = ask(two, SOME, "/metrics")[1].decode(), ask(two, ALL, "/metrics")[1].decode()
    assert f'job="{SECRET}"' in every and "attnd_build_info" in every and "process_" in every
    assert SECRET not in some and "process_" not in some and "attnd_build_info" not in some
    samples = [line for line in some.splitlines() if not line.startswith("#")]
    assert samples and all('job="a-open"' in line for line in samples)
    of_a = {line.split(" ")[0] for line in every.splitlines() if 'job="a-open"' in line}
    assert {line.split(" ")[0] for line in samples} == of_a
    again = ask(two, ALL, "/metrics")[1].decode()
    assert 'attnd_attention_entropy{' not in every or again.count(f'job="{SECRET}"') == every.count(f'job="{SECRET}"')


def test_events_are_of_the_jobs_that_may_be_seen(two):
    rng, some, every = np.random.default_rng(4), listening(two, SOME), listening(two, ALL)
    train(two, rng, job=SECRET, steps=1)
    train(two, rng, job="a-open", steps=1)
    found = set()
    while found != {SECRET, "a-open"}:  # in the order in which they are computed
        found.add(every.until("live")[2]["job"])
    assert some.until("live")[2]["job"] == "a-open"


# Reading the file again


def test_a_token_that_is_taken_away_ends_its_stream(two, tokens):
    streams = {token: listening(two, token) for token in (ALL, SOME)}
    write_tokens(tokens, ALL, f"{STEERS} read a*")
    reload(two)
    while streams[SOME].next():
        pass
    assert ask(two, SOME, "/api/v1/jobs")[0] == 401
    assert {job["job"] for job in json.loads(ask(two, STEERS, "/api/v1/jobs")[1])} == {"a-open"}
    train(two, np.random.default_rng(5), job=SECRET, steps=1)
    assert streams[ALL].until("live")[2]["job"] == SECRET


def test_a_stream_goes_on_with_the_jobs_of_the_new_list(two, tokens):
    stream = listening(two, SOME)
    write_tokens(tokens, f"{SOME} read b-*")
    reload(two)
    assert ask(two, SOME, "/api/v1/jobs")[0] == 200
    train(two, np.random.default_rng(6), job="a-open", steps=1)
    train(two, np.random.default_rng(6), job=SECRET, steps=1)
    assert stream.until("live")[2]["job"] == SECRET


def test_an_emptied_list_is_warned_of(two, tokens):
    write_tokens(tokens)
    reload(two, "access_empty")
    assert f"event=access_empty file={tokens}" in two.log_text()
    assert ask(two, SOME, "/api/v1/jobs")[0] == 401


def test_a_list_that_is_empty_at_the_start_is_warned_of(tmp_path):
    path = tmp_path / "tokens"
    write_tokens(path, "# nobody")
    web = Web(f"http.token_file={path}")
    assert f"level=warning event=access_empty file={path}" in web.log_text()


def test_a_bad_list_changes_nothing(two, tokens):
    def still_in_force(web):
        assert ask(web, SOME, "/api/v1/jobs")[0] == 200 and web.get("/api/v1/jobs", **FORWARDED)[0].status == 401

    for lines, mode, why in ((["# nobody", "oops"], 0o600, "tokens:2: token:"), ([ALL], 0o644, "others can read it")):
        write_tokens(tokens, *lines)
        tokens.chmod(mode)
        reload(two, "tokens_refused")
        assert why in two.log_text()
        still_in_force(two)
    tokens.unlink()
    reload(two, "tokens_refused")
    still_in_force(two)
    assert two.process.poll() is None and os.path.exists(two.directory)
