/* SPDX-License-Identifier: MIT */
/* show: one layer of an analysis as a table for people. */
#ifndef CLIENTS_CLI_ANALYZE_SHOW_H
#define CLIENTS_CLI_ANALYZE_SHOW_H

#include <msgpack.h>
#include <stdio.h>

/* `layer` is the map that engine_measure writes. */
void show_layer(const msgpack_object *layer, int width, FILE *out);

/* The meanings of the columns, as --help shows them. */
void show_print_legend(FILE *out);

#endif
