/* SPDX-License-Identifier: MIT */
/* args: attnctl's command line as a struct. Pure except for getopt's own state; one thread. */
#ifndef CLIENTS_CLI_BASE_ARGS_H
#define CLIENTS_CLI_BASE_ARGS_H

#include "clients/cli/base/option.h"

/* Bits for the options that were given, and for those that a command takes. */
enum args_option {
    ARGS_ENDPOINT = 1 << 0,
    ARGS_TIMEOUT = 1 << 1,
    ARGS_JSON = 1 << 2,
    ARGS_HELP = 1 << 3,
    ARGS_VERSION = 1 << 4,
    ARGS_METRIC = 1 << 5,
    ARGS_STACK = 1 << 6,
    ARGS_LAYER = 1 << 7,
    ARGS_SITE = 1 << 8,
    ARGS_COUNT = 1 << 9,
    ARGS_SUMMARIES = 1 << 10,
    ARGS_DRIFT = 1 << 11,
    ARGS_RUN = 1 << 12,
    ARGS_HEAD = 1 << 13,
    ARGS_WINDOW = 1 << 14,
    ARGS_FROM = 1 << 15,
    ARGS_TO = 1 << 16,
    ARGS_CSV = 1 << 17,
    ARGS_ALL = 1 << 18,
    ARGS_RULES = 1 << 19,
    ARGS_COMPRESS = 1 << 20,
    ARGS_FORCE = 1 << 21,
    ARGS_SECONDS = 1 << 22,
    ARGS_UNTIL_END = 1 << 23,
    ARGS_INGEST = 1 << 24,
    ARGS_RHYTHM = 1 << 25,
    ARGS_INTERVAL = 1 << 27,
    ARGS_ADDRESS = 1 << 28,
    ARGS_EVERY_COMMAND = ARGS_ADDRESS | ARGS_ENDPOINT | ARGS_TIMEOUT | ARGS_JSON | ARGS_HELP,
};

#define ARGS_WORDS_MAX   9 /* plan set JOB and its six keys */
#define ARGS_METRICS_MAX 64
#define ARGS_ERROR_MAX   256

/* Strings point into argv, the environment, or are static. */
struct args {
    unsigned given; /* enum args_option, ored */
    /* Where attnd is: at most one of them is not NULL; neither: it is looked for. */
    const char *address, *endpoint;
    int timeout_ms;
    const char *metric; /* NULL = what there is: field_choose_metric; the last one given */
    const char *metrics[ARGS_METRICS_MAX]; /* every one given */
    int metric_count;
    const char *stack, *site;          /* NULL = every one */
    uint32_t layer;                    /* counts when ARGS_LAYER is given */
    const char *run;                   /* first digits; NULL = the newest */
    const char *window;                /* "1 epoch", "100 steps every 10"; NULL = the primary one */
    uint32_t head;                     /* counts when ARGS_HEAD is given */
    uint64_t from, to;                 /* count when ARGS_FROM, ARGS_TO are given */
    uint64_t count;                    /* 0 = no limit */
    const char *summaries;             /* NULL = ask the daemon */
    double seconds;                    /* counts when ARGS_SECONDS is given */
    const char *ingest;                /* NULL = ask the daemon */
    const char *rules;                 /* NULL = attnd's defaults */
    double rhythm;                     /* times as fast as recorded; 0 = at once */
    double interval;                   /* s; counts when ARGS_INTERVAL is given */
    const char *words[ARGS_WORDS_MAX]; /* what is no option: the command, then its arguments */
    int word_count;
    const char *unknown; /* the option that made args_parse fail because there is none like it */
};

/* Returns 0, or -1 with a message (ARGS_ERROR_MAX bytes); then only ret_args->unknown is set. */
int args_parse(int argc, char **argv, struct args *ret_args, char *reterr);

#define ARGS_TIMEOUT_MS 5000
/* The value of --timeout, for an int of ms; returns as option.h wants it. */
const char *args_set_timeout(void *to, const char *text);
/* The environment says which attnd it is where no option did. Returns 0, or -1 with a message. */
int args_choose_attnd(struct args *args, char *reterr);

/* Adds every option of the set. */
void args_list(struct option_list *list, unsigned options);

/* The name of the first option in the set: "metric". */
const char *args_option_name(unsigned options);

#endif
