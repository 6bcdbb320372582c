# SPDX-License-Identifier: MIT
"""HTTP: the API is the control methods as JSON, the event stream, and what hostile clients can do."""
import base64
import gzip
import hashlib
import http.client
import json
import os
import random
import re
import resource
import select
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import pytest
from harness import ATTND, PATIENCE_S, SANITIZED, Attnd, Trainer, softmax_maps, wait_log, wait_until
from web import HTTP, Stream, Web, train, write_tokens

@pytest.fixture
def web():
    daemon = Web("http.live_interval=0s", "http.heartbeat=200ms")
    yield daemon
    daemon.close()


def without_snapshot(value):
    if isinstance(value, dict):
        return {key: without_snapshot(item) for key, item in value.items() if key not in ("snapshot", "uptime_s")}
    return [without_snapshot(item) for item in value] if isinstance(value, list) else value


# The API


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
    trainer.close()


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


@pytest.fixture(scope="module")
def attnd_web():
    daemon = Web("http.timeout=5s")
    Attnd.all.remove(daemon)  # it outlives a test
    yield daemon
    daemon.close()
    daemon.discard()


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


def test_head_has_the_headers_only(attnd_web):
    for path in ("/", "/api/v1/version", "/metrics", "/healthz", "/assets/d3.min.js"):
        response, body = attnd_web.get(path, method="HEAD")
        assert response.status == 200 and body == b"" and int(response.headers["Content-Length"]) > 0, path


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


def schema_of(api, path):
    return api["paths"][path]["get"]["responses"]["200"]["content"]["application/json"].get("schema")


def test_answers_have_the_keys_that_openapi_says(rng):
    web = Web("maps.every=0s")
    for _ in range(2):
        train(web, rng, steps=2, layers=2).event("epoch_end")
    web.settled(10)
    for path in ("map", "summary", "compare"):
        wait_until(lambda: web.get(f"/api/v1/{path}?job=job")[0].status == 200, path)
    api, checked = web.json("/api/v1/openapi.json"), set()
    for path, item in api["paths"].items():
        schema = "application/json" in item["get"]["responses"]["200"]["content"] and schema_of(api, path)
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
    web.close()


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
    assert (collapse["condition"], collapse["bound"], collapse["clear"], collapse["for"]) == ("below", 0.2, 0.3, 2)
    assert all(sentence.endswith(".") for sentence in (collapse["why"], collapse["advice"]))
    assert "mine" in {rule["name"] for rule in web.json("/api/v1/rules?job=gpt-a")}
    assert "mine" not in {rule["name"] for rule in web.json("/api/v1/rules?job=bert")}
    assert web.json("/api/v1/rules?job=a%20b", 400)["error"]["message"].startswith("job: not the name of one")
    web.close()


def test_no_rule_is_in_force_while_alerts_are_off():
    web = Web("alerts.enabled=false")
    assert web.json("/api/v1/rules") == web.call("rules") == []
    web.close()


# Access: users and tokens


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
    daemon.close()


# The user of a connection

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
STRANGER = 54321


def ask_as(uid, port, path, *arguments, groups=("--clear-groups",)):
    """Status and body of what this user gets."""
    result = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", *groups, "curl", "-s", "-w", "\n%{http_code}",
                             "-m", str(PATIENCE_S), *arguments, f"http://127.0.0.1:{port}{path}"],
                            capture_output=True, text=True, timeout=2 * PATIENCE_S)
    body, _, status = result.stdout.rpartition("\n")
    return int(status), body


@as_root
def test_another_user_gets_nothing_but_healthz(attnd_web):
    port = attnd_web.port
    for path in ("/", "/assets/main.js", "/api/v1/jobs", "/api/v1/events", "/metrics"):
        status, body = ask_as(STRANGER, port, path)
        error = json.loads(body)["error"]
        assert (status, error["code"]) == (403, "user"), path
        assert str(STRANGER) in error["message"] and "http.users" in error["message"] and "http.token_file" in error["message"]
        assert ask_as(0, port, path, "-I")[0] == 200, path
    for path in ("/healthz", "/readyz"):
        assert ask_as(STRANGER, port, path)[0] == 200
    unshared = subprocess.run(["setpriv", f"--reuid={STRANGER}", "--clear-groups", "unshare", "-Ur", "true"], capture_output=True)
    if unshared.returncode == 0:  # root of a user namespace of one's own is not root
        result = subprocess.run(["setpriv", f"--reuid={STRANGER}", "--clear-groups", "unshare", "-Ur", "curl", "-s",
                                 f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True)
        assert json.loads(result.stdout)["error"]["code"] == "user"


@as_root
def test_the_page_is_for_the_user_who_started_attnd(tmp_path, monkeypatch):
    """And for root, but not for another user."""
    program = tmp_path / "attnd"
    program.write_text(f"#!/bin/sh\nexec setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups {ATTND} \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setattr("harness.ATTND", str(program))
    directory = tempfile.mkdtemp(prefix="attnd-")
    os.chown(directory, STRANGER, STRANGER)
    daemon = Web(directory=directory)
    for path in ("/", "/assets/main.js", "/api/v1/jobs", "/metrics"):
        assert [ask_as(uid, daemon.port, path)[0] for uid in (STRANGER, 0, STRANGER + 1)] == [200, 200, 403], path
    daemon.close()


@as_root
def test_users_without_a_number_are_nobody(tmp_path, monkeypatch):
    """In a user namespace that has root only, everybody else is one and the same."""
    if subprocess.run(["unshare", "-U", "--map-root-user", "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespace can be made here")
    program = tmp_path / "attnd"
    program.write_text(f"#!/bin/sh\nexec unshare -U --map-root-user {ATTND} \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setattr("harness.ATTND", str(program))
    daemon = Web()
    for uid in (STRANGER, 65534):
        status, body = ask_as(uid, daemon.port, "/metrics")
        assert status == 403 and "the kernel does not say whose" in json.loads(body)["error"]["message"]
    assert ask_as(0, daemon.port, "/metrics")[0] == 200
    daemon.close()


@as_root
def test_users_of_the_config_may_ask():
    daemon = Web(f"http.users=daemon {STRANGER}")
    assert ask_as(STRANGER, daemon.port, "/metrics")[0] == 200
    assert ask_as("daemon", daemon.port, "/api/v1/jobs")[0] == 200
    assert ask_as(STRANGER + 1, daemon.port, "/metrics")[0] == 403
    daemon.close()


@as_root
def test_another_user_may_ask_with_the_token(tmp_path):
    token = "0123456789abcdefXYZ"
    write_tokens(tmp_path / "token", token)
    daemon = Web(f"http.token_file={tmp_path / 'token'}")
    assert ask_as(STRANGER, daemon.port, "/")[0] == 200, "the page asks for the token"
    status, body = ask_as(STRANGER, daemon.port, "/api/v1/jobs")
    assert status == 401 and "Authorization: Bearer TOKEN" in json.loads(body)["error"]["message"]
    assert ask_as(STRANGER, daemon.port, "/api/v1/jobs", "-H", f"Authorization: Bearer {token}")[0] == 200
    assert ask_as(0, daemon.port, "/api/v1/jobs")[0] == 200
    daemon.close()


@as_root
def test_members_of_the_group_attnd_may_ask_a_service(tmp_path, monkeypatch):
    """One that runs as that group; the users are in files that only attnd sees in place of /etc's."""
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nann:x:54001:54001::/:/bin/sh\nbob:x:54002:54444::/:/bin/sh\n"
                                     "eve:x:54003:54003::/:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nattnd:x:54444:ann\nothers:x:54555:eve\n")
    for gid, members in ((54444, 200), (54555, 403)):
        service = tmp_path / f"attnd-{gid}"
        service.write_text(f"""#!/bin/sh
exec unshare -m sh -c 'mount --bind {tmp_path}/passwd /etc/passwd && mount --bind {tmp_path}/group /etc/group &&
exec setpriv --regid={gid} --clear-groups {ATTND} "$@"' sh "$@"
""")
        service.chmod(0o755)
        monkeypatch.setattr("harness.ATTND", str(service))
        daemon = Web()
        assert [ask_as(uid, daemon.port, "/metrics")[0] for uid in (54001, 54002, 54003)] == [members, members, 403]
        daemon.close()


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-IP"])
def test_what_is_forwarded_needs_a_token(attnd_web, header):
    """The proxy's user is not who asks."""
    response, body = attnd_web.get("/api/v1/jobs", **{header: "192.0.2.1"})
    assert response.status == 403 and "forwards" in json.loads(body)["error"]["message"]
    assert attnd_web.get("/healthz", **{header: "192.0.2.1"})[0].status == 200


def test_from_elsewhere_a_token_is_needed():
    """By an address of this machine that others reach it by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("there is no address but loopback")
        address = probe.getsockname()[0]
    daemon = Web("http.endpoint=tcp://*:*")
    connection = http.client.HTTPConnection(address, daemon.port, timeout=PATIENCE_S)
    for path, status in (("/api/v1/jobs", 403), ("/", 403), ("/healthz", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == status
        assert status == 200 or "from another machine" in json.loads(response.read())["error"]["message"]
        response.read()
    connection.close()
    assert daemon.get("/api/v1/jobs")[0].status == 200
    daemon.close()


@as_root
def test_a_stranger_that_hangs_up_is_never_let_in(attnd_web):
    """A socket that its process has closed is nobody's, which some kernels report as root's."""
    script = """if True:
        import os, socket, struct, sys
        os.setgroups([]); os.setgid(54321); os.setuid(54321)
        for i in range(1500):
            with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
                client.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
                if i % 3 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif i % 3 == 1:
                    client.shutdown(socket.SHUT_WR)
                    answer = client.recv(100)
                    assert answer[:12] == b"HTTP/1.1 403", answer
        """
    before = attnd_web.stats()
    subprocess.run([sys.executable, "-c", script, str(attnd_web.port)], check=True, timeout=120)
    after = attnd_web.stats()
    assert after["http_refused"] - before["http_refused"] >= 500
    assert after["http_refused"] - before["http_refused"] == after["http_requests"] - before["http_requests"]


@as_root
def test_users_that_do_not_exist_stop_the_start(tmp_path):
    result = start("http.users=root nobody-of-this-name", directory=tmp_path)
    assert result.returncode == 1
    assert "http.users: 'nobody-of-this-name': there is no such user on this machine" in result.stderr


def start(*settings, directory):
    """An attnd that is expected not to start."""
    return subprocess.run([ATTND, f"--set=history.path={directory}/history.db",
                           *(f"--set={name}.endpoint=ipc://{directory}/{name}" for name in ("ingest", "publish", "control", "tap")),
                           *(f"--set={setting}" for setting in settings)], capture_output=True, text=True, timeout=2 * PATIENCE_S)


# Its port


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
    daemon.close()


# The event stream


def test_the_stream_has_what_is_published(web, rng):
    stream = Stream(web)
    name, kind, data = stream.next()
    assert kind == "hello" and data["version"] == web.call("ping")["version"] and data["heartbeat_s"] == 0.2
    trainer = train(web, rng, steps=3, layers=1)
    lives = [stream.until("live") for _ in range(3)]
    assert [live[2]["step"] for live in lives] == [0, 1, 2] and lives[0][2]["job"] == "job"
    numbers = [int(live[0].split("-")[1]) for live in lives]
    assert numbers == sorted(set(numbers))
    trainer.event("epoch_end", epoch=0)
    assert stream.until("summary")[2]["messages"] == 3
    trainer.event("bye")
    while stream.until("job")[2]["state"] != "ended":
        pass
    stream.close()


def test_the_stream_has_what_trainings_report(web):
    stream = Stream(web, "?kinds=log")
    assert stream.next()[1] == "hello"
    trainer = Trainer(web, "gpt")
    web.trainers.append(trainer)
    trainer.event("hello")
    trainer.event("log", step=40, values={"loss": 2.5, "<b>norm": None})
    _, kind, data = stream.next()
    assert (kind, data["job"], data["step"], data["values"]) == ("log", "gpt", 40, {"loss": 2.5, "<b>norm": None})
    stream.close()


def test_a_client_hears_only_what_it_asked_for(web, rng):
    stream = Stream(web, "?job=b&kinds=summary")
    for job in "ab":
        train(web, rng, steps=2, layers=1, job=job).event("epoch_end", epoch=0)
    assert stream.next()[1] == "hello"
    _, kind, data = stream.next()
    assert (kind, data["job"]) == ("summary", "b")
    stream.close()


def test_a_client_that_comes_back_misses_nothing(web, rng):
    keeper, stream = Stream(web), Stream(web)
    train(web, rng, steps=2, layers=1)
    first = stream.until("live")
    stream.close()
    train(web, rng, steps=2, layers=1, first=2)
    heard = [keeper.until("live") for _ in range(4)]
    assert sorted(event[2]["step"] for event in heard) == [0, 1, 2, 3] and heard[0] == first
    again = Stream(web, "?kinds=live", Last_Event_ID=first[0])
    assert [again.until("live") for _ in range(3)] == heard[1:]
    by_query = Stream(web, "?kinds=live&last_event_id=" + first[0])
    assert by_query.until("live") == heard[1]
    for old in (keeper, again, by_query):
        old.close()


def test_ids_that_are_not_known_mean_resync(web, rng):
    for strange in ("00000000-1", "x", "", "ffffffff-99999999999999999999999", "1-2-3", "-1"):
        stream = Stream(web, Last_Event_ID=strange)
        assert [stream.next()[1] for _ in range(2)] == ["hello", "resync"], strange
        stream.close()


def test_what_nobody_listened_to_means_resync(web, rng):
    stream = Stream(web)
    last = stream.next()[0]
    stream.close()
    wait_until(lambda: metric(web, "attnd_http_event_clients") == 0, "the client is gone")
    train(web, rng, steps=1, layers=1)
    web.settled(1)
    stream = Stream(web, Last_Event_ID=last)
    assert [stream.next()[1] for _ in range(2)] == ["hello", "resync"]
    stream.close()


def metric(web, name):
    text = web.get("/metrics")[1].decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))


def test_live_values_are_thinned_and_the_newest_counts(rng):
    daemon = Web("http.live_interval=300ms")
    stream = Stream(daemon, "?kinds=live")
    train(daemon, rng, steps=50, layers=1)
    steps = [stream.until("live")[2]["step"]]
    while steps[-1] != 49:
        steps.append(stream.until("live")[2]["step"])
    assert len(steps) < 40 and steps == sorted(steps)
    stream.close()
    daemon.close()


def test_heartbeats_come_when_nothing_else_does():
    daemon = Web("http.heartbeat=100ms")
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        client.settimeout(PATIENCE_S)
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = b""
        while b":\n\n" not in seen:
            seen += client.recv(4096)
    daemon.close()


def test_more_clients_than_allowed_are_refused():
    daemon = Web("http.connections=8")
    streams = [Stream(daemon), Stream(daemon)]
    response, body = daemon.get("/api/v1/events")
    assert response.status == 503 and "http.connections" in body.decode() and response.headers["Retry-After"]
    streams.pop().close()
    wait_until(lambda: daemon.get("/api/v1/version")[0].status == 200, "answers")
    streams[0].close()
    daemon.close()


def test_a_client_that_does_not_read_is_told_to_ask_again(rng):
    """It stalls behind a small ring: others hear everything, and it hears that it missed something."""
    daemon = Web("publish.budget=1MiB", "http.live_interval=0s")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", daemon.port))
    slow.sendall(b"GET /api/v1/events?kinds=live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    fast = Stream(daemon, "?kinds=live")
    trainer = Trainer(daemon, "job")
    for step in range(400):
        trainer.attention(softmax_maps(rng, 1, 8, 8, 8), step=step)
        assert fast.until("live")[2]["step"] == step
    slow.settimeout(PATIENCE_S)
    text = b""
    while b"event: resync" not in text:
        text += slow.recv(65536)
    assert daemon.stats()["http_resyncs"] >= 1
    slow.close()
    fast.close()
    daemon.close()


def test_streams_end_when_attnd_stops():
    daemon = Web()
    streams = [Stream(daemon) for _ in range(3)]
    for stream in streams:
        assert stream.next()[1] == "hello"
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < PATIENCE_S
    assert all(stream.next() is None for stream in streams)
    daemon.context.destroy(linger=0)


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
    daemon.close()


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
    daemon.close()


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
    stream.close()
    trainer.close()
    daemon.close()


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
    daemon.close()


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
    daemon.close()


@as_root
def test_a_full_disk_is_not_ready_before_anything_fails(tmp_path, monkeypatch):
    """The history's disk is one that only attnd sees, full to the brim and then not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = tmp_path / "attnd"
    alone.write_text(f"#!/bin/sh\nexec unshare -m sh -c 'mount -t tmpfs -o size=4m none {disk} && exec {ATTND} \"$@\"' sh \"$@\"\n")
    alone.chmod(0o755)
    monkeypatch.setattr("harness.ATTND", str(alone))
    daemon = Web(f"history.path={disk}/history.db")
    assert readiness(daemon) == (200, "")
    filler = f"/proc/{daemon.process.pid}/root{disk}/filler"
    with open(filler, "wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 16))
    assert readiness(daemon) == (503, "the history cannot be written: its disk is full")
    os.remove(filler)
    assert readiness(daemon) == (200, "")
    daemon.close()


# Hostile clients


def raw(web, data, timeout=PATIENCE_S):
    """What comes back to these bytes until the connection ends or nothing more comes."""
    with socket.create_connection(("127.0.0.1", web.port)) as client:
        client.settimeout(timeout)
        answer = b""
        try:
            client.sendall(data)
            while b"\r\n\r\n" not in answer:
                got = client.recv(65536)
                if not got:
                    break
                answer += got
        except OSError:
            pass
        return answer


@pytest.mark.parametrize("data, statuses", ids=range(12), argvalues=[
    (b"GET / HTTP/1.1\r\n\r\n", {421, 400}),
    (b"nonsense\r\n\r\n", {400, 405, 505, None}),
    (b"\x00\x01\x02\x03\r\n\r\n", {400, 405, 505, None}),
    (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {414, 431, None}),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100000 + b"\r\n\r\n", {431, None}),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 5000 + b"\r\n", {431, None}),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {405}),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", {413, 400}),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", {400, 413}),
    (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", {505, 400, 200, None}),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 400}),
    (b"GET /api/v1/jobs?%zz=%00&\xff=\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
])
def test_malformed_requests_are_refused(attnd_web, data, statuses):
    answer = raw(attnd_web, data)
    status = int(answer.split()[1]) if answer.startswith(b"HTTP/") else None
    assert status in statuses, answer[:200]
    assert attnd_web.get("/healthz")[0].status == 200


def answers(daemon, path, status=200):
    """Whether this is the answer: where http.timeout is short, who is slow to ask is let go as well, and asks again."""
    try:
        return daemon.get(path)[0].status == status
    except ConnectionError:
        return False


def test_half_open_connections_are_closed_after_a_while():
    daemon = Web("http.timeout=1s", "http.connections=20")
    clients = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(30)]
    for client in clients[:15]:
        client.sendall(b"GET / HTTP/1.1\r\nHo")
    wait_until(lambda: answers(daemon, "/healthz"), "an answer once the others have been let go")
    for client in clients:
        client.settimeout(PATIENCE_S)
        assert ended(client)
        client.close()
    daemon.close()


def ended(client):
    """Reads until the other side ends the connection, which it has to within the socket's timeout."""
    try:
        while client.recv(1000):
            pass
    except ConnectionError:
        pass
    return True


def test_thousands_of_connections_break_nothing(rng):
    """As many as descriptors allow, up to 10000: ingest goes on, and HTTP does once they are gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(2000 if SANITIZED else 10000, hard - 200)
    daemon = Web("http.timeout=2s", "http.connections=500")
    clients = []
    try:
        port = daemon.port
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            clients.append(client)
        train(daemon, rng, steps=20)
        daemon.settled(40)
        before = daemon.rss_kb()
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: answers(daemon, "/healthz"), "HTTP answers again")
    assert before < (2_000_000 if SANITIZED else 200_000)
    daemon.close()


def test_silent_connections_make_room_for_those_who_ask():
    daemon = Web("http.connections=40", "http.timeout=1h")
    port, silent = daemon.port, []
    for _ in range(200):
        silent.append(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
    for _ in range(5):
        assert daemon.get("/healthz")[0].status == 200
    for client in silent:
        client.close()
    daemon.close()


@pytest.mark.parametrize("lines", [
    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 5\r\n",
    "GET /assets/main.js%00.txt HTTP/1.1\r\nHost: localhost\r\n",
])
def test_what_a_proxy_may_read_otherwise_is_refused(web, lines):
    assert raw(web, lines.encode() + b"\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("accepted, encoding", [
    ("gzip;q=0.5", "gzip"), ("br, GZIP ; q=1", "gzip"), ("gzip; q=0", None), ("gzip;q=0.000", None), ("x-gzip", None)])
def test_the_weight_of_gzip_is_heard(attnd_web, accepted, encoding):
    assert attnd_web.get("/assets/main.js", Accept_Encoding=accepted)[0].headers["Content-Encoding"] == encoding


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


def test_clients_that_come_and_go_leave_nothing_behind(web, rng):
    """Connections that break at any point of a request, an answer or a stream."""
    def visit(seed):
        randomly = random.Random(seed)
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port)) as client:
                path = randomly.choice(["/", "/metrics", "/api/v1/events", "/api/v1/jobs", "/api/v1/runs", "/assets/d3.min.js"])
                request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                client.sendall(request[:randomly.randrange(1, 2 * len(request))])
                if randomly.random() < 0.5:
                    client.settimeout(0.05)
                    try:
                        client.recv(randomly.randrange(1, 20000))
                    except OSError:
                        pass
                if randomly.random() < 0.5:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    port = web.port
    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    train(web, rng, steps=30)
    for thread in threads:
        thread.join()
    web.settled(60)
    wait_until(lambda: metric(web, "attnd_http_event_clients") == 0, "the streams are gone")
    descriptors = len(os.listdir(f"/proc/{web.process.pid}/fd"))
    assert descriptors < 100, descriptors


def test_a_request_that_trickles_is_cut_off():
    """One byte at a time is never silence, and yet no request."""
    daemon = Web("http.timeout=1s")
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        client.settimeout(0.1)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < PATIENCE_S:
                client.sendall(b"a")
                try:
                    if not client.recv(100):
                        raise ConnectionError
                except socket.timeout:
                    pass
        assert time.monotonic() - started > 0.9
    daemon.close()


def test_a_stream_whose_client_has_hung_up_is_noticed():
    """Long before the next heartbeat: another client can have its place."""
    daemon = Web("http.heartbeat=1h", "http.connections=4")
    for _ in range(3):
        wait_until(lambda: metric(daemon, "attnd_http_event_clients") == 0, "the place is free")
        stream = Stream(daemon)
        assert stream.next()[1] == "hello"
        stream.close()
        stream.response.close()
    daemon.close()


def test_a_stream_that_is_never_read_is_cut_off(rng):
    """The kernel takes what it can; then it is silence for http.timeout."""
    daemon = Web("http.timeout=5s", "http.live_interval=0s")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: metric(daemon, "attnd_http_event_clients") == 1, "the stream is open")
        trainer = Trainer(daemon, "job")
        for step in range(3000):
            trainer.attention(softmax_maps(rng, 1, 64, 4, 4), step=step)
            if step % 50 == 49:
                daemon.settled(step + 1)
                if metric(daemon, "attnd_http_event_clients") == 0:
                    break
        wait_until(lambda: metric(daemon, "attnd_http_event_clients") == 0, "the stream is cut off")
    daemon.close()


def test_head_of_the_event_stream_ends(web):
    for _ in range(3):
        response, body = web.get("/api/v1/events", method="HEAD")
        assert response.status == 200 and body == b""
    wait_until(lambda: metric(web, "attnd_http_event_clients") == 0, "the stream is gone")


def test_answers_that_nobody_reads_are_bounded():
    """They wait in memory up to publish.budget; then others are told to come back, until they are gone."""
    daemon = Web("publish.budget=1MiB", "http.timeout=5s")
    request = b"GET /assets/d3.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"  # 270 kB, unpacked for each
    clients = []
    for _ in range(8):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", daemon.port))
        client.sendall(40 * request)  # the kernel takes the first ones
        clients.append(client)
    wait_until(lambda: daemon.get("/assets/d3.min.js")[0].status == 503, "no room for another")
    response, body = daemon.get("/assets/d3.min.js")
    if response.status == 503:
        assert "publish.budget" in json.loads(body)["error"]["message"] and response.headers["Retry-After"] == "1"
    assert daemon.get("/healthz")[0].status == 200 and daemon.get("/assets/d3.min.js", Accept_Encoding="gzip")[0].status == 200
    wait_until(lambda: daemon.get("/assets/d3.min.js")[0].status == 200, "who does not read is cut off")
    for client in clients:
        client.close()
    daemon.close()


def test_many_questions_at_once_are_all_answered(web, rng):
    """More than the loop thread is given at a time; some of those who ask do not wait."""
    train(web, rng, steps=3)
    clients = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(200)]
    for client in clients:
        client.settimeout(PATIENCE_S)
        client.sendall(b"GET /api/v1/summary?job=nobody HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for client in clients[::5]:
        client.close()
    for i, client in enumerate(clients):
        if i % 5:
            assert client.recv(100).startswith(b"HTTP/1.1 404")
            client.close()
    web.settled(6)


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_in_the_middle_of_requests_is_clean(rng, seed):
    """Requests keep coming while attnd ends: each has an answer, or its connection ends."""
    daemon = Web()
    train(daemon, rng, steps=2)
    port, stop = daemon.port, threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
                    client.sendall(b"GET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
                    while client.recv(65536):
                        pass
            except OSError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.2 + 0.05 * seed)
    status = daemon.stop()
    stop.set()
    for thread in threads:
        thread.join()
    assert status == 0 and "panic" not in daemon.log_text().lower()
    daemon.context.destroy(linger=0)
