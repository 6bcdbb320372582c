# SPDX-License-Identifier: MIT
"""The user of a connection to the page: who is let in without a token."""
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile

import pytest
from harness import PATIENCE_S
from web import Web, write_tokens

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
STRANGER = 54321


def ask_as(uid, port, path, *arguments):
    """Status and body of what this user gets."""
    result = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "curl", "-s", "-w", "\n%{http_code}",
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
def test_the_page_is_for_the_user_who_started_attnd(attnd_by):
    """And for root, but not for another user."""
    attnd_by(f"setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups $ATTND")
    directory = tempfile.mkdtemp(prefix="attnd-")
    os.chown(directory, STRANGER, STRANGER)
    daemon = Web(directory=directory)
    for path in ("/", "/assets/main.js", "/api/v1/jobs", "/metrics"):
        assert [ask_as(uid, daemon.port, path)[0] for uid in (STRANGER, 0, STRANGER + 1)] == [200, 200, 403], path


@as_root
def test_users_without_a_number_are_nobody(attnd_by):
    """In a user namespace that has root only, everybody else is one and the same."""
    if subprocess.run(["unshare", "-U", "--map-root-user", "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespace can be made here")
    attnd_by("unshare -U --map-root-user $ATTND")
    daemon = Web()
    for uid in (STRANGER, 65534):
        status, body = ask_as(uid, daemon.port, "/metrics")
        assert status == 403 and "the kernel does not say whose" in json.loads(body)["error"]["message"]
    assert ask_as(0, daemon.port, "/metrics")[0] == 200


@as_root
def test_users_of_the_config_may_ask():
    daemon = Web(f"http.users=daemon {STRANGER}")
    assert ask_as(STRANGER, daemon.port, "/metrics")[0] == 200
    assert ask_as("daemon", daemon.port, "/api/v1/jobs")[0] == 200
    assert ask_as(STRANGER + 1, daemon.port, "/metrics")[0] == 403


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


@as_root
def test_members_of_the_group_attnd_may_ask_a_service(tmp_path, attnd_by):
    """One that runs as that group; the users are in files that only attnd sees in place of /etc's."""
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nann:x:54001:54001::/:/bin/sh\nbob:x:54002:54444::/:/bin/sh\n"
                                     "eve:x:54003:54003::/:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nattnd:x:54444:ann\nothers:x:54555:eve\n")
    for gid, members in ((54444, 200), (54555, 403)):
        attnd_by(f"unshare -m sh -c 'mount --bind {tmp_path}/passwd /etc/passwd && mount --bind {tmp_path}/group /etc/group &&"
                 f" exec setpriv --regid={gid} --clear-groups $ATTND' sh \"$@\"")
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
