# SPDX-License-Identifier: MIT
"""deploy/proxy/nginx.conf: nginx in front of attnd, with TLS and a login; and whom attnd believes who somebody is."""
import grp
import http.client
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import threading

import numpy as np
import pytest
from harness import ATTND, PATIENCE_S, free_ports, wait_until
from web import Stream, Web, train, write_tokens

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "..")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
TOKEN = "0123456789abcdefXYZ"
NAME = "attnd.example.org"

needs_nginx = pytest.mark.skipif(not NGINX, reason="no nginx here: deploy/deps test installs it")


def log_of(path):
    return path.read_text() if path.exists() else ""


class Behind(Web):
    """An attnd at a Unix socket."""

    def __init__(self, path, *settings, **keys):
        self.path = str(path)
        super().__init__(*settings, f"http.endpoint=ipc://{path}", **keys)

    def connect(self):
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(self.path)
        return connection


class Login(http.server.BaseHTTPRequestHandler):
    """In the place of oauth2-proxy: the cookie says who it is."""

    def do_GET(self):
        name = re.search(r"login=(\S+)", self.headers.get("Cookie", ""))
        known = self.path == "/oauth2/auth" and name
        self.send_response(202 if known else 401 if self.path == "/oauth2/auth" else 403)
        if known and name[1] != "nameless":
            self.send_header("X-Auth-Request-Email", name[1])
        self.end_headers()

    def log_message(self, *_):
        pass


class Proxy:
    """nginx with the example, on ports of its own."""

    def __init__(self, tmp_path, path):
        self.port = free_ports(1)
        self.login = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Login)
        threading.Thread(target=self.login.serve_forever, daemon=True).start()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}", "-addext",
                        f"subjectAltName=DNS:{NAME}", "-keyout", tmp_path / "attnd.key", "-out", tmp_path / "attnd.pem"],
                       check=True, capture_output=True)
        with open(os.path.join(ROOT, "deploy", "proxy", "nginx.conf"), encoding="utf-8") as file:
            site = file.read()
        for old, new in (("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"), ("unix:/run/attnd-http/http", f"unix:{path}"),
                         ("127.0.0.1:4180", f"127.0.0.1:{self.login.server_port}"), ("/etc/ssl/", f"{tmp_path}/")):
            assert old in site
            site = site.replace(old, new)
        (tmp_path / "site.conf").write_text(site)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; user www-data; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}}\n"
            f"http {{ access_log {tmp_path}/accesses; include {tmp_path}/site.conf;\n"
            + "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds) + "}\n")
        self.context = ssl.create_default_context(cafile=tmp_path / "attnd.pem")
        self.accesses, self.errors = tmp_path / "accesses", tmp_path / "errors"
        self.process = subprocess.Popen([NGINX, "-e", str(self.errors), "-c", str(tmp_path / "nginx.conf")])
        wait_until(lambda: (tmp_path / "pid").exists() and self.get("/healthz") is not None, "nginx")

    def connect(self):
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S, context=self.context)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sock = self.context.wrap_socket(plain, server_hostname=NAME)
        return connection

    def get(self, path, login=None, **headers):
        """Status and body; None while nobody listens."""
        try:
            connection = self.connect()
        except OSError:
            return None
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=dict(headers, Host=NAME, **({"Cookie": f"login={login}"} if login else {})))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.login.shutdown()
        self.login.server_close()


@pytest.fixture
def place():
    """The directory of the socket: root gives it the group of nginx, which then runs as another user."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="attnd-proxy-"))
    if os.geteuid() == 0 and NGINX:
        os.chown(path, 0, grp.getgrnam("www-data").gr_gid)
    path.chmod(0o2750)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tokens(tmp_path):
    write_tokens(tmp_path / "tokens", "user:ann@example.org read a*", "user:*@admins read *", f"{TOKEN} read *")
    return tmp_path / "tokens"


def jobs(answer):
    status, body = answer
    return {job["job"] for job in json.loads(body)} if status == 200 else status


def ask(web, **headers):
    answer, body = web.get("/api/v1/jobs", **headers)
    return answer.status, body


def test_a_socket_for_a_proxy_knows_no_users_but_those_it_is_told(place, tokens):
    web = Behind(place / "http", f"http.token_file={tokens}")
    train(web, np.random.default_rng(1), job="a-open")
    train(web, np.random.default_rng(1), job="b-secret")
    wait_until(lambda: jobs(ask(web, X_Forwarded_User="eve@admins")) == {"a-open", "b-secret"}, "both jobs")
    assert jobs(ask(web)) == 401, "root, and attnd's own user, too: it is the proxy's"
    assert jobs(ask(web, X_Forwarded_User="ann@example.org")) == {"a-open"}
    for nobody in ("bob@example.org", "ann@example.or", "*", "", TOKEN, "x" * 300):
        assert jobs(ask(web, X_Forwarded_User=nobody)) == 401, nobody
    assert jobs(ask(web, Authorization=f"Bearer {TOKEN}")) == {"a-open", "b-secret"}
    assert jobs(ask(web, Authorization="Bearer user:eve@admins")) == 401
    assert jobs(ask(web, Authorization="Bearer " + TOKEN[:-1], X_Forwarded_User="eve@admins")) == 401, "it has to be right"
    web.close()
    assert not (place / "http").exists()


def test_a_user_that_a_header_names_over_tcp_is_nobody(tokens):
    web = Web(f"http.token_file={tokens}")
    for headers in (dict(X_Forwarded_User="eve@admins"), dict(X_Forwarded_User="eve@admins", X_Forwarded_For="127.0.0.1")):
        assert web.get("/api/v1/jobs", **headers)[0].status == 401
    assert web.get("/api/v1/jobs", Authorization=f"Bearer {TOKEN}", X_Forwarded_User="nobody")[0].status == 200


def test_the_file_of_the_socket_is_for_the_group_of_its_directory(place, tokens):
    """One that was left behind makes room; one that is in use does not."""
    path = place / "http"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    web = Behind(path, f"http.token_file={tokens}")
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o660 and status.st_gid == place.stat().st_gid
    again = subprocess.run([ATTND, "--address", str(place / "other"), f"--set=http.endpoint=ipc://{path}", "--set=history.enabled=false"],
                           capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert again.returncode == 1 and f"http.endpoint: cannot bind ipc://{path}: Address already in use" in again.stderr
    assert path.exists() and jobs(ask(web, X_Forwarded_User="eve@admins")) == set()
    web.close()
    place.chmod(0o700)
    web = Behind(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def proxied(tmp_path, place, tokens):
    """An attnd with these settings, and nginx in front of it."""
    proxies = []

    def make(*settings):
        web = Behind(place / "http", f"http.token_file={tokens}", f"http.hosts={NAME}", *settings)
        proxies.append(Proxy(tmp_path, place / "http"))
        return web, proxies[0]
    yield make
    for proxy in proxies:
        proxy.close()


@needs_nginx
def test_nginx_speaks_tls_asks_for_a_login_and_tells_attnd(proxied):
    web, proxy = proxied()
    for job in ("a-open", "b-secret"):
        train(web, np.random.default_rng(1), job=job)
    wait_until(lambda: len(web.call("jobs")) == 2, "both jobs")
    assert proxy.get("/api/v1/jobs")[0] == 403, "the login's page"
    assert jobs(proxy.get("/api/v1/jobs", "ann@example.org")) == {"a-open"}
    assert jobs(proxy.get("/api/v1/jobs", "eve@admins")) == {"a-open", "b-secret"}
    assert proxy.get("/api/v1/jobs", "bob@example.org")[0] == 401 == proxy.get("/api/v1/jobs", "nameless")[0]
    for headers in (dict(X_Forwarded_User="eve@admins"), dict(x_forwarded_user="eve@admins")):
        assert jobs(proxy.get("/api/v1/jobs", "ann@example.org", **headers)) == {"a-open"}, "his own header counts for nothing"
        assert proxy.get("/api/v1/jobs", "nameless", **headers)[0] == 401
        assert proxy.get("/metrics", **headers)[0] == 401
    assert proxy.get("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert b"<!doctype html>" in proxy.get("/", "ann@example.org")[1].lower()
    assert jobs(proxy.get("/api/v1/jobs", "ann@example.org", Origin=f"https://{NAME}")) == {"a-open"}
    assert proxy.get("/api/v1/jobs", "ann@example.org", Origin="https://evil.example")[0] == 403


@needs_nginx
def test_an_event_comes_through_nginx_at_once(proxied):
    """While the stream is open, though an event is far smaller than a buffer."""
    web, proxy = proxied("http.live_interval=0s", "http.heartbeat=1h")
    stream = Stream(proxy, Host=NAME, Cookie="login=ann@example.org")
    assert stream.next()[1] == "hello"
    for step in range(3):
        for job in ("b-secret", "a-open"):
            train(web, np.random.default_rng(1), job=job, steps=1, layers=1, first=step)
        assert stream.until("live")[2]["job"] == "a-open"
    stream.close()
    assert TOKEN not in log_of(proxy.accesses)
