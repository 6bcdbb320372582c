# SPDX-License-Identifier: MIT
"""Users of NATS with a file of credentials."""
import os
import subprocess

import pytest
from fleet import Hub, Node, Server, Training, whole
from harness import wait_until

accounts = pytest.importorskip("accounts", reason="there is no module cryptography")
CERTIFICATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy", "cluster", "certificates")


@pytest.mark.parametrize("scheme", ["nats", "tls"])
def test_credentials_let_nodes_and_hubs_in_and_no_others(server, tmp_path, scheme):
    server.stop()
    known, tls, ca = accounts.Accounts(), "", []
    if scheme == "tls":
        subprocess.run([CERTIFICATES, tmp_path, "127.0.0.1"], check=True, capture_output=True)
        tls, ca = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}\n', [f"fleet.tls_ca={tmp_path}/ca.pem"]
    one = Server(tls + known.config)
    url = one.url.replace("nats:", f"{scheme}:")
    good = f"fleet.credentials={known.credentials(tmp_path / 'user.creds')}"
    bad = f"fleet.credentials={known.credentials(tmp_path / 'other.creds', accounts.Key('account'))}"
    hub, node = Hub(one, "hub", good, *ca, url=url), Node(one, "node", good, *ca, url=url)
    training = Training([node])
    training.steps(6)
    training.finish(hub)
    whole(hub, [node])
    others = [Node(one, "none", *ca, url=url), Node(one, "bad", bad, *ca, url=url)]
    for other in others:
        wait_until(lambda: "does not let this attnd in" in (other.fleet()["error"] or ""), f"a refusal ({other.fleet()})")
