# SPDX-License-Identifier: MIT
"""model: what a watched model says of itself: which of its modules are which layers, its tokens and their texts; its hooks, and what is
said of it once."""
