# SPDX-License-Identifier: MIT
"""Trains models, with a fault or without, under attnd, and keeps all that attnd says of them.

    runs.py --out DIRECTORY --seeds 1-20 [--kinds KIND,...] [--architectures NAME,...] [--steps N]
"""
import argparse
import json
import os
import pathlib
import random
import sys
import time

import msgpack

import torch

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "clients/python"), str(ROOT / "tests/e2e"), str(pathlib.Path(__file__).parent)]
import attnd  # noqa: E402
from faults import KINDS, plant  # noqa: E402
from harness import Attnd, wait_until  # noqa: E402
from models import ARCHITECTURES, Model  # noqa: E402

WINDOW, WARMUP = 16, 40
RATES = (1e-3, 2e-3, 4e-3)


def train(daemon, job, architecture, kind, steps, seed, every=1):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    shape, task = ARCHITECTURES[architecture]
    model = Model(shape, task, seed)
    fault = plant(kind, model, steps, seed) if kind != "healthy" else None
    if fault is None and kind != "healthy":
        return None
    rate = random.Random(seed + 7).choice(RATES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    context = daemon.context
    reader = attnd.Subscriber(address=daemon.directory, topics=(f"summary/{job}/", f"alert/{job}/"), timeout=60, high_water=10**6)
    wait_until(lambda: daemon.stats()["subscriptions"] >= 2, "subscriptions")
    with attnd.watch(model, job, address=daemon.directory, every=every, samples=4, wait=30, weights_every=1) as watch:
        for step in range(steps):
            if fault is None and step < WARMUP or fault is not None and step < WARMUP:
                for group in optimizer.param_groups:
                    group["lr"] = rate * (step + 1) / WARMUP
            if fault is not None and step >= fault.begin:
                with torch.no_grad():
                    KINDS[kind].before(model, optimizer, fault, step - fault.begin)
            loss = model.loss(step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            watch.log({"loss": losses[-1]}) if step % 4 == 0 else None
            if step % 100 == 99:
                watch.epoch_end()
        stats = watch.stats()
    begin = time.monotonic()
    wait_until(lambda: [j for j in daemon.call("jobs") if j["job"] == job][0]["state"] == "ended", "the end")
    found = []
    while True:
        result = reader.next(1.0)
        if result is None:
            break
        found.append(result)
    reader.close()
    attentions = [(stack, layer, site) for stack, layer, site, _ in model.attentions()]
    return dict(job=job, architecture=architecture, kind=kind, seed=seed, rate=rate, steps=steps, losses=losses,
                fault=fault._asdict() if fault else None, place=attentions[fault.place] if fault and fault.place >= 0 else None,
                attentions=attentions, stats=stats, results=found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", default="1-2")
    parser.add_argument("--kinds", default=",".join(["healthy", *KINDS]))
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    first, last = (int(x) for x in options.seeds.split("-"))
    daemon = Attnd("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "window.timeout=1h", "limits.idle=24h")
    architectures = options.architectures.split(",")
    for seed in range(first, last + 1):
        for index, kind in enumerate(options.kinds.split(",")):
            architecture = architectures[(seed + index) % len(architectures)]
            name = f"{kind}.{architecture}.{seed}"
            path = out / f"{name}.msgpack"
            if path.exists():
                continue
            begin = time.monotonic()
            run = train(daemon, name, architecture, kind, options.steps, seed)
            if run is None:
                continue
            path.write_bytes(msgpack.packb(run, default=lambda x: x.tolist()))
            print(json.dumps(dict(name=name, s=round(time.monotonic() - begin, 1), loss=[round(run["losses"][i], 3) for i in (0, len(run["losses"]) // 2, -1)],
                                  dropped=run["stats"]["dropped"], results=len(run["results"]), fault=run["fault"], place=run["place"])), flush=True)
    daemon.close()


if __name__ == "__main__":
    main()
