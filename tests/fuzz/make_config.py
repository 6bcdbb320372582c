#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make_config: writes the corpus of fuzz_config: the sections with their defaults, rules, jobs, --set lines, and broken ones.

usage: make_config.py FOLDER
"""
import pathlib
import re
import sys

KEYS = pathlib.Path(__file__).resolve().parents[2] / "config" / "keys.def"
TEXTS = [
    "rules:\n  mine: {metric: entropy, below: 0.5, for: 2, clear: 0.6, severity: info, jobs: 'gpt-*', statistic: p99}\n"
    "  entropy_collapse: {enabled: false}\n  worse: {metric: lost_share, rises_by: 0.1, within: 3, after_clear: true}\n",
    "rules:\n  a: {metric: entropy, above: nan}\n  a: {metric: entropy}\n", "rules: []\n", "rules: {'': {}}\n",
    "jobs:\n  'gpt-*': {spectrum: false, similarity: true, plan.every: 10, plan.layers: 'decoder.*.self'}\n  '*-debug': {spectrum_budget: 0}\n",
    "jobs: {'[': {}, 'a b': {core: maybe}}\n", "jobs:\n  x: {core: false, importance: false, pairs: false, spectrum: false, similarity: false}\n",
    "window: {length: 4, every: 2, unit: step, also: [8 steps every 4, 3 epochs]}\n", "window:\n  also: [x]\n", "a: &a [*a]\n", "? [a]\n: b\n",
    "log: {level: debug}\nlog: {level: info}\n", "\ufeffhttp:\n  enabled: yes\n", "history: !!int 5\n", "---\n---\n", "%YAML 9.9\n---\n", "\t", "{", "'",
    "alerts: {webhook: 'https://u:p@example.org/x?y', command: /bin/true one two}\n", "alerts: {webhook: example.org, command: mail me}\n",
    "plan.every=5\nwindow.also=[8 steps every 4]\nalerts.webhook=http://a/b\njobs.x=1\nrules.y=2\nnothing\n.=\nlog.level=\n",
    "ingest: {budget: 1MiB, max_message: 2MiB}\n", "limits: {jobs: 18446744073709551616, heads: -1, runs: 1e3}\n", "plan: {heads: '0-3,7', every: 0}\n",
    "ingest: {endpoint: 'tcp://*:5570'}\npublish: {endpoint: 'tcp://127.0.0.1:5570'}\n", "control: {endpoint: 'ipc://'}\n", 60 * "[" + "\n", "a: b: c\n"]


def main(folder):
    sections = {}
    for section, name, text in re.findall(r'^KEY\((\w+), (\w+), \w+, "([^"]*)"', KEYS.read_text(), re.M):
        sections.setdefault(section, []).append(f"  {name}: {text or repr('')}\n")
    texts = [f"{section}:\n{''.join(lines)}" for section, lines in sections.items()] + TEXTS
    for number, text in enumerate(texts):
        (pathlib.Path(folder) / f"{number:03}").write_bytes(text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
