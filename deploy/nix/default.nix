# SPDX-License-Identifier: MIT
# attnd and attnctl for Nix, with the names of nixpkgs. Not built yet: tests read and evaluate it, no more.
#
#   nix-build deploy/nix --arg d3 ./d3.min.js
#
# d3   dist/d3.min.js of the npm package d3, version 5, which nixpkgs has not; it becomes a part of the page
{
  pkgs ? import <nixpkgs> { },
  d3,
}:
pkgs.stdenv.mkDerivation {
  pname = "attnd";
  version = builtins.head (builtins.match ".*version: '([0-9.]+)'.*" (builtins.readFile ../../meson.build));
  src = pkgs.lib.cleanSource ../..;
  nativeBuildInputs = with pkgs; [
    meson
    ninja
    pkg-config
    python3
  ];
  buildInputs = with pkgs; [
    curl
    jansson
    lapack
    libmicrohttpd
    libnats-c
    libuv
    libyaml
    libzip
    msgpack-c
    ncurses
    openblas
    sqlite
    uthash
    zeromq
    zlib
  ];
  mesonFlags = [
    "-Dtests=disabled"
    "-Dfleet=enabled"
    "-Dd3=${d3}"
  ];
  meta = {
    description = "Watches the attention heads of transformers while they train";
    license = pkgs.lib.licenses.mit;
    platforms = pkgs.lib.platforms.linux;
    mainProgram = "attnd";
  };
}
