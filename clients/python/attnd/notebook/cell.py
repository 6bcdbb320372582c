# SPDX-License-Identifier: MIT
"""cell: attention maps in a notebook's cell, drawn by the page's own modules.

    attnd.notebook.view(model(**batch, output_attentions=True).attentions, tokens=words)
    attnd.notebook.view("gpt-small")               # the newest maps of a job, as attnd has them at this moment
    attnd.notebook.follow("gpt-small")             # live: the same, drawn anew while the job trains

The result is one document: the page's modules, D3, its style, and the numbers. It asks for nothing, needs no server,
and is put into an iframe of its own, which is sandboxed: a notebook's styles and those of the page do not meet, and
text in tokens stays text.
"""
from __future__ import annotations

import base64
import html
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from ..base import endings
from ..plots.data import pool, take
from ..plots.names import PlotError
from .bundle import bundle

Array = npt.NDArray[Any]

CELLS_MAX = 4_000_000  # in one document, about 21 MB; larger maps are pooled
SIDE_MAX = 256
SIDE_MIN = 4
HEADS_MAX = 65536
LEAST = -1e-3  # of half precision; what is below is no rounding
SUM_TOLERANCE = 2e-2  # a row whose sum is farther from 1 is no distribution
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_PAGE = _PACKAGE / "page"  # a link to clients/web where it is run from its sources
_D3 = ("/usr/share/nodejs/d3/dist/d3.min.js", "/usr/share/javascript/d3/d3.min.js")

SHAPE = ("maps are [layers, heads, queries, keys] or a list of [heads, queries, keys] (or [batch, heads, queries, "
         "keys], as model(..., output_attentions=True).attentions has them)")


class Layer(NamedTuple):
    """The maps of one attention: `weights` f32 [heads, rows, columns]; the rest as in answers of Control.maps."""
    weights: Array
    stack: str = "decoder"
    layer: int = 0
    site: str = "self"
    queries: int = 0
    keys: int = 0
    labels: Optional[List[str]] = None
    q_labels: Optional[List[str]] = None
    module: Optional[str] = None
    q_offset: int = 0
    causal: Optional[bool] = None
    queries_sent: Optional[int] = None  # with those of padding, and where the maps begin among them
    keys_sent: Optional[int] = None
    first_query: int = 0
    first_key: int = 0


class View:
    """A view that a notebook shows as it is. `document` is the whole as a file of its own (save())."""

    def __init__(self, document: str, height: int):
        self.document = document
        self.height = height

    def _repr_html_(self) -> str:
        # Whatever encoding the page around it is read in.
        content = html.escape(self.document, quote=True).encode("ascii", "xmlcharrefreplace").decode("ascii")
        return (f'<iframe sandbox="allow-scripts allow-downloads" srcdoc="{content}" '
                f'style="width:100%;height:{self.height}px;border:1px solid #8884;border-radius:6px" '
                f'title="attention maps"></iframe>')

    def __repr__(self) -> str:
        return f"<attnd.notebook.view: {len(self.document) / 1e6:.1f} MB of HTML; save(path) keeps it>"

    def save(self, path: Any) -> None:
        """Writes the document to a file, which any browser shows."""
        pathlib.Path(path).write_text(self.document, encoding="utf-8")


def view(what: Any, *, tokens: Any = None, query_tokens: Any = None, sample: int = 0, title: Optional[str] = None,
         height: int = 900, run: Optional[str] = None, address: Any = None, control: Any = None) -> View:
    """Layers by heads, the maps of all heads, and one head with its lines, in the cell of a notebook. A job is shown as
    it is at this moment; follow() shows it live.

    what          the name of a job, whose newest maps attnd is asked for; or arrays, numpy or torch: [layers, heads,
                  queries, keys], a list of [heads, queries, keys], or of [batch, heads, queries, keys] as models return
                  them with output_attentions=True; or that output itself, an encoder-decoder's too; or {name: array}
                  with names such as "decoder.3.self"
    tokens        texts of the keys, which self-attention's queries share; for an encoder-decoder a dict
                  {"encoder": ..., "decoder": ...}
    query_tokens  texts of the queries where they are others
    sample        which of a batch
    title         of the document
    height        px of the cell
    run           of the job: its first digits; the newest
    address, control   of attnd: as for Control, or one that is open

    Maps that together have more than 4 million cells are shown in larger cells. ValueError says what to pass instead.
    """
    height = _whole("height", height, 100, 20000)
    sample = _whole("sample", sample, 0, 2**31)
    if isinstance(what, str):
        if tokens is not None or query_tokens is not None:
            raise ValueError("tokens belong to arrays; those of a job are its labels: attnd.watch(..., labels=...)")
        return View(document(title or f"Attention of {what}", *_of_job(what, run, address, control)[:3]), height)
    layers = _of_arrays(what, tokens, query_tokens, sample)
    measured = _entropies(layers)
    return View(document(title or "Attention", _pooled(layers), measured, None), height)


def follow(job: str, *, every: float = 10.0, title: Optional[str] = None, height: int = 900, run: Optional[str] = None,
           address: Any = None, control: Any = None) -> None:
    """The live view of a job in a notebook's cell: drawn anew each `every` seconds, until its run has ended or the
    cell is interrupted. A job that has not begun, or has no maps yet, is waited for, which one line says. The rest as for
    view(). RuntimeError where there is no notebook."""
    from ..results.control import ControlError

    if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0.1 <= every <= 86400:
        raise ValueError(f"every: must be seconds from 0.1 to 86400, not {every!r:.40}")
    height = _whole("height", height, 100, 20000)
    display = notebook_display()
    if display is None:
        raise RuntimeError("there is no notebook here to draw in: view(job).save(path) writes a file")
    handle: Any = None
    waits = False
    try:
        while True:
            try:
                layers, metrics, note, ended = _of_job(job, run, address, control)
            except (NoMaps, ControlError) as error:
                if handle is not None or getattr(error, "code", "job_unknown") != "job_unknown":
                    raise
                if not waits:
                    told = str(error) if isinstance(error, NoMaps) else f"job {job} has not begun"
                    print(f"{told}: waiting for it", flush=True)
                waits = True
                time.sleep(every)
                continue
            shown = View(document(title or f"Attention of {job}", layers, metrics, note), height)
            if handle is None:
                handle = display(shown, display_id=True)
            else:
                handle.update(shown)
            if ended:
                return
            time.sleep(every)
    except KeyboardInterrupt:
        pass


def notebook_display() -> Any:
    """IPython's display() when a notebook is there to show pictures, else None."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    return display if shell is not None and hasattr(shell, "kernel") else None


class NoMaps(ValueError):
    """A job has no maps now."""


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise ValueError(f"{name}: must be a whole number from {least} to {most}, not {value!r:.40}")
    return int(value)


# ------------------------------------------------------------------------------------------------ arrays

_NAME = re.compile(r"(encoder|decoder)\.(\d{1,5})\.(self|cross)\Z")
_OUTPUTS = (("encoder_attentions", "encoder", "self"), ("decoder_attentions", "decoder", "self"),
            ("cross_attentions", "decoder", "cross"), ("attentions", "decoder", "self"))


def _of_arrays(what: Any, tokens: Any, query_tokens: Any, sample: int) -> List[Layer]:
    named = _named(what)
    if not named:
        raise ValueError(f"there are no maps: {SHAPE}")
    layers = [_layer(place, array, sample) for place, array in named]
    if sum(len(one.weights) for one in layers) > HEADS_MAX:
        raise ValueError(f"more than {HEADS_MAX} heads: pass some of the layers")
    return [_with_tokens(one, tokens, query_tokens) for one in layers]


def _named(what: Any) -> List[Tuple[Tuple[str, int, str], Any]]:
    """The layers with their names: (stack, layer, site)."""
    outputs = [(name, stack, site) for name, stack, site in _OUTPUTS if getattr(what, name, None) is not None]
    if outputs:
        return [((stack, i, site), array) for name, stack, site in outputs
                for i, array in enumerate(getattr(what, name)) if array is not None]
    if isinstance(what, Mapping):
        found = [(_NAME.match(str(name)), name, array) for name, array in what.items()]
        wrong = next((name for match, name, _ in found if match is None), None)
        if wrong is not None:
            raise ValueError(f"{str(wrong)!r:.60} names no layer: names are like 'decoder.3.self' or 'encoder.0.self'")
        return [((match[1], int(match[2]), match[3]), array) for match, _, array in found if match is not None]
    if hasattr(what, "shape"):
        if len(what.shape) not in (3, 4):
            axes = len(what.shape)
            remedy = f"choose by its first axes: array[{', '.join('0' * (axes - 4))}]" if axes > 4 else "pass it as array[None]"
            remedy = "pass list(array), if its first axis is of layers; else " * (axes == 5) + remedy * (axes > 1)
            raise ValueError(f"an array of the shape {list(what.shape)}: {SHAPE}{'; ' * bool(remedy)}{remedy}")
        what = [what] if len(what.shape) == 3 else list(what)
    if not isinstance(what, Sequence) or isinstance(what, (bytes, bytearray)):
        raise ValueError(f"{type(what).__name__}: pass the name of a job, or arrays; {SHAPE}")
    if any(array is None for array in what):
        raise ValueError("some layers have no weights: load the model with attn_implementation='eager', whose fused "
                         "kernels would not make them")
    return [(("decoder", i, "self"), array) for i, array in enumerate(what)]


def _layer(place: Tuple[str, int, str], given: Any, sample: int) -> Layer:
    name = f"{place[0]}.{place[1]}.{place[2]}"
    try:
        weights = take(given, sample if np.ndim(given) == 4 else None).weights
    except PlotError as error:
        raise ValueError(f"{name}: {error}; {SHAPE}") from None
    least = np.nanmin(weights, initial=0)
    if least < LEAST:
        raise ValueError(f"{name} has weights below 0, down to {least:.3g}: weights of attention are never negative; pass "
                         "them as they are after the softmax, not logits or differences")
    return Layer(weights, *place, *weights.shape[1:])


def _with_tokens(layer: Layer, tokens: Any, query_tokens: Any) -> Layer:
    """With the texts of its keys and queries."""
    by_stack = tokens if isinstance(tokens, Mapping) else None
    if by_stack is not None:
        unknown = set(by_stack) - {"encoder", "decoder"}
        if unknown:
            raise ValueError(f"tokens: {sorted(map(str, unknown))[0]!r} is no stack: "
                             "{'encoder': [...], 'decoder': [...]}")
        keys = by_stack.get("encoder" if layer.site == "cross" else layer.stack)
        queries = by_stack.get(layer.stack) if layer.site == "cross" else None
    else:
        keys, queries = tokens, None
    if query_tokens is not None:
        queries = query_tokens
    return layer._replace(labels=_texts("tokens", keys, layer.keys, layer),
                          q_labels=_texts("query_tokens", queries, layer.queries, layer))


def _texts(name: str, given: Any, count: int, layer: Layer) -> Optional[List[str]]:
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise ValueError(f"{name}: must be a list of texts, one per position, not {type(given).__name__}")
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in given]
    if len(texts) != count:
        raise ValueError(f"{name}: {len(texts)} texts, but {layer.stack}.{layer.layer}.{layer.site} has {count} "
                         f"{'queries' if name == 'query_tokens' else 'keys'}")
    return texts


def _entropies(layers: Sequence[Layer]) -> List[Dict[str, Any]]:
    """Mean entropy and largest weight of the rows of each head, in f64, as attnd has them; of rows that are
    distributions."""
    entropy: List[List[Optional[float]]] = []
    confidence: List[List[Optional[float]]] = []
    for layer in layers:
        rows = [_row_numbers(head) for head in layer.weights]
        entropy.append([_number(values.mean()) if len(values) else None for values, _ in rows])
        confidence.append([_number(largest.mean()) if len(largest) else None for _, largest in rows])
    most = max((math.log(layer.keys) for layer in layers if layer.keys > 1), default=1.0)
    return [{"name": "entropy", "unit": "nats", "most": most, "values": entropy,
             "description": "mean over the queries: 0 = all weight on one key"},
            {"name": "confidence", "unit": "", "most": 1.0, "values": confidence,
             "description": "largest weight of a query, mean over the queries"}]


def _row_numbers(head: Array) -> Tuple[Array, Array]:
    """Entropy and largest weight of each row [queries, keys] that is a distribution."""
    rows = head.astype(np.float64)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(rows).all(1) & (np.abs(rows.sum(1) - 1) <= SUM_TOLERANCE)
    rows = np.maximum(rows[sound], 0)
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    return -(rows * logs).sum(1), rows.max(1) if len(rows) else rows.sum(1)


def _number(value: Any) -> Optional[float]:
    return float(value) if math.isfinite(value) else None


def _pooled(layers: Sequence[Layer]) -> List[Layer]:
    """In larger cells where they are too many for a document."""
    heads = sum(len(layer.weights) for layer in layers)
    side = max(SIDE_MIN, min(SIDE_MAX, math.isqrt(CELLS_MAX // heads)))

    def smaller(weights: Array) -> Array:
        return np.stack([pool(one, np.zeros(one.shape, np.uint8), side, side)[0] for one in weights])

    return [layer._replace(weights=smaller(layer.weights)) if max(layer.weights.shape[1:]) > side else layer for layer in layers]


# -------------------------------------------------------------------------------------------------- jobs

_Found = Tuple[List[Layer], List[Dict[str, Any]], str, bool]


def _of_job(job: str, run: Optional[str], address: Any, control: Any) -> _Found:
    """The newest maps of a job and the newest numbers of its heads; whether the run has ended."""
    from ..base.wire import job_name
    from ..results.control import Control, ControlError

    job = job_name(job)
    asked = control if control is not None else Control(address=address)
    try:
        live = asked.live(job, **({} if run is None else {"run": run}))
        layers: List[Layer] = []
        whys: List[str] = []
        steps = set()
        for one in live:
            place = {name: one[name] for name in ("stack", "layer", "site")}
            try:
                found = asked.maps(job, run, **place)
            except ControlError as error:
                whys.append(str(error))
                continue
            steps.add(found["step"])
            said = {name: found[name] for name in Layer._fields[4:] if name in found}
            layers.append(Layer(found["values"], **place, **said))
        page = asked.config().get("http.endpoint", "") if layers else ""
        ended = any(one["job"] == job and one["run"] == live[0]["run"] and one["state"] in endings.OVER
                    for one in (asked.jobs() if layers else ()))
    finally:
        if control is None:
            asked.close()
    if not layers:
        raise NoMaps(f"job {job} has no maps to show: {whys[0] if whys else 'nothing of it has come yet'}")
    steps_text = f"step {min(steps)}" if len(steps) == 1 else f"steps {min(steps)} to {max(steps)}"
    where = f" The live page: {page.replace('tcp://', 'http://')}" if page else ""
    return _pooled(layers), _job_metrics(live, layers), f"The newest maps of job {job}, {steps_text}.{where}", ended


def _job_metrics(live: Any, layers: Sequence[Layer]) -> List[Dict[str, Any]]:
    """The metrics that the overview may show, by the newest numbers of each head."""
    by_place = {(one["stack"], one["layer"], one["site"]): one["heads"] for one in live}
    heads = [by_place[layer.stack, layer.layer, layer.site] for layer in layers]
    found = []
    for name, unit, most in (("entropy_normalized", "", 1.0), ("entropy", "nats", None), ("confidence", "", 1.0)):
        if any(name in numbers for numbers in heads):
            values = [[None if x is None else _number(x) for x in numbers.get(name) or [None] * len(layer.weights)]
                      for layer, numbers in zip(layers, heads)]
            found.append({"name": name, "unit": unit, "most": most, "values": values,
                          "description": "of the newest step"})
    return found


# ---------------------------------------------------------------------------------------------- document

def document(title: str, layers: Sequence[Layer], metrics: Sequence[Dict[str, Any]], note: Optional[str]) -> str:
    """The whole as one HTML document. ImportError when the page's files or D3 are not installed."""
    described, parts, first = [], [], 0
    for layer in layers:
        parts.append(np.ascontiguousarray(layer.weights, dtype="<f4"))
        heads, rows, columns = layer.weights.shape
        described.append({**{name: value for name, value in layer._asdict().items() if name != "weights"},
                          "heads": heads, "rows": rows, "columns": columns, "first": first})
        first += parts[-1].size
    values = base64.b64encode(b"".join(part.tobytes() for part in parts)).decode("ascii")
    data = json.dumps({"title": title, "note": note, "layers": described, "metrics": list(metrics), "values": values},
                      allow_nan=False)
    page = _page()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title><style>{(page / "style.css").read_text(encoding="utf-8")}</style></head>
<body><main id="view" tabindex="-1"></main>
<div id="readout" class="hidden-text" aria-live="polite"></div><div id="tooltip" class="tooltip" hidden></div>
<script type="application/json" id="data">{data.replace("<", chr(92) + "u003c")}</script>
<script>{_in_script(_d3())}</script>
<script>{_in_script(bundle(page, "notebook_view.js"))}</script></body></html>
"""


def _in_script(code: str) -> str:
    return re.sub(r"</(?=script)", r"<\\/", code, flags=re.IGNORECASE)


def _page() -> pathlib.Path:
    if (_PAGE / "notebook_view.js").is_file():
        return _PAGE
    raise ImportError("attnd.notebook.view needs the page's files, which this installation of attnd lacks: install it "
                      "from the sources, pip install ./clients/python")


def _d3() -> str:
    for place in (os.environ.get("ATTND_D3"), str(_PACKAGE / "d3.min.js"), *_D3):
        if place and os.path.isfile(place):
            code = pathlib.Path(place).read_text(encoding="utf-8")
            if not re.search(r"d3js\.org v5\.", code[:200]):
                raise ImportError(f"{place} is not D3 of version 5, which attnd's page is written for")
            return code
    raise ImportError("attnd.notebook.view needs D3 of version 5: apt install node-d3, or let ATTND_D3 name a "
                      "d3.min.js")
