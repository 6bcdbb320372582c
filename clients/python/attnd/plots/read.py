# SPDX-License-Identifier: MIT
"""read: what figures are drawn of, from wherever attnctl reads it.

    with plots.Source("run.rec") as source:                      # maps: arrays, a recording, a job of a running attnd
        plots.heads(source.maps("decoder.3.self"))
    plots.series(plots.timeline("gpt-small", layer="3"))         # a metric's course: a job, or a file of attnctl export

The readers are attnctl's, one process per source: the numbers are those that it has, f32 for f32 and digit for digit.
"""
from __future__ import annotations

import contextlib
import csv
import difflib
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

ARRAYS = (".npy", ".npz", ".safetensors")
_STACKS, _SITES = ("encoder", "decoder"), ("self", "cross")
_ALERTS_MAX = 10000
_LISTED = 10  # names in a sentence
# The columns of an export that are read; those behind _NEEDED came later.
_FIELDS = ("job", "last_unit", "run", "step", "stack", "layer", "site", "head", "metric", "mean", "std", "p10", "p90")
_NEEDED = 11


class SourceError(Exception):
    """A sentence, and the exit code that attnctl gives it."""

    def __init__(self, sentence: str, code: int = 2):
        super().__init__(sentence)
        self.code = code


def attnctl() -> str:
    """The program: $ATTND_ATTNCTL, or the one in PATH."""
    path = os.environ.get("ATTND_ATTNCTL") or shutil.which("attnctl")
    if not path:
        raise SourceError("there is no attnctl in PATH: install attnd, or name the program in ATTND_ATTNCTL")
    return path


def _line(options: Dict[str, Any]) -> List[str]:
    """Makes of query_tokens="a b", causal=True: --query-tokens=a b, --causal. A list gives an option several times."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and one is not False:
                words.append("--" + name.replace("_", "-") + ("" if one is True else f"={one}"))
    return words


# ------------------------------------------------------------------------------------------------ maps

@dataclass(frozen=True)
class Layer:
    """One attention of the model. Rows and columns are queries and keys, or fewer where attnd has pooled the map."""

    name: str  # decoder.3.self
    number: int
    first_sample: int
    heads: int
    queries: int
    keys: int
    rows: int
    columns: int
    causal: int
    q_offset: int
    step: int

    @property
    def stack(self) -> str:
        return self.name.split(".")[0]

    @property
    def site(self) -> str:
        return self.name.split(".")[2]


def matches(text: str, name: str) -> bool:
    """Whether a text such as "decoder.3.self", or a part of it, is about the layer of a name."""
    return all(part in name.split(".") for part in text.split(".") if part)


class Source:
    """Files of arrays, a recording, or a job. Options are those of attnctl plot: causal, name, stack, labels, tokens,
    step, run, endpoint, ... Raises SourceError. One thread."""

    def __init__(self, *words: Any, kind: str = "heads", line: Sequence[str] = (), **options: Any):
        reading, writing = os.pipe()
        try:
            command = [attnctl(), "__maps", str(reading), kind, *line, *_line(options), "--", *map(os.fspath, words)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reading])
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._requests = os.fdopen(writing, "w", encoding="utf-8", errors="surrogateescape")
        try:
            head = self._answer()
        except SourceError:
            self.close()
            raise
        self.is_files = bool(head["files"])
        self.layers = [Layer(**layer) for layer in head["layers"]]

    def find(self, text: str) -> int:
        """The layer that a text means: decoder.3.self, or as much of it as only one has."""
        return int(self._ask(f"find {text}")["at"])

    def maps(self, layer: Union[int, str] = 0, head: Union[int, str] = "all", sample: Optional[int] = None) -> Any:
        """The Maps of a layer, by its place in `layers` or a text: of all heads, of one, or their "mean"."""
        import numpy as np

        from .data import Maps

        at = self.find(layer) if isinstance(layer, str) else layer
        first = self.layers[at].first_sample
        answer = self._ask(f"map {at} {first if sample is None else sample} {head}")
        texts = [answer.pop(key) for key in ("key_tokens", "query_tokens")]
        keys, queries = (tokens if any(text is not None for text in tokens) else None for tokens in texts)
        shape = answer.pop("shape")
        weights = np.frombuffer(self._read(4 * math.prod(shape)), "<f4").reshape(shape)
        found = self.layers[at] = Layer(**answer)
        return Maps(weights, name=found.name, key_tokens=keys, query_tokens=queries, causal=bool(found.causal),
                    q_offset=found.q_offset, queries=found.queries, keys=found.keys,
                    step=None if self.is_files else found.step, sample=sample,
                    head=head if isinstance(head, int) else None, heads=found.heads if head == "mean" else None)

    def _ask(self, request: str) -> Dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # there is no answer then
            print(request.replace("\n", " "), file=self._requests, flush=True)
        return self._answer()

    def _answer(self) -> Dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line.endswith(b"\n"):
            raise SourceError("attnctl ended while it read the maps", 1)
        answer: Dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SourceError(answer["error"], answer["code"])
        return answer

    def _read(self, size: int) -> bytes:
        data: bytes = self._process.stdout.read(size)  # type: ignore[union-attr]
        if len(data) < size:
            raise SourceError("attnctl ended while it read the maps", 1)
        return data

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.wait()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ------------------------------------------------------------------------------------------------ a metric's course

def _is_file(word: str) -> bool:
    endings = (".csv", ".json", ".jsonl", ".ndjson", ".rec", *ARRAYS)
    return word == "-" or "/" in word or word.endswith(endings) or os.path.exists(word)


def _number(value: Any) -> float:
    """NaN when it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


class _Course:
    """The records of one metric in the lines of an export, and what else there is when there are none."""

    def __init__(self, path: str, metric: str, run: Optional[str], wants: Callable[[str, int], bool],
                 start: Optional[int], end: Optional[int]):
        self.path, self.metric, self.run, self.wants, self.start, self.end = path, metric, run, wants, start, end
        self.job, self.the_run = "", ""
        self.metrics: Dict[str, None] = {}
        self.left_out: List[int] = []  # what windows end at that are not in the range
        self.records: Dict[Tuple[int, int, int, int], Dict[int, Tuple[float, float, float, float]]] = {}
        self._number = 0

    def fail(self, why: str) -> SourceError:
        return SourceError(f"{self.path}: line {self._number}: {why} (expected is what attnctl export --csv or --json "
                           "writes)")

    def take(self, lines: Sequence[str]) -> None:
        """Lines of JSON, or of CSV, whose first names its columns."""
        first = next((line for line in lines if line.strip()), "")
        if first.startswith("{"):
            for self._number, line in enumerate(lines, 1):
                if line.strip():
                    self._take(*self._object(line))
        elif first and not set(_FIELDS[:_NEEDED]) <= set(first.strip().split(",")):
            self._number = lines.index(first) + 1
            raise self.fail("not the names of an export's columns")
        else:
            self._take_csv(csv.DictReader(lines))

    def _take_csv(self, rows: "csv.DictReader[str]") -> None:
        try:
            for row in rows:
                self._number = rows.line_num
                if None in row.values():
                    raise self.fail("too few columns")
                self._take(*(row.get(name, "") for name in _FIELDS))
        except csv.Error as error:
            raise self.fail(str(error)) from None

    def _object(self, text: str) -> Sequence[Any]:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self.fail("not a JSON object")
        return [found.get(name) for name in _FIELDS]

    def _take(self, job: Any, last: Any, run: Any, step: Any, stack: Any, layer: Any, site: Any, head: Any, metric: Any,
              mean: Any, std: Any, p10: Any = None, p90: Any = None) -> None:
        number, at = _number(layer), _number(step)
        if stack not in _STACKS or site not in _SITES or not number >= 0 or not 0 <= at < 1e15:
            raise self.fail("no stack, layer, site and step of an export")
        self.metrics[str(metric)] = None
        self.job = str(job)
        index = _number(head)
        index = int(index) if index >= 0 else -1
        self.the_run = self.the_run or str(run)
        if metric != self.metric or not (str(run).startswith(self.run) if self.run else run == self.the_run):
            return
        if not self.wants(f"{stack}.{int(number)}.{site}", index):
            return
        end = _number(last)
        if not (self.start is None or end >= self.start) or not (self.end is None or end <= self.end):
            if end >= 0:
                self.left_out.append(int(end))
            return
        place = (_STACKS.index(stack), int(number), _SITES.index(site), index)
        self.records.setdefault(place, {})[int(at)] = (_number(mean), _number(std), _number(p10), _number(p90))

    def check(self, word: str, more: str) -> None:
        """Says what there is when nothing was found."""
        if self.records:
            return
        if self.metrics and self.metric not in self.metrics:
            raise SourceError(f"--metric: '{self.metric[:80]}': not in {self.path}{self._instead()}")
        if self.left_out:
            asked = "".join(f" {name} {value}" for name, value in (("from", self.start), ("to", self.end))
                            if value is not None)
            raise SourceError(f"{word} has no window of {self.metric}{asked}: its windows end at {min(self.left_out)} to "
                              f"{max(self.left_out)}", 1)
        raise SourceError(f"{word} has nothing of {self.metric}{more}")

    def _instead(self) -> str:
        names = list(self.metrics)
        near = difflib.get_close_matches(self.metric, names, 1, 0.75)
        if near:
            return f": did you mean '{near[0]}'?"
        more = f", ..., {len(names)} in all: see its column metric" if len(names) > _LISTED else ""
        return f" (valid: {', '.join(names[:_LISTED])}{more})"

    def arrange(self, job: str, alerts: Sequence[Tuple[int, str]]) -> Any:
        import numpy as np

        from .data import Timeline

        places = sorted(self.records)
        steps = sorted({step for records in self.records.values() for step in records})
        column = {step: index for index, step in enumerate(steps)}
        table = np.full((len(places), len(steps), 4), np.nan)
        for row, place in zip(table, places):
            for step, numbers in self.records[place].items():
                row[column[step]] = numbers
        mean, std, p10, p90 = np.moveaxis(table, 2, 0)
        percentiles = bool(np.all(np.isfinite(p10) & np.isfinite(p90) | ~np.isfinite(mean)))
        rows = [(f"{_STACKS[stack]}.{number}.{_SITES[site]}", head) for stack, number, site, head in places]
        return Timeline(metric=self.metric, steps=np.array(steps), mean=mean, rows=rows,
                        low=p10 if percentiles else mean - std, high=p90 if percentiles else mean + std,
                        band="percentiles" if percentiles else "std", alerts=alerts, job=job)


def _ask_attnctl(words: Sequence[str], good: Sequence[int]) -> str:
    """Returns what attnctl prints. Raises SourceError with what it says when its exit status is none of the good ones."""
    done = subprocess.run([attnctl(), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="surrogateescape")
    if done.returncode not in good or done.returncode != 0 and not done.stdout:
        said = " ".join(line.removeprefix("attnctl: ") for line in done.stderr.splitlines())
        raise SourceError(said or f"attnctl {words[0]} ended with status {done.returncode}", done.returncode)
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout


def _export(word: str, options: Dict[str, Any]) -> List[str]:
    return _ask_attnctl(["export", word, "--csv", *_line(options)], (0,)).splitlines()


# Default rules make these of entropy_normalized and entropy_sans_first.
_OF_ENTROPY = ("saturated_entropy", "saturated_alone", "lost_focus", "focus_share")


def _alerts(word: str, metric: str, wants: Callable[[str, int], bool],
            options: Dict[str, Any]) -> List[Tuple[int, str]]:
    """(step, state) of those about the metric, and a layer that is drawn or the whole run: one that fires at its onset."""
    drawn = (metric, *_OF_ENTROPY) if metric in ("entropy_normalized", "entropy_sans_first") else (metric,)
    answer = _ask_attnctl(["alerts", word, "--json", f"--count={_ALERTS_MAX}", *_line(options)], (0, 1))
    found = []
    for alert in json.loads(answer).get("alerts") or ():
        name = f"{alert.get('stack')}.{alert.get('layer')}.{alert.get('site')}"
        head = -1 if alert.get("head") is None else int(alert["head"])
        if alert.get("metric") in drawn and (alert.get("stack") is None or wants(name, head)):
            step = alert["since"][1] if alert.get("state") == "firing" else alert["step"]
            found.append((int(step), str(alert.get("state"))))
    return found


def timeline(word: str, metric: str = "entropy_normalized", *, layer: Union[int, str, None] = None,
             head: Optional[int] = None, run: Optional[str] = None, window: Optional[str] = None,
             start: Optional[int] = None, end: Optional[int] = None, **options: Any) -> Any:
    """The Timeline of one metric: of a job that a running attnd has in its history, or of a file that attnctl export
    wrote. `start` and `end` are --from and --to; `options` are address, endpoint, timeout. Raises SourceError."""
    def wants(name: str, index: int) -> bool:
        return (head is None or index == head) and (layer is None or matches(str(layer), name))

    course = _Course(word, metric, run, wants, start, end)
    alerts: List[Tuple[int, str]] = []
    if _is_file(word):
        course.take(_lines(word))
    else:
        asked = {**options, "run": run, "metric": metric, "window": window}
        course.take(_export(word, {**asked, "from": start, "to": end}))
        if not course.records and (start is not None or end is not None):
            course.take(_export(word, asked))  # what there is instead
        if course.records:
            alerts = _alerts(word, metric, wants, {**options, "run": course.the_run})
        course.job = word
    course.check(word, ("" if layer is None else f" in layer {layer}") + ("" if head is None else " and this head"))
    return course.arrange(course.job, alerts)


def _lines(path: str) -> List[str]:
    try:
        with open(0 if path == "-" else path, encoding="utf-8", errors="replace", closefd=path != "-") as file:
            return file.readlines()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
