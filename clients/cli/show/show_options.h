/* SPDX-License-Identifier: MIT */
/* show_options: the command line of attnctl show as a struct. Pure except for getopt's own state;
 * one thread. */
#ifndef CLIENTS_CLI_SHOW_SHOW_OPTIONS_H
#define CLIENTS_CLI_SHOW_SHOW_OPTIONS_H

#include "clients/cli/show/measure.h"
#include "clients/cli/arrays/name.h"
#include "clients/cli/base/option.h"
#include "clients/cli/show/screen.h"

#define SHOW_ERROR_MAX 512
#define SAMPLE_FIRST   UINT32_MAX

/* The parts to print. */
enum part { PART_REPORT, PART_MAP, PART_TOKEN, PART_HEADS, PART_PAIRS, PART_COUNT };

/* Strings point into argv. */
struct show_options {
    bool json, ascii;
    enum color_choice color;
    bool part[PART_COUNT];
    uint32_t width; /* 0 = the terminal's */
    /* what is looked at */
    const char *layer;           /* NULL = the first */
    uint32_t sample;             /* SAMPLE_FIRST = the first that there is */
    uint32_t head, token, pairs; /* as in struct show_request */
    const char *run;
    bool at_step;
    uint64_t step;
    /* what files do not say */
    struct naming naming;
    bool causal;
    uint32_t window;
    double scale, softcap;
    const char *labels, *tokens, *query_labels, *query_tokens;
    /* where attnd is; NULL = as other commands find it */
    const char *address, *endpoint, *timeout;
    char *const *words; /* [word_count]; in argv: files, or a job */
    int word_count;
};

/* argv[0] is skipped; its order may change. Returns 0, or -1 with a sentence (SHOW_ERROR_MAX
 * bytes). */
int show_options_parse(int argc, char **argv, struct show_options *ret_options, char *reterr);

/* Visits every option except those of every command; prints in front of them which words are
 * files. */
void show_options_each(option_visitor *visit, void *data);
void show_options_print_words(FILE *out);

#endif
