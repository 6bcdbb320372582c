# SPDX-License-Identifier: MIT
"""python -m attnd: see doctor.py; python -m attnd gpu: see gpu.py."""
import sys

if sys.argv[1:2] == ["gpu"]:
    from .gpu import main
    sys.exit(main(sys.argv[2:]))
from .doctor import main as examine  # noqa: E402

sys.exit(examine())
