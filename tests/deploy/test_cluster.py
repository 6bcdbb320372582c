# SPDX-License-Identifier: MIT
"""deploy/cluster: NATS reads its config and holds its users to what FLEET.md says; the rest is well formed and agrees."""
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from commands import ROOT, output, run

CLUSTER = ROOT / "deploy/cluster"
ATTND = os.environ["ATTND_BIN"]
SERVER = shutil.which("nats-server", path=os.environ["PATH"] + ":/usr/sbin")
needs_server = pytest.mark.skipif(SERVER is None or shutil.which("openssl") is None, reason="no nats-server or no openssl")
STREAM = {"name": "attnd-parts", "subjects": ["attnd.part.*.*"], "storage": "file", "retention": "limits",
          "discard": "old", "num_replicas": 1, "max_bytes": 2**20}
PULL = {"stream_name": "attnd-parts", "config": {"durable_name": "attnd-hub-1", "ack_policy": "explicit"}}
NOBODYS = ("$JS.API.STREAM.DELETE.attnd-parts", "$JS.API.STREAM.PURGE.attnd-parts", "$JS.API.STREAM.CREATE.mine",
           "$JS.API.STREAM.UPDATE.attnd-parts")
PART, ASK, LIFE = "attnd.part.0011223344556677." + 32 * "0", "attnd.ask.0011223344556677", "attnd.node.0011223344556677"


class Client:
    """One connection to NATS, as a user: what it may do."""

    def __init__(self, port, directory, who):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.lines = b""
        assert self.line().startswith("INFO ")
        context = ssl.create_default_context(cafile=directory / "ca.pem")
        if who:
            context.load_cert_chain(directory / f"{who}.pem", directory / f"{who}.key")
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.send('CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nPING\r\n')
        self.until("PONG")
        self.inboxes = 0

    def send(self, text):
        self.socket.sendall(text.encode())

    def line(self):
        while b"\r\n" not in self.lines:
            more = self.socket.recv(65536)
            assert more, "the server has closed the connection"
            self.lines += more
        line, self.lines = self.lines.split(b"\r\n", 1)
        return line.decode()

    def until(self, wanted):
        """All lines before it, in one string."""
        found = []
        while not (line := self.line()).startswith(wanted):
            found.append(line)
        return "\n".join(found)

    def said(self, text):
        """What the server says of it: "" is consent."""
        self.send(text + "PING\r\n")
        return self.until("PONG")

    def publish(self, subject):
        return self.said(f"PUB {subject} 1\r\nx\r\n")

    def subscribe(self, subject):
        return self.said(f"SUB {subject} 7\r\n")

    def assert_forbidden(self, publish, subscribe):
        for subject in publish:
            assert "Permissions Violation for Publish" in self.publish(subject), subject
        for subject in subscribe:
            assert "Permissions Violation for Subscription" in self.subscribe(subject), subject

    def ask(self, subject, body):
        """The answer of JetStream, or an error of permission in words."""
        self.inboxes += 1
        inbox, text = f"_INBOX.{self.inboxes}", json.dumps(body) if body else ""
        self.send(f"SUB {inbox} {self.inboxes + 10}\r\nPUB {subject} {inbox} {len(text)}\r\n{text}\r\n")
        while True:
            line = self.line()
            if line.startswith("-ERR"):
                return line
            if line.startswith(f"MSG {inbox} "):
                return self.line()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cluster") / "tls"
    output(CLUSTER / "certificates", directory, "localhost", "127.0.0.1")
    return directory


@pytest.fixture(scope="module")
def port(files):
    """A server with nats.conf; only its paths and its port are others."""
    text = (CLUSTER / "nats.conf").read_text()
    place = files.parent
    for old, new in {"/etc/attnd/fleet": files, "/var/lib/nats": place / "store", "0.0.0.0:4222": "127.0.0.1:-1"}.items():
        assert str(old) in text
        text = text.replace(old, str(new))
    (place / "nats.conf").write_text(re.sub(r"^http:.*$", "", text, flags=re.M))
    output(SERVER, "-c", place / "nats.conf", "-t")
    server = subprocess.Popen([SERVER, "-c", place / "nats.conf", "--ports_file_dir", place, "-l", place / "nats.log"])
    try:
        deadline = time.monotonic() + 30
        while not (found := list(place.glob("*.ports"))) or not (text := found[0].read_text()):
            assert server.poll() is None and time.monotonic() < deadline, (place / "nats.log").read_text()
            time.sleep(0.02)
        yield int(re.search(r":(\d+)", json.loads(text)["nats"][0]).group(1))
    finally:
        server.terminate()
        server.wait(30)


@needs_server
def test_nobody_comes_in_without_a_certificate(port, files):
    with pytest.raises((AssertionError, OSError)):
        Client(port, files, None)


@needs_server
def test_a_node_does_what_a_node_does_and_nothing_else(port, files):
    node = Client(port, files, "node")
    assert '"attnd-parts"' in node.ask("$JS.API.STREAM.CREATE.attnd-parts", STREAM)
    assert '"attnd-parts"' in node.ask("$JS.API.STREAM.INFO.attnd-parts", {})
    assert '"stream":"attnd-parts"' in node.ask(PART, {"a": "row"})
    assert node.publish(LIFE) == "" and node.subscribe(ASK) == ""
    node.assert_forbidden(
        (ASK, *NOBODYS, "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.attnd-parts", "$JS.API.STREAM.MSG.DELETE.attnd-parts",
         "$JS.API.DIRECT.GET.attnd-parts", "$JS.API.CONSUMER.CREATE.attnd-parts", "$JS.API.CONSUMER.DURABLE.CREATE.attnd-parts.mine",
         "$JS.API.CONSUMER.MSG.NEXT.attnd-parts.attnd-hub-1", "$JS.API.CONSUMER.DELETE.attnd-parts.attnd-hub-1",
         "$JS.ACK.attnd-parts.attnd-hub-1.1.1.1.1.0", "_INBOX.1", "anything"),
        ("attnd.part.>", "attnd.node.*", "$JS.>", ">"))


@needs_server
def test_a_hub_reads_and_asks_and_sends_no_parts(port, files):
    hub = Client(port, files, "hub")
    hub.ask("$JS.API.STREAM.CREATE.attnd-parts", STREAM)
    assert '"attnd-hub-1"' in hub.ask("$JS.API.CONSUMER.DURABLE.CREATE.attnd-parts.attnd-hub-1", PULL)
    assert '"num_pending"' in hub.ask("$JS.API.CONSUMER.INFO.attnd-parts.attnd-hub-1", {})
    assert hub.publish("$JS.API.CONSUMER.MSG.NEXT.attnd-parts.attnd-hub-1") == ""
    assert hub.publish("$JS.ACK.attnd-parts.attnd-hub-1.1.1.1.1.0") == ""
    assert '"success":true' in hub.ask("$JS.API.CONSUMER.DELETE.attnd-parts.attnd-hub-1", None)
    assert hub.publish(ASK) == "" and hub.subscribe("attnd.node.*") == ""
    hub.assert_forbidden((PART, LIFE, *NOBODYS, "$JS.API.CONSUMER.DURABLE.CREATE.others.mine"), ("attnd.part.>", "$JS.>", ">"))


def messages(hub):
    """How many parts the stream has, by its own words."""
    return json.loads(hub.ask("$JS.API.STREAM.INFO.attnd-parts", {}))["state"]["messages"]


@needs_server
def test_a_node_hears_nothing_of_what_the_hub_reads(port, files):
    """Both have inboxes, but in accounts of their own."""
    hub, node, spy = Client(port, files, "hub"), Client(port, files, "node"), Client(port, files, "node")
    hub.ask("$JS.API.STREAM.CREATE.attnd-parts", STREAM)
    hub.ask("$JS.API.CONSUMER.DURABLE.CREATE.attnd-parts.attnd-hub-1", PULL)
    assert spy.subscribe("_INBOX.>") == ""
    node.ask(PART, {"mine": "secret"})
    hub.send('SUB _INBOX.pull 99\r\nPUB $JS.API.CONSUMER.MSG.NEXT.attnd-parts.attnd-hub-1 _INBOX.pull 0\r\n\r\n')
    hub.until("MSG attnd.part.")
    assert "attnd.part." not in spy.said("") and "secret" not in spy.said("")


@needs_server
@pytest.mark.parametrize("subject", ("$JS.API.STREAM.PURGE.attnd-parts", "$JS.API.STREAM.MSG.DELETE.attnd-parts",
                                     "$JS.API.STREAM.DELETE.attnd-parts"))
def test_an_answer_to_a_node_does_nothing_to_the_stream(port, files, subject):
    """The server sends an acknowledgement wherever a part says; its number is a request to purge up to it."""
    hub, node = Client(port, files, "hub"), Client(port, files, "node")
    hub.ask("$JS.API.STREAM.CREATE.attnd-parts", STREAM)
    before = messages(hub)
    for question in (PART, "$JS.API.STREAM.INFO.attnd-parts"):
        for _ in range(2):
            assert node.said(f"PUB {question} {subject} 0\r\n\r\n") == ""
    node.ask(PART, {"the": "last"})
    assert messages(hub) == before + 3


def test_the_users_know_the_subjects_of_the_contract():
    """Each subject of FLEET.md's table is in nats.conf, with its tokens as wildcards."""
    subjects = re.findall(r"^\| `(attnd\.[^`]*)` \|", (ROOT / "proto/FLEET.md").read_text(), re.M)
    assert len(subjects) == 3
    conf = (CLUSTER / "nats.conf").read_text()
    for subject in subjects:
        assert '"' + re.sub(r"[A-Z]+", "*", subject) + '"' in conf, subject


def test_a_further_server_gets_a_certificate_of_the_same_authority(tmp_path):
    output(CLUSTER / "certificates", tmp_path, "nats-1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    output(CLUSTER / "certificates", tmp_path, "nats-1", "nats-2", "10.0.0.5")
    assert {name for name, content in before.items() if (tmp_path / name).read_bytes() != content} == {"server.pem"}
    named = output("openssl", "x509", "-in", tmp_path / "server.pem", "-noout", "-ext", "subjectAltName")
    assert "DNS:nats-1, DNS:nats-2, IP Address:10.0.0.5" in named
    for who in ("server", "hub", "node"):
        output("openssl", "verify", "-CAfile", tmp_path / "ca.pem", tmp_path / f"{who}.pem")
        assert (tmp_path / f"{who}.key").stat().st_mode & 0o777 == 0o600


def test_certificates_says_what_is_missing(tmp_path):
    for words in ((), (tmp_path,), ("--bananas", "x")):
        refused = run(CLUSTER / "certificates", *words)
        assert refused.returncode == 1 and "needed" in refused.stderr and "certificates --help" in refused.stderr


def settings(text):
    """What --set says in a file of this directory."""
    return dict(re.findall(r"--set[= ](fleet\.[a-z_]+)=(\S+)", text))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("role", ("node", "hub"))
def test_systemd_understands_the_drop_in(role, tmp_path):
    for name, text in {"attnd.service": (ROOT / "deploy/systemd/attnd.service").read_text(),
                       "attnd.service.d/fleet.conf": (CLUSTER / f"systemd/{role}.conf").read_text()}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert "/usr/bin/attnd " in text
        (tmp_path / name).write_text(text.replace("/usr/bin/attnd", ATTND))
    checked = run("systemd-analyze", "verify", "--man=no", tmp_path / "attnd.service")
    assert checked.returncode == 0 and "attnd" not in checked.stderr, checked.stderr
    output("systemd-analyze", "security", "--offline=true", "--threshold=15", tmp_path / "attnd.service")


@pytest.mark.parametrize("role", ("node", "hub"))
def test_every_way_to_start_it_has_the_same_settings(role):
    """systemd, compose and Kubernetes agree about the role, the certificates and the server."""
    yaml = pytest.importorskip("yaml")
    drop_in = (CLUSTER / f"systemd/{role}.conf").read_text()
    wanted = settings(drop_in.replace("${FLEET}", re.search(r"FLEET=(\S+)", drop_in).group(1)).replace("%d/", "/etc/attnd/fleet/"))
    assert wanted["fleet.role"] == role and set(wanted) == {"fleet.role", "fleet.url", "fleet.tls_ca", "fleet.tls_certificate", "fleet.tls_key"}
    compose = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"][role]
    words = [re.sub(r"\$\{FLEET_HOST:[^}]*\}", "nats.example.org", word) for word in compose["command"]]
    assert settings("\n".join(words)) == wanted
    pods = {manifest["metadata"]["name"]: manifest for manifest in manifests() if manifest["kind"] in ("StatefulSet", "DaemonSet")}
    container, = pods[f"attnd-{role}"]["spec"]["template"]["spec"]["containers"]
    given = settings("\n".join(container["args"]).replace("//attnd-nats:", "//nats.example.org:"))
    assert given.pop("fleet.name", None) == ("$(NODE_NAME)" if role == "node" else None)
    assert given == wanted


def test_attnd_takes_the_settings(files):
    """With files that are there; a build without libnats says so, and is not asked."""
    for role in ("node", "hub"):
        text = (CLUSTER / f"systemd/{role}.conf").read_text().replace("${FLEET}", "tls://nats.example.org:4222")
        words = [f"--set={key}={value}".replace("%d", str(files)) for key, value in settings(text).items()]
        assert f"\n  role: {role}\n" in output(ATTND, *words, "--print-config")


def manifests():
    yaml = pytest.importorskip("yaml")
    return [manifest for manifest in yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()) if manifest]


def test_pods_mount_what_there_is():
    yaml = pytest.importorskip("yaml")
    made = yaml.safe_load((CLUSTER / "kustomization.yaml").read_text())
    names = {one["name"] for one in made["configMapGenerator"] + made["secretGenerator"]}
    used = set()
    for manifest in manifests():
        pod = manifest.get("spec", {}).get("template", {}).get("spec")
        if not pod:
            continue
        claims = [claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", ())]
        volumes = {volume["name"] for volume in pod["volumes"]}.union(claims)
        for container in pod["containers"] + pod.get("initContainers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        used.update(volume.get("configMap", {}).get("name", volume.get("secret", {}).get("secretName")) for volume in pod["volumes"])
        labels = pod and manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"] == labels
    assert used - {None} == names


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kubectl_puts_it_together(tmp_path):
    shutil.copytree(CLUSTER, tmp_path / "cluster", ignore=shutil.ignore_patterns("tls", "parts"))
    output(CLUSTER / "certificates", tmp_path / "cluster/tls", "attnd-nats")
    assert len(re.findall(r"^kind: Secret$", output("kubectl", "kustomize", tmp_path / "cluster"), re.M)) == 3


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="there is no docker-compose")
def test_compose_understands_its_file():
    command = ("docker-compose", "-f", CLUSTER / "compose.yaml", "--profile", "hub", "--profile", "node", "config")
    assert "tls://nats.example.org:4222" in output(*command, env=dict(os.environ, FLEET_HOST="nats.example.org"))
    untold = run(*command, env={name: value for name, value in os.environ.items() if name != "FLEET_HOST"})
    assert untold.returncode != 0 and "the name of the machine with the NATS server" in untold.stderr


@pytest.mark.parametrize("script", ("cluster/certificates", "cluster/slurm.sh", "fleet"))
def test_scripts_are_bash_that_can_be_read(script):
    output("bash", "-n", ROOT / "deploy" / script)
    if shutil.which("shellcheck"):
        output("shellcheck", "-x", "-e", "SC2016,SC2317", ROOT / "deploy" / script, cwd=ROOT)
