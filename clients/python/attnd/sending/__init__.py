# SPDX-License-Identifier: MIT
"""sending: the publisher and its thread (sender.py): the queue before its socket (outbox.py), whether attnd is there and what
people are told of that (presence.py), the lane on which nothing is lost (reliable.py) and its files (spool.py), and memory that
attnd reads in place (memory.py)."""
