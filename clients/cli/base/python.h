/* SPDX-License-Identifier: MIT */
/* python: commands that the Python package does. */
#ifndef CLIENTS_CLI_BASE_PYTHON_H
#define CLIENTS_CLI_BASE_PYTHON_H

#include "clients/cli/base/cli.h"

/* Becomes `python3 -m attnd.NAME` with these arguments, by the Python that ATTND_PYTHON names, if
 * any. The package is the one that it has, or that of the source tree around attnctl, whose path is
 * in ATTND_ATTNCTL then. Returns only when that cannot be started: the exit code, after a sentence
 * on err. */
int python_start(struct cli *cli, const char *name, int argc, const char *const *argv);

#endif
