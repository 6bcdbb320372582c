# SPDX-License-Identifier: MIT
"""Writes the seeds of fuzz_fleet: what nodes and hubs say to each other."""
import os

import msgpack

HERE = os.path.join(os.path.dirname(__file__), "fleet")
RUN, INSTANCE = bytes(range(16)), bytes(range(8))


def write(name, value):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(msgpack.packb(value))


common = {"v": 1, "job": "x", "run": RUN}
rule = {"unit": "step", "length": 100, "every": 50, "part": 3}
progress = {"world": 4, "epoch": 1, "step": 150, "time_ns": 5, "received": 9, "processed": 8, "lost": 1, "dropped": {"late": 1},
            "ranks": [0, 1]}
write("part", {**common, **rule, "kind": "part", "stack": "decoder", "layer": 2, "site": "cross", "module": "h.2", "state": b"state"})
write("closed", {**common, **rule, **progress, "kind": "closed", "next_before": 2, "complete_from": 1, "cut": True, "layers": 12})
write("run", {**common, **progress, "kind": "run", "state": "ended", "settings": msgpack.packb({"lr": 0.1}),
              "points": [["loss", 1, 2, 3, 0.5], ["norm", 1, 2, 3, None]]})
write("beat", {"v": 1, "instance": INSTANCE, "name": "a", "host": "b", "version": "1", "newest": 9, "taken": 8, "rows": 7, "bytes": 6,
               "unsent": 5, "unsent_bytes": 4, "outbox_lost": 3, "time_ns": 2, "stopping": False, "domain": "rack-0",
               "runs": [[RUN, 1, 4, 2]]})
write("ask", {"v": 1, "hub": "h", "instance": INSTANCE, "from": 1, "to": 9, "refused": "other buckets"})
