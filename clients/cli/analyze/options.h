/* SPDX-License-Identifier: MIT */
/* options: the command line of attnctl analyze as a struct. Pure except for getopt's own state; one
 * thread. */
#ifndef CLIENTS_CLI_ANALYZE_OPTIONS_H
#define CLIENTS_CLI_ANALYZE_OPTIONS_H

#include "clients/cli/arrays/name.h"
#include "clients/cli/base/option.h"
#include "workers/measure.h"

#include <msgpack.h>
#include <stdio.h>

#define OPTIONS_ERROR_MAX 512
/* Most heads of an attention. */
#define HEADS_MOST 65536
/* No --q-offset: it goes to INT32_MAX. */
#define OPTIONS_LAST UINT32_MAX

/* The same numbers twice: as they are, and as lengths. */
struct number_list {
    double *reals;    /* [count]; owned; NULL = not given */
    int32_t *lengths; /* [count]; owned; 0 for what is none */
    uint32_t count;
};

/* Strings point into argv. */
struct options {
    bool json, statistics;
    struct naming naming;
    /* what the files do not say */
    bool causal, dropout, learned_sink;
    uint32_t window;
    uint32_t q_offset; /* OPTIONS_LAST: the queries are the last of the keys */
    struct number_list lengths, q_lengths, k_lengths;
    double scale, softcap;              /* scale NaN = 1 / sqrt(head_dim) */
    uint32_t heads, kv_heads, head_dim; /* tier weights; 0 = not given */
    /* what is computed */
    struct measure_plan plan;
    struct number_list head_weights; /* of the plan */
    uint32_t threads;

    char *const *files; /* [file_count]; in argv */
    int file_count;
};

/* argv[0] is skipped; its order may change. Returns 0, or -1 with a sentence (OPTIONS_ERROR_MAX
 * bytes); *ret_options then needs no options_clear. */
int options_parse(int argc, char **argv, struct options *ret_options, char *reterr);
void options_clear(struct options *options);
/* Prints what the columns of the table mean (show.c), as --help shows it. */
void show_print_legend(FILE *out);
/* Prints one layer of an analysis as a table for people (show.c). `layer` is the map that
 * analysis_encode_layer writes. */
void show_layer(const msgpack_object *layer, int width, FILE *out);

#endif
