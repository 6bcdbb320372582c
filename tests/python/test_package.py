# SPDX-License-Identifier: MIT
"""The package as a whole: which Python it is written for."""
import ast
import re

import pytest
from conftest import PACKAGE, ROOT

import attnd


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("attnd/**/*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_is_written_in_python_3_9(path):
    """Its syntax; annotations of later versions are fine where they are never evaluated."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {(node.module, name.name) for node in tree.body if isinstance(node, ast.ImportFrom)
                for name in node.names}
    assert ("__future__", "annotations") in imported or not any(later(hint) for hint in annotations(tree))


def annotations(tree):
    for node in ast.walk(tree):
        hints = (getattr(node, name, None) for name in ("annotation", "returns"))
        yield from (hint for hint in hints if hint is not None)


def later(hint):
    """Whether a type is written as A | B, which Python 3.9 cannot evaluate."""
    return any(isinstance(part, ast.BinOp) for part in ast.walk(hint))


def test_type_checkers_see_every_name_that_the_package_has():
    tree = ast.parse((PACKAGE / "attnd" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.asname: line.module for line in typed.body for name in line.names}
    assert seen == {**attnd._HOME, "bridge": None, "device": None, "notebook": None}


def test_import_attnd_has_the_modules_that_documents_call_by_it():
    documents = [ROOT / "README.md", *ROOT.glob("deploy/site/pages/*.md"), *PACKAGE.glob("**/*.md")]
    called = {name for document in documents for name in re.findall(r"\battnd\.([a-z]+)\.[a-z_]+\(", document.read_text(encoding="utf-8"))}
    assert called == {"device", "notebook"} and called <= {*attnd._MODULES}
