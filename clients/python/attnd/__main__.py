# SPDX-License-Identifier: MIT
"""python -m attnd: see doctor.py."""
import sys

from .doctor import main

sys.exit(main())
