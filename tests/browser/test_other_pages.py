# SPDX-License-Identifier: MIT
"""Pages of somebody else's, in the browser of attnd's own user: they can speak to any port of this machine, and change nothing."""
import base64
import contextlib
import functools
import http.server
import os
import threading

import msgpack
import pytest
from harness import Attnd, Trainer, free_ports

HTTP = ("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*")
JOB = "mine"


def plan_set(parity):
    """A body that follows an HTTP request's headers, as a socket of ZeroMQ reads it: it takes these for the lengths and frames of
    ZMTP/1.0, runs into a slide of empty frames at one of two places, and comes to a request."""
    request = msgpack.packb([0, 1, "plan.set", {"job": JOB, "every": 7}])
    return b"\x01" * (400 + parity) + b"\x01\x00" + bytes([len(request) + 1, 0]) + request


# Everything that a page can do without being asked, at each address; told when all of it has come to an end.
PAGE = """<!DOCTYPE html><title>evil</title><script>
const quiet = async (what) => { try { return await what(); } catch (error) { return String(error); } };
const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
async function attack(port, paths, bodies) {
    const results = [];
    for (const path of paths) {
        const url = `http://127.0.0.1:${port}${path}`;
        for (const body of bodies)
            for (const method of ["POST", "PUT"])
                results.push(await quiet(async () => {
                    const stop = AbortSignal.timeout(1000);
                    const mode = method === "POST" ? "no-cors" : "cors";
                    const response = await fetch(url, { method, mode, body: bytes(body), signal: stop });
                    return response.type + response.status + await response.text();
                }));
        for (const mode of ["no-cors", "cors"])
            results.push(await quiet(async () => {
                const response = await fetch(url, { mode, signal: AbortSignal.timeout(1000) });
                return response.type + response.status + await response.text();
            }));
        for (const body of bodies)
            results.push(await quiet(() => navigator.sendBeacon(url, bytes(body))));
        results.push(await new Promise((done) => {
            const frame = document.createElement("iframe"), form = document.createElement("form");
            frame.name = "frame" + Math.random();
            Object.assign(form, { method: "post", action: url, enctype: "text/plain", target: frame.name });
            form.innerHTML = '<input name="every" value="7"><input name="job" value="mine">';
            document.body.append(frame, form);
            frame.onload = () => done(quiet(() => frame.contentDocument?.body?.innerText ?? "not readable"));
            setTimeout(() => done("nothing came"), 1000);
            form.submit();
        }));
        for (const open of [() => new WebSocket(url.replace("http", "ws")), () => new EventSource(url)])
            results.push(await new Promise((done) => {
                const source = open();
                source.onopen = () => done("opened");
                source.onmessage = (event) => done(event.data);
                source.onerror = () => done("refused");
                setTimeout(() => { source.close(); done("nothing came"); }, 1000);
            }));
    }
    return results;
}
</script><body></body>"""


@pytest.fixture(params=["http", "file"])
def elsewhere(request, tmp_path):
    """The address of such a page: of another origin, or a file that was downloaded."""
    (tmp_path / "evil.html").write_text(PAGE)
    if request.param == "file":
        yield f"file://{tmp_path}/evil.html"
        return

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}/evil.html"
    server.shutdown()
    thread.join()
    server.server_close()


def attack(browser, page, port, paths):
    """The page's results of each attempt."""
    browser.set_script_timeout(120)
    browser.get("about:blank")
    browser.get(page)
    bodies = [base64.b64encode(plan_set(parity)).decode() for parity in range(2)]
    results = browser.execute_async_script(
        "const [port, paths, bodies, done] = arguments; attack(port, paths, bodies).then(done)", port, paths, bodies)
    browser.get_log("browser")  # it complains, as it should
    return results


def ports_of(attnd):
    """TCP ports on which the process listens."""
    inodes = set()
    for fd in os.listdir(f"/proc/{attnd.process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(f"/proc/{attnd.process.pid}/fd/{fd}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{attnd.process.pid}/net/{table}") as file:
            for line in list(file)[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


@pytest.fixture
def attnd():
    daemon = Attnd(*HTTP)
    Trainer(daemon, JOB).event("hello")
    daemon.settled(1)
    yield daemon
    daemon.close()
    daemon.discard()


def test_a_page_of_another_origin_changes_and_learns_nothing(browser, elsewhere, attnd):
    port = int(attnd.call("config")["http.endpoint"].rsplit(":", 1)[1])
    assert ports_of(attnd) == {port}, "with its sockets in a directory there is no other port to speak to"
    plan, jobs, before = attnd.call("plan.get", job=JOB), attnd.call("jobs"), attnd.stats()
    paths = ["/", "/api/v1/plan?job=mine&every=7", "/api/v1/jobs", "/api/v1/events", "/metrics"]
    results = attack(browser, elsewhere, port, paths)
    after = attnd.stats()
    assert after["http_refused"] - before["http_refused"] >= 5 * len(paths), "the attempts got as far as attnd"
    assert (attnd.call("plan.get", job=JOB), attnd.call("jobs")) == (plan, jobs)
    assert after["received"] == before["received"] and after["dropped"] == before["dropped"]
    for result in results:
        assert not any(word in str(result) for word in ("opened", JOB, "attnd", "entropy", "basic200", "cors200")), result


class Open(Attnd):
    """One with control on TCP, as somebody has asked for."""

    def __init__(self):
        self.port = free_ports(1)
        super().__init__("insecure=true", f"control.endpoint=tcp://127.0.0.1:{self.port}")

    def endpoint(self, name):
        return f"tcp://127.0.0.1:{self.port}" if name == "control" else super().endpoint(name)


def test_a_page_is_no_peer_where_everybody_is_let_in(browser, elsewhere):
    """Sockets of ZeroMQ take its requests for ZMTP/1.0, and followed them, where TCP is asked for by name."""
    daemon = Open()
    every = daemon.call("plan.get", job=JOB)["every"]
    results = attack(browser, elsewhere, daemon.port, ["/"])
    assert results and every != 7
    assert daemon.call("plan.get", job=JOB)["every"] == every
    for result in results:
        assert not any(word in str(result) for word in ("opened", "basic200", "cors200")), result
    daemon.close()
    daemon.discard()
