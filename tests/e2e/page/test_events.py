# SPDX-License-Identifier: MIT
"""The event stream: what it has, who comes back to it, and clients that do not read."""
import time

from harness import PATIENCE_S, Trainer, softmax_maps, wait_until
from web import Stream, Web, request, train


def test_the_stream_has_what_is_published(web, rng):
    stream = Stream(web)
    name, kind, data = stream.next()
    assert kind == "hello" and data["version"] == web.call("ping")["version"] and data["heartbeat_s"] == 0.2
    trainer = train(web, rng, steps=3, layers=1)
    lives = [stream.until("live") for _ in range(3)]
    assert [live[2]["step"] for live in lives] == [0, 1, 2] and lives[0][2]["job"] == "job"
    numbers = [int(live[0].split("-")[1]) for live in lives]
    assert numbers == sorted(set(numbers))
    trainer.event("epoch_end", epoch=0)
    assert stream.until("summary")[2]["messages"] == 3
    trainer.event("bye")
    while stream.until("job")[2]["state"] != "ended":
        pass


def test_the_stream_has_what_trainings_report(web):
    stream = Stream(web, "?kinds=log")
    assert stream.next()[1] == "hello"
    trainer = train(web, None, steps=0, job="gpt")
    trainer.event("hello")
    trainer.event("log", step=40, values={"loss": 2.5, "<b>norm": None})
    _, kind, data = stream.next()
    assert (kind, data["job"], data["step"], data["values"]) == ("log", "gpt", 40, {"loss": 2.5, "<b>norm": None})


def test_a_client_hears_only_what_it_asked_for(web, rng):
    stream = Stream(web, "?job=b&kinds=summary")
    for job in "ab":
        train(web, rng, steps=2, layers=1, job=job).event("epoch_end", epoch=0)
    assert stream.next()[1] == "hello"
    _, kind, data = stream.next()
    assert (kind, data["job"]) == ("summary", "b")


def test_a_client_that_comes_back_misses_nothing(web, rng):
    keeper, stream = Stream(web), Stream(web)
    train(web, rng, steps=2, layers=1)
    first = stream.until("live")
    stream.close()
    train(web, rng, steps=2, layers=1, first=2)
    heard = [keeper.until("live") for _ in range(4)]
    assert sorted(event[2]["step"] for event in heard) == [0, 1, 2, 3] and heard[0] == first
    again = Stream(web, "?kinds=live", Last_Event_ID=first[0])
    assert [again.until("live") for _ in range(3)] == heard[1:]
    by_query = Stream(web, "?kinds=live&last_event_id=" + first[0])
    assert by_query.until("live") == heard[1]


def test_ids_that_are_not_known_mean_resync(web, rng):
    for strange in ("00000000-1", "x", "", "ffffffff-99999999999999999999999", "1-2-3", "-1"):
        stream = Stream(web, Last_Event_ID=strange)
        assert [stream.next()[1] for _ in range(2)] == ["hello", "resync"], strange
        stream.close()


def test_what_nobody_listened_to_means_resync(web, rng):
    stream = Stream(web)
    last = stream.next()[0]
    stream.close()
    wait_until(lambda: web.metric("attnd_http_event_clients") == 0, "the client is gone")
    train(web, rng, steps=1, layers=1)
    web.settled(1)
    stream = Stream(web, Last_Event_ID=last)
    assert [stream.next()[1] for _ in range(2)] == ["hello", "resync"]


def test_live_values_are_thinned_and_the_newest_counts(rng):
    daemon = Web("http.live_interval=300ms")
    stream = Stream(daemon, "?kinds=live")
    train(daemon, rng, steps=50, layers=1)
    steps = [stream.until("live")[2]["step"]]
    while steps[-1] != 49:
        steps.append(stream.until("live")[2]["step"])
    assert len(steps) < 40 and steps == sorted(steps)


def test_heartbeats_come_when_nothing_else_does():
    daemon = Web("http.heartbeat=100ms")
    client, seen = daemon.by_hand(request("/api/v1/events")), b""
    while b":\n\n" not in seen:
        seen += client.recv(4096)


def test_more_clients_than_allowed_are_refused():
    daemon = Web("http.connections=8")
    streams = [Stream(daemon), Stream(daemon)]
    response, body = daemon.get("/api/v1/events")
    assert response.status == 503 and "http.connections" in body.decode() and response.headers["Retry-After"]
    streams.pop().close()
    wait_until(lambda: daemon.get("/api/v1/version")[0].status == 200, "answers")


def test_a_client_that_does_not_read_is_told_to_ask_again(rng):
    """It stalls behind a small ring: others hear everything, and it hears that it missed something."""
    daemon = Web("publish.budget=1MiB", "http.live_interval=0s")
    slow, fast = daemon.by_hand(request("/api/v1/events?kinds=live"), receives=4096), Stream(daemon, "?kinds=live")
    trainer, text = Trainer(daemon, "job"), b""
    for step in range(400):
        trainer.attention(softmax_maps(rng, 1, 8, 8, 8), step=step)
        assert fast.until("live")[2]["step"] == step
    while b"event: resync" not in text:
        text += slow.recv(65536)
    assert daemon.stats()["http_resyncs"] >= 1


def test_a_stream_whose_client_has_hung_up_is_noticed():
    """Long before the next heartbeat: another client can have its place."""
    daemon = Web("http.heartbeat=1h", "http.connections=4")
    for _ in range(3):
        wait_until(lambda: daemon.metric("attnd_http_event_clients") == 0, "the place is free")
        stream = Stream(daemon)
        assert stream.next()[1] == "hello"
        stream.close()
        stream.response.close()


def test_a_stream_that_is_never_read_is_cut_off(rng):
    """The kernel takes what it can; then it is silence for http.timeout."""
    daemon = Web("http.timeout=5s", "http.live_interval=0s")
    with daemon.by_hand(request("/api/v1/events"), receives=4096):
        wait_until(lambda: daemon.metric("attnd_http_event_clients") == 1, "the stream is open")
        trainer = Trainer(daemon, "job")
        for step in range(3000):
            trainer.attention(softmax_maps(rng, 1, 64, 4, 4), step=step)
            if step % 50 == 49:
                daemon.settled(step + 1)
                if daemon.metric("attnd_http_event_clients") == 0:
                    break
        wait_until(lambda: daemon.metric("attnd_http_event_clients") == 0, "the stream is cut off")


def test_head_of_the_event_stream_ends(web):
    for _ in range(3):
        response, body = web.get("/api/v1/events", method="HEAD")
        assert response.status == 200 and body == b""
    wait_until(lambda: web.metric("attnd_http_event_clients") == 0, "the stream is gone")


def test_streams_end_when_attnd_stops():
    daemon = Web()
    streams = [Stream(daemon) for _ in range(3)]
    for stream in streams:
        assert stream.next()[1] == "hello"
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < PATIENCE_S
    assert all(stream.next() is None for stream in streams)
