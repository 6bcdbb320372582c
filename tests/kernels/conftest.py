# SPDX-License-Identifier: MIT
"""The report of KERNEL_REPORT."""
import os

from driver import worst


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("KERNEL_REPORT"):
        for family, share in sorted(worst.items()):
            terminalreporter.write_line(f"{family:40} {share:.2e}")
