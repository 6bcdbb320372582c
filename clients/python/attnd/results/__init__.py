# SPDX-License-Identifier: MIT
"""results: what attnd found out: questions and answers, subscriptions, data frames; alerts and windows for the training itself."""
