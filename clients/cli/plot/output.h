/* SPDX-License-Identifier: MIT */
/* output: figures as files: whole, or not at all. */
#ifndef CLIENTS_CLI_PLOT_OUTPUT_H
#define CLIENTS_CLI_PLOT_OUTPUT_H

#include "clients/cli/plot/canvas.h"

#define OUTPUT_PATH_MAX 4096

/* Writes to a name of its own beside the path, then renames. Returns 0 or -errno; on failure what
 * was there is there still, and nothing else. */
int output_write(const char *path, const struct bytes *file);

/* Writes to standard output. Returns 0 or -errno; -ENOTSUP: it is a terminal, and `binary` is not
 * for people to look at. */
int output_write_standard(const struct bytes *file, bool binary);

/* Makes the folders of a path. Returns 0 or -errno. */
int output_make_folders(const char *path);

/* Replaces {layer} and {head} in a pattern. Returns 0, or -1 when the path is too long. */
int output_expand(const char *pattern, const char *layer, const char *head,
                  char ret_path[OUTPUT_PATH_MAX]);

#endif
