# SPDX-License-Identifier: MIT
"""output: figures as files. The same input gives the same bytes: files have no versions, no random ids and no dates,
apart from SOURCE_DATE_EPOCH in a PDF.
"""
from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import matplotlib.figure
from matplotlib.backends.backend_agg import FigureCanvasAgg

from . import style
from .names import FORMATS, PIXELS_MAX, NothingToDraw, PlotError

DPI = 300.0
_BAR = 30  # characters of a progress bar
_PATIENCE_S, _EVERY_S = 0.5, 0.1
_METADATA: Dict[str, Dict[str, Optional[str]]] = {
    "png": {"Software": None}, "svg": {"Date": None, "Creator": "attnd"}, "pdf": {"Producer": None, "Creator": "attnd"}}


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure without pyplot. A notebook shows it, and savefig() writes the same bytes each time."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        FigureCanvasAgg(self)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Saves as matplotlib does, in the style of this package, with 300 dots per inch by default."""
        _save_figure(self, fname, **options)

    def _repr_png_(self) -> Tuple[bytes, Dict[str, int]]:
        """Pixels for notebooks: sharp on dense screens, as large as other figures."""
        wide, high = (int(side * 110) for side in self.get_size_inches())
        return render(self, dpi=220), {"width": wide, "height": high}


def _save_figure(figure: Any, target: Any, **options: Any) -> None:
    ending = options.get("format") or str(getattr(target, "name", target)).rpartition(".")[2].lower()
    known = dict(_METADATA.get(ending, {}))
    if ending == "pdf" and "SOURCE_DATE_EPOCH" not in os.environ:
        known["CreationDate"] = None
    with style.context():
        matplotlib.figure.Figure.savefig(figure, target, **{"dpi": DPI, **options,
                                                            "metadata": {**known, **(options.get("metadata") or {})}})


def render(figure: Any, format: str = "png", dpi: float = DPI) -> bytes:  # noqa: A002
    """Returns a figure as the bytes of a PNG, SVG or PDF; `dpi` is for PNG."""
    if format not in FORMATS:
        raise PlotError(f"there is no format {format!r} (valid: png, svg, pdf)")
    wide, high = figure.get_size_inches()
    if format == "png" and wide * high * dpi * dpi > PIXELS_MAX:
        raise PlotError(f"size and dpi make {wide * high * dpi * dpi / 1e6:.0f} million pixels; at most "
                        f"{PIXELS_MAX / 1e6:.0f} million")
    buffer = io.BytesIO()
    _save_figure(figure, buffer, format=format, dpi=dpi)
    return buffer.getvalue()


def format_of(name: Any) -> str:
    """The format by the ending of a file's name."""
    ending = str(name).rpartition(".")[2].lower()
    if ending not in FORMATS:
        raise PlotError(f"{name}: not a name of a figure: it must end in .png, .svg or .pdf")
    return ending


def write(figure: Any, target: Union[str, "os.PathLike[str]", BinaryIO], *, format: Optional[str] = None,  # noqa: A002
          dpi: float = DPI) -> None:
    """Writes a figure to a file, whole or not at all, and makes its folders; or to a binary stream, as PNG by
    default."""
    if hasattr(target, "write"):
        target.write(render(figure, format or "png", dpi))
        return
    path = os.fspath(target)
    write_bytes(path, render(figure, format or format_of(path), dpi))


def write_bytes(path: str, data: bytes) -> None:
    """Writes beside the file and renames; a pipe or device is written to directly."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as there:  # a folder is an error here
            there.write(data)
        return
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=folder or ".")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ------------------------------------------------------------------------------------------------ many figures

def place_of(target: str, kind: str, layer: Optional[str], head: Optional[int], format: str) -> str:  # noqa: A002
    """The file of a figure: in a folder/ 'heatmap-decoder.3.self-h07.png', else the name with its {layer} and {head}; the
    mean over heads is 'mean'."""
    if target.endswith(("/", os.sep)):
        parts = [kind, layer, None if head is None else f"h{head:02}"]
        return target + "-".join(part for part in parts if part) + "." + format
    return target.replace("{layer}", layer or "").replace("{head}", "mean" if head is None else f"{head:02}")


@dataclass(frozen=True)
class Receipt:
    """A written figure."""

    figure: str
    kind: str
    layer: Optional[str] = None
    head: Optional[int] = None

    def json(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False)


class Progress:
    """A bar on a terminal, after half a second: '[####......] 12 of 96'."""

    def __init__(self) -> None:
        self._out = sys.stderr
        self._on = self._out.isatty()
        self._begun, self._shown_at, self._shown = time.monotonic(), 0.0, False

    def show(self, done: int, all_: int) -> None:
        now = time.monotonic()
        if self._on and now - self._begun >= _PATIENCE_S and now - self._shown_at >= _EVERY_S:
            full = done * _BAR // max(1, all_)
            self._out.write(f"\r[{'#' * full}{'.' * (_BAR - full)}] {done} of {all_}")
            self._out.flush()
            self._shown_at, self._shown = now, True

    def end(self) -> None:
        if self._shown:
            self._out.write("\r\033[K")
            self._out.flush()
        self._shown = False


def save(target: Any, kind: str, data: Any, *, every_layer: bool = False, every_head: bool = False,
         format: Optional[str] = None, dpi: float = DPI, progress: Any = None,  # noqa: A002
         **options: Any) -> List[Receipt]:
    """Draws a kind and writes it: one figure, one for each layer of `data` (a list of Maps, or {name: maps}), or one
    for each head. Returns the written figures; of many, those without a number to show are left out.

    target      a file; a folder ('figures/' gets KIND-LAYER-hHEAD.png); or a name with {layer} and {head}
    progress    an object with show(done, all) and end(); None is a bar on a terminal
    options     the keywords of the kind
    """
    from . import KINDS, draw

    if kind not in KINDS:
        raise PlotError(f"no kind {kind!r} (valid: {', '.join(KINDS)})")
    path = os.fspath(target)
    is_folder, many = path.endswith(("/", os.sep)), every_layer or every_head
    for every, word in ((every_layer, "{layer}"), (every_head, "{head}")):
        if every and not is_folder and word not in path:
            raise PlotError(f"{path}: one figure would replace another: give a folder/, or {word} in the name")
    ending = format or ("png" if is_folder else format_of(path))
    receipts: List[Receipt] = []
    bar = Progress() if progress is None else progress
    jobs = list(_jobs(data, every_layer, every_head, options))
    try:
        for done, (one, layer, more) in enumerate(jobs):
            bar.show(done, len(jobs))
            head = more.get("head")
            try:
                figure = draw(kind, one, **{**options, **more})
            except NothingToDraw:
                if not many:
                    raise
                continue
            place = place_of(path, kind, layer or None, head, ending)
            write(figure, place, format=ending, dpi=dpi)
            receipts.append(Receipt(place, kind, layer or None, head))
    finally:
        bar.end()
    return receipts


def _jobs(data: Any, every_layer: bool, every_head: bool,
          options: Mapping[str, Any]) -> Iterator[Tuple[Any, Optional[str], Dict[str, Any]]]:
    """Yields (data, name of the layer, further options) for each figure."""
    from .data import Maps, take, take_all

    about = {name: options[name] for name in Maps.__dataclass_fields__ if name in options and name != "head"}
    sample = about.pop("sample", None)
    if not every_layer and not every_head:
        yield data, getattr(data, "name", None), {} if options.get("head") is None else {"head": options["head"]}
        return
    for layer in take_all(data, sample, **about) if every_layer else [take(data, sample, **about)]:
        heads: List[Dict[str, Any]] = [{"head": head} for head in range(layer.count)] if every_head else [{}]
        for more in heads:
            yield layer, layer.name, more
