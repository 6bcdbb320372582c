#!/bin/sh
# SPDX-License-Identifier: MIT
# symbols.sh nm library: fails when the library exports anything but attn_*, or nothing.
symbols=$("$1" -D --defined-only "$2" | awk '{print $3}' | grep -v '^__\(asan\|ubsan\|odr\|sancov\)') || exit 1
others=$(printf '%s\n' "$symbols" | grep -v '^attn_')
[ -z "$others" ] || { echo "also exported: $others"; exit 1; }
