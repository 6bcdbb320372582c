# SPDX-License-Identifier: MIT
"""lane: the way to attnd on which nothing is lost (reliable.py), and its files (spool.py)."""
