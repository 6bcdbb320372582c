#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What readers cost attnd, and how soon they see something. Prints JSON lines.

    python3 tests/bench/http_readers.py --build build [throughput] [latency] [paint] [smooth] [jobs]

throughput  ingest at full rate, in pairs: nobody reads; then 200 clients of the event stream and 1000 ZeroMQ subscribers
            read everything. Readers share the machine with attnd, so their own processor time is taken off:
            `loss_beyond_readers` = 1 - rate / (rate alone * (1 - readers' share of the processors)). `loss_beyond_delivery`
            also takes off what attnd's threads for sending used: the kernel's part of a message that 1200 readers get.
latency     from handing a message to ZeroMQ to its `live` event in a client, with 200 clients listening.
paint       headless Chromium opens the list of runs, and a run of 32 layers x 32 heads from the history: first contentful
            paint, and when the first numbers stand there (the mark `data` of the page).
smooth      that run while every layer publishes as fast as attnd takes it: the time between frames.
jobs        both pages while 20 jobs of one layer send ten steps a second and log a loss, and one of 24 x 16 heads sends two:
            tasks of the main thread over 50 ms, of 20 s.
"""
import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness  # noqa: E402
import numpy as np  # noqa: E402

STREAMS, SUBSCRIBERS = 200, 1000
PROCESSORS = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")


class Daemon(harness.Attnd):
    """attnd with HTTP on a port of its own."""

    def __init__(self, *settings):
        super().__init__("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*", "log.level=warning", *settings)
        self.port = int(self.call("config")["http.endpoint"].rsplit(":", 1)[1])

    def threads_cpu_s(self):
        """Processor seconds by thread name."""
        used = {}
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/stat") as file:
                name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
            fields = rest.split()
            used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
        return used


def start_readers(arguments, daemon, streams, subscribers):
    process = subprocess.Popen([f"{arguments.build}/tests/bench/readers", str(daemon.port), str(streams),
                                daemon.endpoint("publish"), str(subscribers)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def end_readers(process):
    process.send_signal(signal.SIGTERM)
    return json.loads(process.communicate()[0])


def processed_per_s(arguments, daemon, seconds):
    load = subprocess.run([f"{arguments.build}/tests/bench/full_rate", daemon.endpoint("ingest"), daemon.endpoint("control"),
                           str(seconds)], stdout=subprocess.PIPE, check=True, text=True, timeout=seconds + 120)
    sent = json.loads(load.stdout)["sent"]
    daemon.settled(sent)
    return sent


def measure(arguments, with_readers):
    """Messages per second, and what readers and threads of attnd used meanwhile."""
    daemon = Daemon()
    readers = start_readers(arguments, daemon, STREAMS, SUBSCRIBERS) if with_readers else None
    time.sleep(2 if with_readers else 0.5)
    before, start = daemon.threads_cpu_s(), time.monotonic()
    sent = processed_per_s(arguments, daemon, arguments.seconds)
    elapsed = time.monotonic() - start
    after = daemon.threads_cpu_s()
    result = dict(per_s=sent / elapsed, seconds=elapsed, rss_mb=daemon.rss_kb() / 1e3, stats=daemon.stats(),
                  threads={name: round(used - before.get(name, 0.0), 2) for name, used in after.items()},
                  readers=end_readers(readers) if readers else None)
    daemon.close()
    return result


DELIVERING = "ZMQbg/IO/1", "attnd-http"


def losses(alone, read):
    """How much slower than alone, taking off what of the processors the readers and then also the sending threads used."""
    available = PROCESSORS * read["seconds"]
    share = read["readers"]["cpu_seconds"] / available
    sending = sum(read["threads"][name] for name in DELIVERING) / available
    ratio = read["per_s"] / alone["per_s"]
    return dict(ratio=ratio, readers_share=share, sending_share=sending, beyond=1 - ratio / (1 - share),
                beyond_delivery=1 - ratio / (1 - share - sending))


def throughput(arguments):
    pairs = [(measure(arguments, False), measure(arguments, True)) for _ in range(arguments.pairs)]
    rows = [losses(alone, read) for alone, read in pairs]
    alone, read = pairs[-1]
    print(json.dumps(dict(
        bench="http", part="throughput", streams=STREAMS, subscribers=SUBSCRIBERS, pairs=len(pairs), processors=PROCESSORS,
        messages_per_s_alone=round(statistics.median(a["per_s"] for a, _ in pairs), 1),
        messages_per_s_read=round(statistics.median(r["per_s"] for _, r in pairs), 1),
        ratio=round(statistics.median(row["ratio"] for row in rows), 4),
        readers_share_of_processors=round(statistics.median(row["readers_share"] for row in rows), 4),
        sending_share_of_processors=round(statistics.median(row["sending_share"] for row in rows), 4),
        loss_beyond_delivery=round(statistics.median(row["beyond_delivery"] for row in rows), 4),
        loss_beyond_readers=round(statistics.median(row["beyond"] for row in rows), 4),
        rss_mb_alone=round(alone["rss_mb"]), rss_mb_read=round(read["rss_mb"]),
        events=read["readers"]["events"], messages=read["readers"]["messages"],
        lost=read["stats"]["lost"], source_dropped=read["stats"]["source_dropped"],
        threads_alone=alone["threads"], threads_read=read["threads"])), flush=True)


class EventStream:
    """One client: yields (event, data) as they come."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.request("GET", "/api/v1/events?kinds=live")
        self.response = self.connection.getresponse()

    def __iter__(self):
        event = None
        for line in self.response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)


def latency(arguments):
    daemon = Daemon()
    others = start_readers(arguments, daemon, STREAMS - 1, 0)
    weights = harness.softmax_maps(np.random.default_rng(1), 1, 12, 128, 128)
    stream = iter(EventStream(daemon.port))
    assert next(stream)[0] == "hello"
    trainer, seconds = harness.Trainer(daemon, "bench"), []
    for step in range(arguments.messages):
        frames = trainer.attention_frames(weights, step=step)
        start = time.monotonic()
        trainer.send(*frames)
        while next(stream)[1]["step"] != step:
            pass
        seconds.append(time.monotonic() - start)
        time.sleep(0.25)
    seconds.sort()
    print(json.dumps(dict(bench="http", part="latency", clients=STREAMS, messages=len(seconds), shape=list(weights.shape),
                          median_ms=round(1e3 * statistics.median(seconds), 2),
                          p99_ms=round(1e3 * seconds[int(0.99 * len(seconds))], 2),
                          max_ms=round(1e3 * seconds[-1], 2))), flush=True)
    end_readers(others)
    trainer.close()
    daemon.close()


def fill(daemon, layers=32, heads=32, windows=40):
    trainer = harness.Trainer(daemon, "bench")
    rng = np.random.default_rng(2)
    for step in range(windows):
        for layer in range(layers):
            trainer.attention(harness.softmax_maps(rng, 1, heads, 16, 16), layer=layer, step=step, epoch=step)
        trainer.event("epoch_end", epoch=step)
    daemon.settled(windows * (layers + 1))
    daemon.call("flush")
    trainer.close()


def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--window-size=1440,900"):
        options.add_argument(word)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))


PAGES = {"runs": "", "run": "#/overview?job=bench"}


def open_page(driver, daemon, address=PAGES["run"]):
    """The page's first contentful paint and first data, in ms."""
    driver.get("about:blank")
    driver.get(f"http://127.0.0.1:{daemon.port}/{address}")
    return harness.wait_until(lambda: driver.execute_script(
        "const paint = performance.getEntriesByName('first-contentful-paint')[0], data = "
        "performance.getEntriesByName('data')[0]; return paint && data ? [paint.startTime, data.startTime] : null"),
        "the page to show data")


BEGINS_S = 3.0  # in which a browser has begun: people open the page in one that runs


def paint(arguments):
    daemon = Daemon("metrics.spectrum=false")
    fill(daemon)
    for page, address in PAGES.items():
        marks = []
        for _ in range(arguments.pairs):  # a browser each: nothing is in its cache
            driver = browser()
            time.sleep(BEGINS_S)
            marks.append(open_page(driver, daemon, address))
            driver.quit()
        print(json.dumps(dict(bench="http", part="paint", page=page, layers=32, heads=32, opened=len(marks),
                              first_contentful_paint_ms=round(statistics.median(mark[0] for mark in marks)),
                              data_ms=round(statistics.median(mark[1] for mark in marks)),
                              data_max_ms=round(max(mark[1] for mark in marks)))), flush=True)
    daemon.close()


FRAMES = """
const done = arguments[0], frames = []; let last = performance.now();
function frame(now) {
    frames.push(now - last); last = now;
    if (frames.length < 300) requestAnimationFrame(frame); else done(frames.slice(1));
}
requestAnimationFrame(frame);
"""


def train(daemon, layers, heads, stop):
    trainer = harness.Trainer(daemon, "bench")
    weights, step = harness.softmax_maps(np.random.default_rng(3), 1, heads, 16, 16), 1000
    while not stop.is_set():
        for layer in range(layers):
            trainer.attention(weights, layer=layer, step=step, epoch=1000)
        step += 1
    trainer.close()


def smooth(arguments):
    daemon, stop = Daemon("metrics.spectrum=false"), threading.Event()
    fill(daemon)
    driver = browser()
    driver.set_script_timeout(60)
    open_page(driver, daemon)
    trainer = threading.Thread(target=train, args=(daemon, 32, 32, stop))
    trainer.start()
    time.sleep(1)
    frames = sorted(driver.execute_async_script(FRAMES))
    heap = driver.execute_script("return performance.memory.usedJSHeapSize / 1e6")
    stop.set()
    trainer.join()
    driver.quit()
    print(json.dumps(dict(bench="http", part="smooth", layers=32, heads=32, frames=len(frames),
                          frame_median_ms=round(statistics.median(frames), 1),
                          frame_p95_ms=round(frames[int(0.95 * len(frames))], 1), frame_max_ms=round(frames[-1], 1),
                          heap_mb=round(heap, 1))), flush=True)
    daemon.close()


TASKS = """
const done = arguments[0], tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration))).observe({type: "longtask"});
setTimeout(() => done(tasks), 20000);
"""


def train_jobs(daemon, stop):
    rng = np.random.default_rng(4)
    small, wide = harness.softmax_maps(rng, 1, 8, 16, 16), harness.softmax_maps(rng, 1, 16, 16, 16)
    trainers, bench, step = [harness.Trainer(daemon, f"job-{i}") for i in range(20)], harness.Trainer(daemon, "bench"), 0
    while not stop.wait(0.1):
        for trainer in trainers:
            trainer.attention(small, step=step)
            trainer.event("log", step=step, values={"loss": 4 / (step + 1)})
        for layer in range(24 if step % 5 == 0 else 0):
            bench.attention(wide, layer=layer, step=step)
        step += 1
    for trainer in [bench, *trainers]:
        trainer.close()


def jobs(arguments):
    daemon, stop = Daemon("metrics.spectrum=false", "window.unit=step", "window.length=16", "window.every=16"), threading.Event()
    trainer = threading.Thread(target=train_jobs, args=(daemon, stop))
    trainer.start()
    harness.wait_until(lambda: len(daemon.call("jobs")) == 21, "the jobs")
    driver = browser()
    driver.set_script_timeout(60)
    for page, address in PAGES.items():
        open_page(driver, daemon, address)
        time.sleep(2)
        tasks = sorted(driver.execute_async_script(TASKS))
        print(json.dumps(dict(bench="http", part="jobs", page=page, jobs=21, seconds=20, tasks_over_50_ms=len(tasks),
                              longest_ms=round(tasks[-1]) if tasks else 0)), flush=True)
    stop.set()
    trainer.join()
    driver.quit()
    daemon.close()


PARTS = {"throughput": throughput, "latency": latency, "paint": paint, "smooth": smooth, "jobs": jobs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of " + ", ".join(PARTS))
    parser.add_argument("--build", default="build")
    parser.add_argument("--seconds", type=float, default=10, help="of one half of a pair")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=100)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {unknown.pop()!r} (valid: {', '.join(PARTS)})")
    harness.ATTND = f"{arguments.build}/daemon/attnd"
    try:
        for part in arguments.parts or PARTS:
            PARTS[part](arguments)
    finally:
        for daemon in harness.Attnd.all:
            daemon.discard()


if __name__ == "__main__":
    main()
