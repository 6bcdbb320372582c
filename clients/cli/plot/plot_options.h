/* SPDX-License-Identifier: MIT */
/* plot_options: the command line of attnctl plot as a struct. Pure but for getopt's own state; one
 * thread. */
#ifndef CLIENTS_CLI_PLOT_PLOT_OPTIONS_H
#define CLIENTS_CLI_PLOT_PLOT_OPTIONS_H

#include "clients/cli/base/args.h"
#include "clients/cli/base/option.h"
#include "clients/cli/source/source.h"

#define PLOT_ERROR_MAX SOURCE_ERROR_MAX
#define PLOT_ASKED_MAX 32

/* Strings point into argv. */
struct plot_options {
    const struct option_kind *kind;
    char *const *words; /* [word_count]: the source's */
    int word_count;
    char **whole; /* [whole_count], NULL behind them: every option as "--name=value"; owned */
    int whole_count;

    struct source_request source; /* but where the maps are */
    struct naming naming;
    struct args args; /* of what asks attnd: endpoint, run, metric, window, from, to, ... */
};

/* argv[0] is skipped; its order may change. Returns 0, or -1 or ERR_MEMORY with a sentence
 * (PLOT_ERROR_MAX bytes); *ret_options then needs no plot_options_clear. */
int plot_options_parse(int argc, char **argv, struct plot_options *ret_options, char *reterr);
void plot_options_clear(struct plot_options *options);

/* NULL = there is none. */
const struct option_kind *plot_kind_described(const char *name);
/* Whether a kind takes an option of plot_options. */
bool plot_options_takes(const struct option_kind *kind, const struct option_text *option);
void plot_options_print_kinds(FILE *out);
void plot_options_print_files(FILE *out);

#endif
