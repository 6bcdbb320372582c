# SPDX-License-Identifier: MIT
"""The package is described in pyproject.toml. Added here: D3, which attnd.notebook.view draws with, from where the
distribution keeps it. Without it the package is built all the same, and view() says what is missing."""
import os
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

D3 = (os.environ.get("ATTND_D3"), "/usr/share/nodejs/d3/dist/d3.min.js", "/usr/share/javascript/d3/d3.min.js")


class WithD3(build_py):
    """Copies it beside the modules."""

    def run(self):
        super().run()
        found = next((path for path in D3 if path and os.path.isfile(path)), None)
        if found and not self.editable_mode:
            shutil.copyfile(found, os.path.join(self.build_lib, "attnd", "d3.min.js"))


setup(cmdclass={"build_py": WithD3})
