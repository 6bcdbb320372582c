# SPDX-License-Identifier: MIT
"""names: the formats, colour maps and limits that both the command and the figures know. Without matplotlib: attnctl
plot refuses a bad value before it loads it."""

FORMATS = ("png", "svg", "pdf")
COLORMAPS = ("viridis", "cividis", "plasma", "inferno", "magma", "hot", "cool", "gray", "RdBu")
PIXELS_MAX = 400e6  # of a PNG
