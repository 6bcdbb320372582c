# SPDX-License-Identifier: MIT
"""scale: where colours and axes begin and end, and the round numbers at them."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from .names import AllBelow, NothingToDraw

Array = npt.NDArray[Any]

# When more than FEW of the values are in the first tenth of the range, the colours end at the HIGH quantile: a few
# large weights do not hide all others.
HIGH, FEW, FEW_ABOVE = 0.995, 0.99, 0.1


@dataclass(frozen=True)
class Range:
    """The ends of the colours, and whether values are beyond them."""

    low: float
    high: float
    below: bool = False
    above: bool = False


def range_of(parts: Sequence[Array], vmin: Optional[float], vmax: Optional[float], what: str = "the map") -> Range:
    """The range of the finite values of all parts: from 0, or the least when it is below, to the largest, or to the
    99.5th percentile when more than 99 % are within a tenth of that. Raises NothingToDraw without a number, AllBelow
    when vmin is above all."""
    parts = [finite(part) for part in parts]
    parts = [part for part in parts if part.size]
    if not parts:
        raise NothingToDraw(f"there is nothing to draw: no entry of {what} is a number")
    least, most = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    if vmin is not None and most < vmin:
        raise AllBelow(f"{vmin:g}: above all values, which are {least:g} to {most:g}")
    low = vmin if vmin is not None else min(0.0, least)
    high = vmax if vmax is not None else _high(parts, low, most)
    if not high > low:
        high = low + max(abs(low), 1.0)
    return Range(low, high, least < low, most > high)


def finite(values: Array) -> Array:
    """The finite values; without a copy when all are, which is the usual case."""
    if not values.size or np.isfinite(values.min()) and np.isfinite(values.max()):
        return values
    return np.asarray(values[np.isfinite(values)])


def _high(parts: Sequence[Array], low: float, most: float) -> float:
    tenth = low + FEW_ABOVE * (most - low)
    few = sum(int(np.count_nonzero(part <= tenth)) for part in parts)
    if few <= FEW * sum(part.size for part in parts):
        return most
    high = float(np.quantile(np.concatenate(parts), HIGH))
    return min(high, most) if high > low else most


# ------------------------------------------------------------------------------------------------ round numbers

def _round_up(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(nice for nice in (1, 2, 5, 10) if step / power <= nice + 1e-7)


def ticks(low: float, high: float, most: int, least_step: float = 0.0) -> List[float]:
    """About `most` round numbers from low to high, at least `least_step` apart."""
    step = _round_up(max((high - low) / max(2, most), least_step))
    first = math.ceil(low / step - 1e-6)
    last = math.floor((high + 1e-6 * (high - low)) / step)
    return [0.0 if index == 0 else index * step for index in range(first, last + 1)]


def powers(low: float, high: float, most: int) -> List[float]:
    """Round numbers for logarithms, 0 < low < high: powers of ten, and 2 and 5 times them when there are few."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if math.log10(high / low) < 2.5:
        all_ = [times * 10.0 ** power for power in range(first - 1, last + 1) for times in (1, 2, 5)]
        return [at for at in all_ if low <= at <= high]
    step = max(1, math.ceil((last - first + 1) / max(2, most)))
    return [10.0 ** power for power in range(last, first - 1, -step)][::-1]


def thin(numbers: List[float], most: int) -> List[float]:
    """Every second one, until they are no more than `most`."""
    while len(numbers) > max(1, most):
        numbers = numbers[::2]
    return numbers


def texts(numbers: Sequence[float]) -> List[str]:
    """Writes round numbers that are equally far apart with as many digits as tell them apart."""
    if not len(numbers):
        return []
    largest = max(abs(number) for number in numbers)
    form = ".3g"
    if not largest > 0 or 1e-3 <= largest < 1e6:
        step = min((abs(b - a) for a, b in zip(numbers, numbers[1:])), default=largest or 1.0)
        form = f".{max(0, -math.floor(math.log10(step) + 1e-9))}f"
    return [f"{number:{form}}".replace("-", "\u2212") for number in numbers]


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_texts(numbers: Sequence[float]) -> List[str]:
    """Writes powers(): 10⁻³, or plain numbers when they include others than powers of ten."""
    exponents = [math.log10(number) for number in numbers]
    if any(abs(exponent - round(exponent)) > 1e-9 for exponent in exponents) or len(numbers) < 2:
        return [f"{number:g}" for number in numbers]
    return ["10" + str(round(exponent)).translate(_RAISED) for exponent in exponents]


def percentiles(values: Array, shares: Tuple[float, ...]) -> List[Array]:
    """Quantiles of finite values along the first axis, NaN without any: [n, points] -> one [points] for each share."""
    values = np.where(np.isfinite(values), values, np.nan)
    result = np.full((len(shares), values.shape[1]), np.nan)
    some = ~np.isnan(values).all(0)
    if some.any():
        result[:, some] = np.nanquantile(values[:, some], shares, axis=0)
    return list(result)
