# SPDX-License-Identifier: MIT
"""command: attnctl plot. attnctl knows which kinds and options there are and has checked that they go together; here
their values are judged, figures drawn one after the other, and their files written whole.

    KIND --output=maps/ --every-layer --head=2 -- SOURCE...     each option by its full name, as attnctl hands them on
"""
from __future__ import annotations

import functools
import math
import os
import re
import signal
import sys
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .names import COLORMAPS, FORMATS, PIXELS_MAX, NothingToDraw, NotWhole, PlotError
from .read import Source, SourceError, matches, timeline

_PAST = ("entropy", "series")
_PER_LAYER = ("heatmap", "heads", "aggregate", "similarity", "spectrum", "tokens")  # what a receipt names a layer of
_PER_HEAD = ("heatmap", "layers", "tokens")
_ASKED = ("address", "endpoint", "timeout")
_WEIGHTS_MAX = 65536


class Refused(SourceError):
    """The command line, or a file, cannot be followed (2); or the answer is bad news (1)."""


class LeftOut(Exception):
    """Only this figure has no number to show; others may have."""


# ------------------------------------------------------------------------------------------------ values

class Wrong(Exception):
    """Says what would be valid, or what is wrong with a value."""


def _checked(read: Callable[[str], Any], accepts: Callable[[Any], bool], valid: str) -> Callable[[str], Any]:
    """Reads a value that is accepted; Wrong says what would be valid."""
    def check(text: str) -> Any:
        value = read(text)
        if not accepts(value):
            raise Wrong(f"valid: {valid}")
        return value
    return check


def _whole(text: str) -> int:
    """-1 for what is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1


def _float(text: str) -> float:
    """NaN for what is none."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else math.nan


def _real(least: float, most: float) -> Callable[[str], Any]:
    return _checked(_float, lambda number: least <= number <= most, f"a number from {least:g} to {most:g}")


def _is_index(number: int) -> bool:
    return 0 <= number < 2**31


def _size(text: str) -> Tuple[float, Optional[float]]:
    """Inches; the width alone leaves the height to the figure."""
    sides = [_float(side) for side in text.split("x")]
    if len(sides) > 2 or not all(0.5 <= side <= 100 for side in sides):
        raise Wrong("valid: inches such as 3.3x2.8, or 3.3 (0.5 to 100)")
    return sides[0], sides[1] if len(sides) > 1 else None


def _weights(text: str) -> List[float]:
    numbers = [_float(part) for part in text.split(",")]
    if len(numbers) > _WEIGHTS_MAX:
        raise Wrong("too many numbers")
    if not all(map(math.isfinite, numbers)):
        raise Wrong("valid: numbers such as 0.5,0.25,0.25, one per head")
    return numbers


_text = _checked(str, bool, "any text but an empty one")
_index = _checked(_whole, _is_index, "0, 1, 2, ...")
_VALUES: Dict[str, Callable[[str], Any]] = {
    "output": _text, "layer": _text, "site": _text, "font": _text, "sample": _index, "query": _index,
    "head": _checked(lambda text: text if text == "mean" else _whole(text), lambda head: head == "mean" or _is_index(head),
                     "0, 1, 2, ..., mean"),
    "format": _checked(str.lower, FORMATS.__contains__, "png, svg, pdf"), "head-weights": _weights,
    "colormap": _checked(str, lambda name: name.removesuffix("_r") in COLORMAPS, f"{', '.join(COLORMAPS)}; or one of them and _r"),
    "vmin": _real(-1e30, 1e30), "vmax": _real(-1e30, 1e30), "size": _size, "dpi": _real(20, 2400),
    "columns": _checked(_whole, lambda count: 1 <= count <= 64, "1 to 64"), "from": int, "to": int,
}


class Options(Dict[str, Any]):
    """The values on the command line by the options' names; None for an option that is not there."""

    def __init__(self, line: Sequence[str]):
        super().__init__()
        end = list(line).index("--")
        self.kind, self.line, self.words = line[0], list(line[1:end]), list(line[end + 1:])
        for word in self.line:
            name, has, value = word[2:].partition("=")
            try:
                self[name] = _VALUES.get(name, str)(value) if has else True
            except Wrong as wrong:
                why = str(wrong)
                why = f"not accepted ({why})" if why.startswith("valid: ") else why
                raise Refused(f"--{name}: '{value[:80]}': {why}") from None
        self._check_output()
        self._check_many()
        self._check_looks()

    def __missing__(self, name: str) -> None:
        return None

    @property
    def is_many(self) -> bool:
        """Whether the output is a folder, or a name with {layer} or {head} in it."""
        return bool(self["output"].endswith("/") or "{layer}" in self["output"] or "{head}" in self["output"])

    @property
    def format(self) -> str:
        return str(self["format"] or "png")

    @property
    def head(self) -> Any:
        """The head of the maps: a number, or the mean."""
        return "mean" if self["head"] is None else self["head"]

    def _check_output(self) -> None:
        output, format_ = self["output"], self["format"]
        if not output:
            raise Refused("where to? give -o FILE.png, .svg or .pdf")
        if output == "-":
            if not format_:
                raise Refused("-o -: in which format? give --format png, svg or pdf")
        elif not output.endswith("/"):
            _, dot, ending = output.rpartition(".")
            if not dot or ending.lower() not in FORMATS:
                raise Refused(f"{output}: not a name of a figure: it must end in .png, .svg or .pdf")
            if format_ and format_ != ending.lower():
                raise Refused(f"--format {format_}: but {output} is to be {ending.lower()}")
            self["format"] = ending.lower()

    def _check_many(self) -> None:
        output, folder, wrong = self["output"], self["output"].endswith("/"), ""
        if (self["every-layer"] or self["every-head"]) and not self.is_many:
            wrong = "of many figures needs -o FOLDER/ or a name such as -o 'maps/{layer}-h{head}.png'"
        elif self["every-layer"] and not folder and "{layer}" not in output:
            wrong = "--every-layer needs {layer} in the name, or one figure would replace another"
        elif self["every-head"] and not folder and "{head}" not in output:
            wrong = "--every-head needs {head} in the name, or one figure would replace another"
        elif self["every-layer"] and self["layer"]:
            wrong = "takes either --layer or --every-layer"
        elif self["every-head"] and self["head"] is not None:
            wrong = "takes either --head or --every-head"
        elif self.kind in _PAST and self.is_many:
            raise Refused(f"{self.kind} is one figure: give -o FILE.png, .svg or .pdf")
        elif self.kind in _PAST and len(self.words) > 1:
            raise Refused(f"{self.kind} is of one job or file")
        if wrong:
            raise Refused(f"{self.kind} {wrong}")

    def _check_looks(self) -> None:
        if self["vmin"] is not None and self["vmax"] is not None and self["vmin"] >= self["vmax"]:
            raise Refused("--vmin must be less than --vmax")
        width, height = self["size"] or (0.0, None)
        pixels = (self["dpi"] or 300) ** 2 * width * (height or width)
        if self.format == "png" and pixels > PIXELS_MAX:
            raise Refused(f"--size and --dpi make {pixels / 1e6:.0f} million pixels; at most {PIXELS_MAX / 1e6:.0f} million")

    def look(self) -> Dict[str, Any]:
        """The arguments that every kind takes."""
        names = {"colormap": "cmap", "vmin": "vmin", "vmax": "vmax", "title": "title", "size": "size", "font": "font",
                 "columns": "columns"}
        return {ours: self[name] for name, ours in names.items() if self[name] is not None}


# ------------------------------------------------------------------------------------------------ one figure

class Choice(NamedTuple):
    """The subject of one figure."""

    layer: int  # its place in the source
    head: Any  # a number, or "mean"


def _draw_maps(options: Options, source: Source, choice: Choice) -> Any:
    from .. import plots

    def read(layer: int, head: Any = None) -> Any:
        return source.maps(layer, choice.head if head is None else head, options["sample"])

    kind, weights = options.kind, options["head-weights"]
    data: Any
    if kind == "layers":
        stack, site = _find_site(options, source, choice)
        data = [read(at) for at, layer in enumerate(source.layers) if (layer.stack, layer.site) == (stack, site)]
    elif kind == "flow":
        number = source.layers[choice.layer].number
        sites = {"encoder.self": "encoder", "decoder.self": "decoder", "decoder.cross": "cross"}
        data = {sites[f"{layer.stack}.{layer.site}"]: read(at) for at, layer in enumerate(source.layers)
                if layer.number == number and f"{layer.stack}.{layer.site}" in sites}
    elif kind == "rollout":
        data = _roll(options, source, choice, read)
    else:
        data = read(choice.layer, None if kind in ("heatmap", "tokens") else "all")
    heads = source.layers[choice.layer].heads
    if kind == "aggregate" and weights and len(weights) != heads:
        raise Refused(f"--head-weights: {len(weights)} of them, but {heads} heads")
    own = {"tokens": {"query": options["query"]}, "similarity": {"js": bool(options["js"])}, "aggregate": {"head_weights": weights}}
    return plots.draw(kind, data, **own.get(kind, {}), **options.look())


def _roll(options: Options, source: Source, choice: Choice, read: Callable[[int, Any], Any]) -> List[Any]:
    """--site names the stack, --layer the last layer."""
    stack, last = source.layers[choice.layer].stack, source.layers[choice.layer].number
    if options["site"]:
        stack = _find_site(options, source, choice, ("self",))[0]
    found = [at for at, layer in enumerate(source.layers)
             if (layer.stack, layer.site) == (stack, "self") and (not options["layer"] or layer.number <= last)]
    if not found:
        raise Refused(f"rollout needs self-attention, and the {stack} has none")
    return [read(at, "mean") for at in found]


def _find_site(options: Options, source: Source, choice: Choice, sites: Sequence[str] = ("self", "cross")) -> List[str]:
    """The stack and the site that --site means, or those of the layer."""
    text = options["site"]
    if not text:
        return [source.layers[choice.layer].stack, source.layers[choice.layer].site]
    there = {f"{layer.stack}.{layer.site}" for layer in source.layers if layer.site in sites}
    every = [name for name in ("encoder.self", "encoder.cross", "decoder.self", "decoder.cross") if name in there]
    meant = [name for name in every if matches(text, name)]
    if len(meant) > 1:
        raise Refused(f"--site: '{text[:80]}' may be any of {', '.join(meant)}: say which")
    if not meant:
        raise Refused(f"--site: there is no '{text[:80]}' (valid: {', '.join(every)})")
    return meant[0].split(".")


def _draw_past(options: Options) -> Any:
    from .. import plots

    head = options["head"] if isinstance(options["head"], int) else None
    course = timeline(options.words[0], options["metric"] or "entropy_normalized", layer=options["layer"], head=head,
                      run=options["run"], window=options["window"], start=options["from"], end=options["to"],
                      **{name: options[name] for name in _ASKED})
    return plots.draw(options.kind, course, **options.look())


def _bytes(options: Options, draw: Callable[[], Any]) -> bytes:
    """The file of a figure; what cannot be drawn in the words of the command."""
    from . import output

    try:
        return output.render(draw(), options.format, options["dpi"] or 300)
    except NothingToDraw as error:
        raise LeftOut(str(error)) from None
    except NotWhole as error:
        raise Refused(str(error), 1) from None
    except PlotError as error:
        option = {"TooSmall": "--size: ", "AllBelow": "--vmin: ", "NoQuery": "--query: "}.get(type(error).__name__, "")
        raise Refused(option + str(error)) from None


# ------------------------------------------------------------------------------------------------ files

def _write(options: Options, path: str, data: bytes) -> None:
    from . import output

    if path == "-" and options.format != "svg" and os.isatty(1):
        raise Refused(f"-o -: {options.format} is not for a terminal: name a file, or a pipe")
    try:
        if path == "-":
            with open(1, "wb", closefd=False) as file:
                file.write(data)
        else:
            os.stat(os.path.dirname(path) or ".")
            output.write_bytes(path, data)
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}", 1) from None


def _make(options: Options, path: str, draw: Callable[[], Any], source: Optional[Source] = None,
          choice: Optional[Choice] = None) -> None:
    """With a receipt on standard output, unless the figure goes there."""
    from .output import Receipt

    _write(options, path, _bytes(options, draw))
    layer = source.layers[choice.layer].name if source and choice and options.kind in _PER_LAYER else None
    head = choice.head if choice and options.kind in _PER_HEAD and choice.head != "mean" else None
    if options["json"]:
        try:
            print(Receipt(path, options.kind, layer, head).json(), file=sys.stderr if path == "-" else sys.stdout, flush=True)
        except OSError:
            raise Refused("cannot write the output", 1) from None


# ------------------------------------------------------------------------------------------------ many

def _choices(options: Options, source: Source, layer: int) -> Iterator[Choice]:
    seen = set()
    for at in range(len(source.layers)) if options["every-layer"] else [layer]:
        number = source.layers[at].number
        if options.kind == "flow" and number in seen:
            continue  # three layers of a number are one figure
        seen.add(number)
        for head in range(source.layers[at].heads) if options["every-head"] else [options.head]:
            yield Choice(at, head)


def _make_many(options: Options, source: Source, layer: int) -> None:
    """A map without a number is told, and the others are drawn all the same."""
    from . import output

    choices, empty, progress = list(_choices(options, source, layer)), 0, output.Progress()
    try:
        for done, choice in enumerate(choices, 1):
            # A flow is of a number, the others are of one layer.
            at = source.layers[choice.layer]
            name = str(at.number) if options.kind == "flow" else at.name
            head = None if choice.head == "mean" else choice.head
            path = output.place_of(options["output"], options.kind, name, head, options.format)
            try:
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            except OSError as error:
                raise Refused(f"cannot make the folder of {path}: {error.strerror}", 1) from None
            try:
                _make(options, path, functools.partial(_draw_maps, options, source, choice), source, choice)
            except LeftOut as why:
                progress.end()
                shown = "mean" if head is None else f"{head:02}"
                _say(f"{'layer ' * (options.kind == 'flow')}{name}, head {shown}: left out: {why}")
                empty += 1
            progress.show(done, len(choices))
    finally:
        progress.end()
    if empty:
        raise Refused(f"{empty} of {len(choices)} figures were left out", 1)


# ------------------------------------------------------------------------------------------------ the command

def _find_layer(options: Options, source: Source) -> int:
    """A flow and a rollout are of several layers: --layer says which number, and need not say more."""
    text = options["layer"]
    if not text:
        return 0
    several = options.kind in ("flow", "rollout")
    meant = [at for at, layer in enumerate(source.layers) if several and matches(text, layer.name)]
    return meant[0] if meant else source.find(text)


def run(options: Options) -> None:
    if options.kind in _PAST:
        _make(options, options["output"], lambda: _draw_past(options))
        return
    with Source(*options.words, kind=options.kind, line=options.line) as source:
        layer = _find_layer(options, source)
        if options.is_many:
            _make_many(options, source, layer)
            return
        choice = Choice(layer, options.head)
        _make(options, options["output"], lambda: _draw_maps(options, source, choice), source, choice)


def _say(sentence: str) -> None:
    """On standard error; what a terminal would take for an order is a ?."""
    text = "".join(char if char.isprintable() else "?" for char in sentence)
    print(f"attnctl: {text}", file=sys.stderr, flush=True)


def _make_sure_of_home() -> None:
    """matplotlib ends without a home, which a user of a container may lack; in one that it cannot write to, it makes a
    folder for the time and says so."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"


def main(line: Sequence[str]) -> int:
    """The exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        options = Options(line)
        _make_sure_of_home()
        if options["font"]:
            from .style import font_instead
            instead = font_instead(options["font"])
            if instead:
                _say(f"font '{options['font']}' is not installed: {instead} is used")
        run(options)
    except LeftOut as error:
        _say(str(error))
        return 1
    except SourceError as error:
        _say(str(error))
        return error.code
    except ModuleNotFoundError as error:
        is_debian = sys.executable.startswith("/usr/bin/")
        how = f"apt install python3-{error.name}" if is_debian else f"{sys.executable} -m pip install {error.name}"
        _say(f"{sys.executable} has no {error.name}, which draws figures: {how}; or name another Python in "
             "ATTND_PYTHON")
        return 2
    return 0
