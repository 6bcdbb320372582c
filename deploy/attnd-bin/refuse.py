# SPDX-License-Identifier: MIT
"""refuse: the build backend of attnd-bin's source archive, which builds nothing. pip takes the archive where no wheel
fits, and shows what is said here, instead of "No matching distribution found"."""
import os
import platform
import re
import sys

OLDEST = (2, 34)  # as the wheel's tag says


def why_not():
    """Why no wheel fits this system."""
    if platform.system() != "Linux":
        return f"this is {platform.system()}"
    if platform.machine() != "x86_64":
        return f"this processor is {platform.machine()}"
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        said = ""
    glibc = re.match(r"glibc (\d+)\.(\d+)", said)
    if not glibc:
        return "this system has another C library, such as musl"
    if tuple(map(int, glibc.groups())) < OLDEST:
        return f"this system has {said}"
    return "pip did not find that one here, or is older than 20.3"


def get_requires_for_build_wheel(config_settings=None):
    sys.exit("attnd-bin is a wheel for Linux on x86_64 with glibc 2.34 or newer, and {}: build attnd from source here, or "
             "use one on another machine (ATTND_ADDRESS)".format(why_not()))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    get_requires_for_build_wheel()
