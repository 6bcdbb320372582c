# SPDX-License-Identifier: MIT
"""notebook: attention in a notebook's cell: maps as on the page (cell.py), and a plot that follows a job (live.py)."""
from .cell import View as View, follow as follow, view as view
from .live import live_plot as live_plot
