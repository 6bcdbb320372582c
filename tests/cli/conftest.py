# SPDX-License-Identifier: MIT
"""Under a sanitizer a command takes several times as long, and one case of a kind finds what the others would."""
import os
from collections import defaultdict

import pytest

CASES_SANITIZED = 4


def pytest_collection_modifyitems(config, items):
    """Then a test of many cases is run with the first, the last and two between."""
    if "ATTND_TEST_SANITIZED" not in os.environ:
        return
    cases = defaultdict(list)
    for item in items:
        cases[item.originalname, item.path].append(item)
    kept = {case for of_test in cases.values() for case in some_of(of_test)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def some_of(of_test):
    if len(of_test) <= CASES_SANITIZED:
        return of_test
    return [of_test[i * (len(of_test) - 1) // (CASES_SANITIZED - 1)] for i in range(CASES_SANITIZED)]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
