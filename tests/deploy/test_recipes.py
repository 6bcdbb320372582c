# SPDX-License-Identifier: MIT
"""The recipes for conda and Nix are well formed, and name what meson.build asks for. They are not built here."""
import json
import re
import shutil

import pytest
from commands import ROOT, output

MESON = (ROOT / "meson.build").read_text()
VERSION = re.search(r"version: '([0-9.]+)'", MESON).group(1)
# As meson.build, conda-forge and nixpkgs call it.
NAMES = {
    "jansson": ("jansson", "jansson"),
    "lapacke": ("liblapacke", "lapack"),
    "libcurl": ("libcurl", "curl"),
    "libmicrohttpd": ("libmicrohttpd", "libmicrohttpd"),
    "libuv": ("libuv", "libuv"),
    "libzip": ("libzip", "libzip"),
    "libzmq": ("zeromq", "zeromq"),
    "msgpack-c": ("msgpack-c", "msgpack-c"),
    "ncursesw": ("ncurses", "ncurses"),
    "openblas": ("openblas", "openblas"),
    "sqlite3": ("libsqlite", "sqlite"),
    "yaml-0.1": ("yaml", "libyaml"),
    "zlib": ("zlib", "zlib"),
}
FLEET = "libnats-c"  # the recipe for conda leaves it out: that attnd has no fleet
WITHOUT_META = """
import ./default.nix {
  d3 = "/d3.min.js";
  pkgs = { lib.cleanSource = path: toString path; stdenv.mkDerivation = all: removeAttrs all [ "meta" ]; } // NAMED;
}
"""


def asked_for():
    return set(re.findall(r"= dependency\('([^']+)'", MESON)) - {"threads", "cmocka", "libnats"}


def test_every_library_has_a_name_there():
    assert asked_for() == set(NAMES)


def test_the_recipe_for_conda():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "deploy" / "conda" / "recipe.yaml").read_text())
    assert recipe["schema_version"] == 1 and recipe["context"]["version"] == VERSION
    assert recipe["requirements"]["host"] == sorted(conda for conda, _ in NAMES.values())
    assert any("-Dfleet=disabled" in line for line in recipe["build"]["script"])


@pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="no nix-instantiate (package nix-bin)")
def test_the_recipe_for_nix(tmp_path):
    named = " ".join(f'{nix} = "{nix}";' for _, nix in [*NAMES.values(), ("", FLEET)])
    named += ' meson = ""; ninja = ""; pkg-config = ""; python3 = ""; uthash = "uthash";'
    directories = {f"NIX_{name}_DIR": str(tmp_path / name) for name in ("STORE", "STATE", "LOG", "CONF")}
    recipe = json.loads(output(
        "nix-instantiate", "--eval", "--strict", "--json", "--expr", WITHOUT_META.replace("NAMED", f"{{ {named} }}"),
        cwd=ROOT / "deploy" / "nix", env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **directories}))
    assert recipe["version"] == VERSION and recipe["src"] == str(ROOT)
    assert set(recipe["buildInputs"]) == {nix for _, nix in NAMES.values()} | {"uthash", FLEET}
    assert {"-Dd3=/d3.min.js", "-Dfleet=enabled"} <= set(recipe["mesonFlags"])
