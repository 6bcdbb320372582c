# SPDX-License-Identifier: MIT
"""The reliable lane from the trainer's call to the history: kills of either side lose nothing that is kept, and double nothing."""
import glob
import os
import re
import resource
import signal
import subprocess

import pytest
from harness import Attnd, wait_until
from keeper import SETTINGS, Keeper, history_of, is_whole
from keyed import Keyed, Pair


@pytest.fixture
def attnd():
    return Attnd(*SETTINGS)


def start_again(daemon):
    daemon.stop(signal.SIGKILL)
    daemon.start()


def spooled(folder):
    return glob.glob(os.path.join(folder, "spool", "*.rec"))


def kill_with_all_kept(attnd, *keepers, more=50):
    """Kills attnd, and then the trainers, when each has kept `more` messages more."""
    attnd.stop(signal.SIGKILL)
    for keeper in keepers:
        keeper.wait_for(keeper.said()[1] + more)
    for keeper in keepers:
        keeper.kill()


def wait_whole(attnd, keeper, at_least):
    wait_until(lambda: is_whole(attnd, keeper, at_least), f"{at_least} messages of {keeper.job}")


def lines_with(keeper, text):
    return sorted(line for line in keeper.errors().splitlines() if text in line)


def test_a_killed_trainer_loses_nothing_that_was_kept(attnd, tmp_path):
    """attnd is not there when it is killed: all of it is in files, and the next process sends it."""
    first = Keeper(attnd, "first", tmp_path)
    first.wait_for(20)
    kill_with_all_kept(attnd, first)
    assert spooled(tmp_path)
    attnd.start()
    second = Keeper(attnd, "second", tmp_path, count=5)
    wait_whole(attnd, first, first.said()[1])
    second.finish()
    wait_whole(attnd, second, 5)
    assert len(history_of(attnd, second)) == 5
    assert not spooled(tmp_path) and attnd.stats()["reliable_refused"] == 0


def test_keys_are_asked_for_and_judged(tmp_path):
    """Over TCP: a trainer whose key may publish for its job, and one whose key may not."""
    mine, other = Pair(), Pair()
    daemon = Keyed((mine, "publish", "mine*"), (other, "publish", "other"), settings=SETTINGS)
    keeper = Keeper(daemon, "mine", tmp_path, count=50, key=mine)
    keeper.wait_for(50)
    forger = Keeper(daemon, "mine2", tmp_path, count=10, spool=False, key=other)
    forger.wait_for(10)
    wait_until(lambda: daemon.stats()["reliable_refused"] >= 10, "refusals")
    forger.finish()
    keeper.finish()
    assert not keeper.errors()
    assert lines_with(forger, "refuses") == [
        f"job mine2: attnd at {daemon.endpoint('ingest')} refuses the messages of job mine2: its access list (keys.access) does "
        f"not let the key {other.public} publish this job. Remedy: the line '{other.public}  publish  mine2' in that list, and "
        "SIGHUP for attnd; training goes on, and attnd gets nothing of it. Further refusals are only counted"]
    wait_whole(daemon, keeper, 50)
    assert not history_of(daemon, forger)


def test_a_spool_is_shared_by_trainings_with_different_keys(tmp_path):
    """What killed ones left is not taken of the one with the other key, and is there for the next with the right one. Each job is
    told."""
    mine, other = Pair(), Pair()
    daemon = Keyed((mine, "publish", "mine*"), (other, "publish", "other"), settings=SETTINGS)
    killed = [Keeper(daemon, job, tmp_path, key=mine) for job in ("mine-a", "mine-b")]
    for keeper in killed:
        keeper.wait_for(20)
    kill_with_all_kept(daemon, *killed)
    files = sorted(spooled(tmp_path))
    daemon.start()
    second = Keeper(daemon, "other", tmp_path, count=20, key=other)
    wait_until(lambda: second.errors().count("refuses") == 2, "a refusal of each job")
    second.finish()
    assert lines_with(second, "refuses") == [
        f"job other: attnd refuses messages of job {keeper.job}, which another process left in {tmp_path}/spool: its access list "
        f"(keys.access) does not let the key {other.public} publish that job. They stay there, for a process of that job"
        for keeper in killed]
    wait_whole(daemon, second, 20)
    assert sorted(spooled(tmp_path)) == files
    third = Keeper(daemon, "mine-c", tmp_path, count=5, key=mine)
    for keeper in killed:
        wait_whole(daemon, keeper, keeper.said()[1])
    wait_until(lambda: len(spooled(tmp_path)) == 1, "the files go")  # but its own
    third.finish()
    assert lines_with(third, "sent now") == [
        f"job mine-c: messages of job {keeper.job}, which another process left in {tmp_path}/spool, are sent now" for keeper in killed]
    assert not spooled(tmp_path)


def test_a_job_without_room_waits_and_loses_nothing(tmp_path):
    """A key for some jobs has two places of four at most: its third job waits for one of them, that of another key does not."""
    mine, other = Pair(), Pair()
    daemon = Keyed((mine, "publish", "mine"), (other, "publish", "other-*"), settings=(*SETTINGS, "limits.jobs=4"))

    def keeper(job, key):
        return Keeper(daemon, job, tmp_path, count=20, spool=False, key=key)

    others = [keeper("other-1", other), keeper("other-2", other)]
    for one in others:
        wait_whole(daemon, one, 20)
    waiting, free = keeper("other-3", other), keeper("mine", mine)
    wait_whole(daemon, free, 20)
    wait_until(lambda: "limits.jobs" in waiting.errors(), "the sentence about the third")
    others[0].finish()
    wait_whole(daemon, waiting, 20)
    for one in (others[1], waiting, free):
        one.finish()
    assert waiting.errors() == (
        "job other-3: attnd has no room for this job (job_limit; see limits.jobs in its config): messages are kept, and sent again "
        "until it has; beyond reliable_bytes they are dropped and counted. Remedy: end what need not run, or a larger limits.jobs\n")


@pytest.mark.parametrize("tensors, spool", [(True, False), (False, True)], ids=["tensors-memory", "rows-spool"])
def test_kills_of_attnd_lose_nothing(attnd, tmp_path, tensors, spool):
    keeper = Keeper(attnd, "job", tmp_path, count=600, pause_us=2000, tensors=tensors, spool=spool)
    for _ in range(4):
        keeper.wait_for(min(600, keeper.said()[1] + 60))
        start_again(attnd)
    keeper.wait_for(600)
    wait_whole(attnd, keeper, 600)  # or it ends before it finds the newest attnd
    keeper.finish()
    assert keeper.said() == (600, 600, 0) and not keeper.refused()
    assert len(history_of(attnd, keeper)) == 600
    assert not spooled(tmp_path)
    assert "not acknowledge" not in keeper.errors() and "another process" not in keeper.errors()


def test_a_second_process_of_a_run_counts_what_is_not_taken_of_it(attnd, tmp_path):
    """Until it has sent as many as the first one did; also of what was on its way when attnd was killed."""
    count = 600
    first = Keeper(attnd, "job", tmp_path, count=count, pause_us=0, spool=False)
    first.wait_for(count)
    wait_whole(attnd, first, count)
    first.kill()
    second = Keeper(attnd, "job", tmp_path, spool=False, run=first.run)
    wait_until(lambda: second.refused_by_attnd() > 0, "a refusal")
    attnd.process.send_signal(signal.SIGSTOP)
    second.wait_for(second.said()[1] + 50)
    start_again(attnd)
    doubted = second.said()[0]
    wait_until(lambda: second.refused_by_attnd() >= count, "all refusals")
    second.wait_for(max(count, doubted) + 50)
    published, _, dropped = second.said()
    wait_whole(attnd, second, published)  # of both, each once
    assert dropped == 0 and count <= second.refused_by_attnd() <= max(count, doubted)  # published - count were taken
    (said,) = second.errors().splitlines()
    assert said.startswith("job job: attnd has a message of another process with the same run and rank in the place of one of ours, which "
                           "it does not take.")
    second.kill()


def test_a_trainer_that_ends_without_attnd_leaves_it_to_the_next(attnd, tmp_path):
    first = Keeper(attnd, "first", tmp_path, count=30)
    first.wait_for(30)
    attnd.stop(signal.SIGKILL)
    first.finish()  # says where they are kept, unless all of them were acknowledged before
    attnd.start()
    second = Keeper(attnd, "second", tmp_path, count=1)
    wait_whole(attnd, first, 30)
    wait_until(lambda: attnd.call("runs", job="first")["runs"][0]["state"] == "ended", "its bye")
    second.finish()


def test_what_is_left_at_the_end_is_told(tmp_path):
    """By an attnd that acknowledges nothing: what it is sent is not saved before the end of the test."""
    daemon = Attnd(*SETTINGS, "history.checkpoint=1h", "window.length=1000000", "window.every=1000000")
    first = Keeper(daemon, "first", tmp_path)
    first.wait_for(10)
    first.kill()
    second = Keeper(daemon, "second", tmp_path, count=5, linger_ms=100)
    second.wait_for(5)
    wait_until(lambda: daemon.stats()["reliable_duplicates"] > 0, "that what the first left is sent again")
    daemon.process.send_signal(signal.SIGSTOP)  # a bye would have it save the run
    second.finish()
    daemon.process.send_signal(signal.SIGCONT)
    said = [line for line in second.errors().splitlines() if "is not whole" not in line]
    assert said.pop(0) == f"job second: messages of job first, which another process left in {tmp_path}/spool, are sent now"
    assert [line.endswith("the next process with this spool sends them") for line in said] == [True, True], said
    assert f"messages that attnd has not acknowledged are kept in {tmp_path}/spool: " in said[0]
    assert said[1].startswith(f"job second: messages that other processes left in {tmp_path}/spool are still there: ")


def test_a_spool_that_cannot_be_used_is_told_in_one_line(attnd, tmp_path):
    (tmp_path / "spool").write_text("no directory")
    keeper = Keeper(attnd, "job", tmp_path, count=5)
    keeper.wait_for(5)
    keeper.finish()
    said = keeper.errors().splitlines()
    assert len(said) == 1 and said[0].startswith(f"job job: the spool {tmp_path}/spool cannot be used (")
    assert said[0].endswith("): messages are kept in memory, and lost if this process is killed")
    assert is_whole(attnd, keeper, 5)


def newest_said(keeper, count, what):
    """The newest sentence, without its numbers, when `count` sentences have come."""
    def said():
        return [re.sub(r"\d+", "N", line) for line in keeper.errors().splitlines()]

    wait_until(lambda: len(said()) >= count, what, 120)
    assert len(said()) == count, said()
    return said()[-1]


def test_a_full_disk_and_an_attnd_that_stops_are_told(attnd, tmp_path):
    keeper = Keeper(attnd, "J", tmp_path)
    keeper.wait_for(20)
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    said = newest_said(keeper, 1, "that messages wait")
    reason = attnd.stats()["history"]["reason"]
    assert said == f"job J: attnd cannot write its history ({reason}): it acknowledges nothing, and messages wait here until it " \
                   "can; training goes on"
    resource.prlimit(attnd.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said = newest_said(keeper, 2, "that they no longer wait")
    assert said == "job J: attnd writes its history again: the messages that waited are acknowledged"
    attnd.process.send_signal(signal.SIGSTOP)
    said = newest_said(keeper, 3, "that attnd does not answer")
    place = re.sub(r"\d+", "N", f"ipc://{attnd.directory}/ingest")
    assert said == f"job J: attnd at {place} has gone, or does not answer: what goes by the reliable lane is kept for it, and " \
                   "nothing else is captured until it is back; training goes on. Start it again: attnd"
    attnd.process.send_signal(signal.SIGCONT)
    said = newest_said(keeper, 4, "that attnd is back")
    assert said == f"job J: attnd is back, at {place}, after N s; messages kept for it, and sent now: N"
    wait_whole(attnd, keeper, keeper.said()[1])


def test_a_key_that_goes_and_comes_back_is_told(tmp_path):
    key = Pair()
    daemon = Keyed((key, "publish", "*"), settings=SETTINGS)
    keeper = Keeper(daemon, "J", tmp_path, key=key)
    keeper.wait_for(20)
    daemon.write((key, "publish", "other"))
    daemon.reload()
    assert "does not let the key" in newest_said(keeper, 1, "the refusal")
    daemon.write((key, "publish", "*"))
    daemon.reload()
    said = newest_said(keeper, 2, "that the key is let in again")
    place = re.sub(r"\d+", "N", daemon.endpoint("ingest"))
    assert said == f"job J: attnd at {place} takes the messages of job J again: what follows is captured"
    keeper.kill()
    daemon.close()


def test_attnctl_replays_what_nobody_sent(attnd, tmp_path):
    """The files are recordings."""
    first = Keeper(attnd, "first", tmp_path)
    first.wait_for(10)
    kill_with_all_kept(attnd, first, more=20)
    attnd.start()
    for path in spooled(tmp_path):
        replayed = subprocess.run([os.environ["ATTNCTL_BIN"], "replay", path, "--address", attnd.directory], timeout=60, check=False,
                                  stdout=subprocess.DEVNULL)
        assert replayed.returncode in (0, 1)  # 1: some came before
    wait_whole(attnd, first, first.said()[1])


def test_the_disk_of_the_spool_is_full(attnd, tmp_path):
    """Then memory serves, and nothing is lost while the process lives."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "spool"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", str(place)], check=False).returncode:
        pytest.skip("there is no tmpfs to be mounted here")
    try:
        keeper = Keeper(attnd, "job", tmp_path, count=200)
        keeper.wait_for(5)
        start_again(attnd)
        keeper.wait_for(200)
        keeper.finish()
        wait_whole(attnd, keeper, 200)
        assert keeper.errors().count("cannot be written") <= 1
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
