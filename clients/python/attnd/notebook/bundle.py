# SPDX-License-Identifier: MIT
"""bundle: ES modules as one script. A browser asks for one file in place of fifty; a notebook needs no server.

Used by cell.py, and by clients/web/embed.py when attnd is built, which has nothing but Python's own library.
"""
from __future__ import annotations

import pathlib
import re
from typing import Dict

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z0-9_]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:const|class|function) ([A-Za-z_$][\w$]*))", re.MULTILINE)


def bundle(page: pathlib.Path, entry: str) -> str:
    """An ES module and all that it imports as one expression, whose value is what the module exports: each is a
    function that returns what it exports. The forms are those of the page: `import { a, b as c } from "./module.js"`
    and `export` before const, class and function. ImportError names a module in another form."""
    done: Dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        done[name] = ""  # modules do not import each other in a circle
        code = (page / f"{name}.js").read_text(encoding="utf-8")
        for needed in _IMPORT.findall(code):
            add(needed[1])
        exports = ", ".join(found[1] for found in _EXPORT.findall(code))
        body = _IMPORT.sub(lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = $modules.{found[2]};", code)
        body = _EXPORT.sub(r"\1", body)
        left = re.search(r"^(import|export)\b.*", body, re.MULTILINE)
        if left:
            raise ImportError(f"{name}.js: {left[0]!r} is in a form that cannot be bundled")
        del done[name]
        done[name] = f"$modules.{name} = (() => {{\n{body}\nreturn {{{exports}}};\n}})();\n"

    name = entry.rpartition(".")[0]
    add(name)
    return '(() => {\n"use strict";\nconst $modules = {};\n' + "".join(done.values()) + f"return $modules.{name};\n}})()\n"
