# SPDX-License-Identifier: MIT
"""palette: from indigo over teal to yellow.

Lightness grows evenly, so that it also reads in grey, and by those who see no red or no green.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Evenly spaced in value; sRGB of colours whose perceived lightness (OKLab) goes from 0.24 to 0.94 in equal steps.
STOPS = ((46, 0, 77), (45, 21, 111), (32, 50, 130), (0, 77, 139), (6, 100, 138), (7, 121, 144), (2, 142, 150),
         (12, 164, 152), (64, 184, 147), (109, 202, 139), (155, 217, 128), (202, 230, 118), (250, 241, 112))

MISSING = (222, 222, 226)  # no number: a grey that is no stop


def colours(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    """uint8 [..., 3] of values [...]: `low` and below the first stop, `high` and above the last, NaN MISSING."""
    spread = high - low
    share = np.clip((values - low) / spread if spread > 0 else np.full(values.shape, 0.5), 0.0, 1.0)
    share = np.where(np.isfinite(values), share, 0.0)
    places = np.linspace(0.0, 1.0, len(STOPS))
    channels = [np.interp(share, places, [stop[channel] for stop in STOPS]) for channel in range(3)]
    pixels: npt.NDArray[Any] = np.stack(channels, -1).round().astype(np.uint8)
    pixels[~np.isfinite(values)] = MISSING
    return pixels
