# SPDX-License-Identifier: MIT
"""connection: a socket and its one attnd (link.py), which is read all the time (drain.py); the keys that it comes with (keys.py),
and who listens there instead (listener.py)."""
