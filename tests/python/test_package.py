# SPDX-License-Identifier: MIT
"""The package as a whole: which Python it is written for."""
import ast

import pytest
from conftest import PACKAGE

import attnd


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("attnd/**/*.py")), ids=lambda path: path.name)
def test_the_package_is_written_in_python_3_9(path):
    """Its syntax; and annotations of later versions are never evaluated."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {(node.module, name.name) for node in tree.body if isinstance(node, ast.ImportFrom)
                for name in node.names}
    annotated = any(isinstance(node, (ast.FunctionDef, ast.AnnAssign)) for node in ast.walk(tree))
    assert ("__future__", "annotations") in imported or not annotated or path.name == "__init__.py"


def test_type_checkers_see_every_name_that_the_package_has():
    tree = ast.parse((PACKAGE / "attnd" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.asname: line.module for line in typed.body for name in line.names}
    assert seen == {**attnd._HOME, "bridge": None}
