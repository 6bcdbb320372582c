# SPDX-License-Identifier: MIT
"""HTTP clients that are broken, many, slow or hostile: attnd answers the others."""
import contextlib
import json
import os
import random
import resource
import socket
import struct
import threading
import time

import pytest
from harness import PATIENCE_S, SANITIZED, wait_until
from web import Web, request, train


def raw(web, data):
    """What comes back to these bytes until the headers or the connection end, or nothing more comes."""
    answer = b""
    with web.by_hand() as client, contextlib.suppress(OSError):
        client.sendall(data)
        while b"\r\n\r\n" not in answer and (got := client.recv(65536)):
            answer += got
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
    clients = [daemon.by_hand(b"GET / HTTP/1.1\r\nHo" * (number < 15)) for number in range(30)]
    wait_until(lambda: answers(daemon, "/healthz"), "an answer once the others have been let go")
    for client in clients:
        with contextlib.suppress(ConnectionError):
            while client.recv(1000):  # the end comes within the socket's timeout
                pass


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


def test_silent_connections_make_room_for_those_who_ask():
    daemon = Web("http.connections=40", "http.timeout=1h")
    _silent = [daemon.by_hand() for _ in range(200)]
    for _ in range(5):
        assert daemon.get("/healthz")[0].status == 200


@pytest.mark.parametrize("lines", [
    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
    "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 5\r\n",
    "GET /assets/main.js%00.txt HTTP/1.1\r\nHost: localhost\r\n",
])
def test_what_a_proxy_may_read_otherwise_is_refused(web, lines):
    assert raw(web, lines.encode() + b"\r\n").startswith(b"HTTP/1.1 400 ")


def test_clients_that_come_and_go_leave_nothing_behind(web, rng):
    """Connections that break at any point of a request, an answer or a stream."""
    def visit(seed):
        randomly = random.Random(seed)
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", port)) as client:
                path = randomly.choice(["/", "/metrics", "/api/v1/events", "/api/v1/jobs", "/api/v1/runs", "/assets/d3.min.js"])
                client.sendall(request(path)[:randomly.randrange(1, 2 * len(request(path)))])
                if randomly.random() < 0.5:
                    client.settimeout(0.05)
                    with contextlib.suppress(OSError):
                        client.recv(randomly.randrange(1, 20000))
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
    wait_until(lambda: web.metric("attnd_http_event_clients") == 0, "the streams are gone")
    descriptors = len(os.listdir(f"/proc/{web.process.pid}/fd"))
    assert descriptors < 100, descriptors


def test_a_request_that_trickles_is_cut_off():
    """One byte at a time is never silence, and yet no request."""
    daemon = Web("http.timeout=1s")
    with daemon.by_hand() as client:
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


def test_answers_that_nobody_reads_are_bounded():
    """They wait in memory up to publish.budget; then others are told to come back, until they are gone."""
    daemon = Web("publish.budget=1MiB", "http.timeout=5s")
    questions = 40 * request("/assets/d3.min.js")  # 270 kB, unpacked for each; the kernel takes the first ones
    _clients = [daemon.by_hand(questions, receives=4096) for _ in range(8)]
    wait_until(lambda: daemon.get("/assets/d3.min.js")[0].status == 503, "no room for another")
    response, body = daemon.get("/assets/d3.min.js")
    if response.status == 503:
        assert "publish.budget" in json.loads(body)["error"]["message"] and response.headers["Retry-After"] == "1"
    assert daemon.get("/healthz")[0].status == 200 and daemon.get("/assets/d3.min.js", Accept_Encoding="gzip")[0].status == 200
    wait_until(lambda: daemon.get("/assets/d3.min.js")[0].status == 200, "who does not read is cut off")


def test_many_questions_at_once_are_all_answered(web, rng):
    """More than the loop thread is given at a time; some of those who ask do not wait."""
    train(web, rng, steps=3)
    clients = [web.by_hand() for _ in range(200)]
    for client in clients:
        client.sendall(request("/api/v1/summary?job=nobody"))
    for client in clients[::5]:
        client.close()
    for i, client in enumerate(clients):
        assert i % 5 == 0 or client.recv(100).startswith(b"HTTP/1.1 404")
    web.settled(6)


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_in_the_middle_of_requests_is_clean(rng, seed):
    """Requests keep coming while attnd ends: each has an answer, or its connection ends."""
    daemon = Web()
    train(daemon, rng, steps=2)
    port, stop = daemon.port, threading.Event()

    def ask():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
                    client.sendall(20 * request("/api/v1/stats"))
                    while client.recv(65536):
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
