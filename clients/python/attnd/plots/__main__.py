# SPDX-License-Identifier: MIT
"""python -m attnd.plots: see command."""
import sys

from .command import main

sys.exit(main(sys.argv[1:]))
