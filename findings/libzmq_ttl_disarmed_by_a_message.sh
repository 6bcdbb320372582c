#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# libzmq 4.3.5 (pyzmq 27.1.0): a message behind a PING disarms the TTL that the PING has set, and only the next PING sets it again.
#
# Expected: zmq_setsockopt(3) says of ZMQ_HEARTBEAT_TTL that the remote side shall time out the connection if it does not receive any
# more traffic within the TTL. A peer with ZMQ_HEARTBEAT_IVL of 1 s and a TTL of 3 s that stops (SIGSTOP: its sockets stay open) is
# disconnected by the other side, which has no heartbeats of its own, within about 4 s.
# Seen: so it is when a PING was the last that came from it. When the last was a message (data, or a subscription), the timer is
# cancelled, not begun anew: the connection stays for as long as the peer is stopped. A busy peer is in that state for most of each
# interval. Whoever relies on the TTL to learn that a peer hangs needs heartbeats of its own, or a timeout above libzmq.
#
# Installs the pinned package in a temporary folder. Exit status 0: as described; 1: it has changed.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet pyzmq==27.1.0
cd -- "$place"
cat > peer.py <<'END'
import os
import signal
import sys
import time

import zmq

socket = zmq.Context().socket(zmq.PUSH)
socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
socket.setsockopt(zmq.HEARTBEAT_TTL, 3000)
socket.connect(sys.argv[1])
time.sleep(2.5)  # PINGs were sent after 1 and 2 s
if sys.argv[2] == "message":
    socket.send(b"")
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGSTOP)
END
"$place/env/bin/python" - "$place" <<'END'
import subprocess
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

WAITED_S = 15
print("libzmq", zmq.zmq_version(), "pyzmq", zmq.__version__)
seen = {}
for last in ("PING", "message"):
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    endpoint = f"ipc://{sys.argv[1]}/{last}"
    socket.bind(endpoint)
    peer = subprocess.Popen([sys.executable, "peer.py", endpoint, last])
    while open(f"/proc/{peer.pid}/stat").read().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.05)
    seen[last] = bool(monitor.poll(1000 * WAITED_S))
    if seen[last]:
        recv_monitor_message(monitor)
    print(f"the last from a peer that stopped was a {last}: {'disconnected' if seen[last] else 'still connected'} after {WAITED_S} s at most")
    peer.kill()
    peer.wait()
    context.destroy(linger=0)
as_described = seen == {"PING": True, "message": False}
print("as described" if as_described else "changed")
sys.exit(not as_described)
END
