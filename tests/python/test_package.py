# SPDX-License-Identifier: MIT
"""The package as a whole: which Python it is written for."""
import ast

import pytest
from conftest import PACKAGE


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("attnd/**/*.py")), ids=lambda path: path.name)
def test_the_package_is_written_in_python_3_9(path):
    """Its syntax; and annotations of later versions are never evaluated."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {(node.module, name.name) for node in tree.body if isinstance(node, ast.ImportFrom)
                for name in node.names}
    annotated = any(isinstance(node, (ast.FunctionDef, ast.AnnAssign)) for node in ast.walk(tree))
    assert ("__future__", "annotations") in imported or not annotated or path.name == "__init__.py"
