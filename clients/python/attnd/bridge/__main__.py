# SPDX-License-Identifier: MIT
"""python -m attnd.bridge: see cli."""
import sys

from .cli import main

sys.exit(main())
