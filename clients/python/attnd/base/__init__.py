# SPDX-License-Identifier: MIT
"""base: what all rooms speak of: messages, addresses, plans, masks and metrics. No threads."""
