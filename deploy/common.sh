# SPDX-License-Identifier: MIT
# Shared by the scripts of deploy/; sourced, not run.
# shellcheck shell=bash
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# The Python interpreters there may be, one per line, in the order in which they are to be tried.
interpreters() {
    printf '%s\n' ${ATTND_PYTHON:+"$ATTND_PYTHON"} python3 python /usr/bin/python3 \
        "${HOME:-/nonexistent}"/.pyenv/versions/*/bin/python3
}

# Interrupts a command after SECONDS, as Ctrl-C would, and kills it if it does not heed that; the status is
# 124 or 137 then.
# bounded SECONDS PROGRAM ARGUMENT...
bounded() {
    timeout --foreground --signal=INT --kill-after=30 "$@"
}

# Says on stderr, while this script lives, that what it runs goes on, and where it writes: nobody waits for a minute
# without a line.
# tick LOG
tick() {
    local seconds=0
    while sleep "${ATTND_TICK_S:-30}" >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        seconds=$((seconds + ${ATTND_TICK_S:-30}))
        say "  ... $seconds s, $(wc -l <"$1") lines in ${1#"$root/"}" >&2
    done
}

# Runs a command with its output in a file, and ticks meanwhile; shows the file's end when the command fails.
# logged FILE COMMAND...
logged() {
    local log=$1 ticking status=0
    shift
    mkdir -p -- "$(dirname -- "$log")"
    : >"$log"
    tick "$log" </dev/null >/dev/null &
    ticking=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$ticking" 2>/dev/null || true
    wait "$ticking" 2>/dev/null || true
    [ "$status" -ne 0 ] || return 0
    tail -n 60 -- "$log" >&2
    printf '(from %s)\n' "$log" >&2
    return 1
}

# Configures a build directory unless it is there with the same options; one that somebody made by hand is
# taken as it is. Written without relying on `set -e`, which bash switches off under `if` and `||`.
# configure DIRECTORY OPTION...
configure() {
    local dir=$1 stamp=$1/.deploy-options wipe=()
    shift
    local options="$root ${CC:-cc} $*"
    if [ -f "$dir/build.ninja" ]; then
        [ -f "$stamp" ] || return 0
        [ "$(cat -- "$stamp")" != "$options" ] || return 0
        wipe=(--wipe)
    fi
    meson setup ${wipe[@]+"${wipe[@]}"} "$@" "$dir" "$root" || return
    printf '%s\n' "$options" >"$stamp"
}
