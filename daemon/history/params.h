/* SPDX-License-Identifier: MIT */
/* history_params: the parameters of a question, by name from a MessagePack map into a struct; one
 * table for all methods. A parameter that is not given has the value that means "any". Pure. */
#ifndef DAEMON_HISTORY_PARAMS_H
#define DAEMON_HISTORY_PARAMS_H

#include "config/access.h"
#include "config/rules.h"
#include "daemon/store/store.h"
#include "proto/header.h"
#include "proto/mpk.h"
#include "proto/result.h"

/* Rows of an answer: what is given when nothing is asked for, and the most there can be. */
#define HISTORY_LIMIT     1000
#define HISTORY_LIMIT_MAX 200000
/* Windows of a grid. */
#define HISTORY_POINTS     200
#define HISTORY_POINTS_MAX 10000

enum {
#define PARAM(symbol, name, kind, field, least, most, valid) PARAM_OF_##symbol,
#include "daemon/history/param.def"
#undef PARAM
};
enum history_param {
#define PARAM(symbol, name, kind, field, least, most, valid)                                       \
    PARAM_##symbol = 1 << PARAM_OF_##symbol,
#include "daemon/history/param.def"
#undef PARAM
};

enum statistic {
    STATISTIC_MEAN,
    STATISTIC_STD,
    STATISTIC_MIN,
    STATISTIC_MAX,
    STATISTIC_P10,
    STATISTIC_P50,
    STATISTIC_P90,
    STATISTIC_P99,
    STATISTIC_LAST,
    STATISTIC_NUMBER, /* "count": how many values */
    STATISTIC_COUNT
};
extern const char *const statistic_name[STATISTIC_COUNT];

#define METRIC_NAME_MAX 64

/* "100 steps every 10". */
struct history_track {
    enum window_unit unit;
    uint64_t length, every;
};

struct history_params {
    unsigned given;                /* enum history_param, ored */
    char job[JOB_NAME_MAX + 1];    /* "" = any, as all texts */
    char run[2 * RUN_BYTES + 1];   /* the first digits */
    char job_b[JOB_NAME_MAX + 1];  /* of compare */
    char run_b[2 * RUN_BYTES + 1]; /* of compare */
    char stack[8], site[8];
    char metric[METRIC_NAME_MAX];
    char rule[RULE_NAME_MAX + 1];
    char severity[16], state[16], kind[8];
    char jobs[ACCESS_JOBS_MAX]; /* patterns, between blanks */
    uint64_t layer, head;
    struct history_track track; /* when PARAM_WINDOW is given */
    uint64_t from, to;          /* units, inclusive; default: all there are */
    uint64_t last;              /* a unit */
    uint64_t limit, count, points;
    unsigned statistics; /* bits; of PARAM_STATISTIC one */
    bool packed;         /* numbers as one bin instead of lists */
    char name[STORE_NAME_MAX + 1], notes[STORE_NOTES_MAX + 1]; /* of run.set, as the next three */
    char tags[STORE_TAGS_MAX * (STORE_TAG_MAX + 1) + 1];       /* between blanks, each once */
    bool star, archived;
    bool dry; /* of run.delete */
};

/* Reads a map, or nil for an empty one. `takes` is the method's (method.def); what else is there,
 * is missing, or is no such value, is ERR_ARGUMENT with a sentence in reterr (`size` bytes). */
int history_params_read(const msgpack_object *map, const char *takes,
                        struct history_params *ret_params, char *reterr, size_t size);

/* Says that a method has no parameter of this name. */
void history_refuse_key(const msgpack_object *key, char *reterr, size_t size);
/* A value in a sentence: -1, the text 'abc', a list of 2; none for NULL. Returns ret_shown. */
#define HISTORY_SHOWN_MAX 96
const char *history_show_value(const msgpack_object *value, char ret_shown[HISTORY_SHOWN_MAX]);
/* Says that a parameter may not have this value, and which ones it may have. */
void history_refuse_value(const char *name, const msgpack_object *value, const char *valid,
                          char *reterr, size_t size);
/* Whether a text is one of the words in "a, b, c". */
bool history_is_word(const char *text, const char *words);

/* "100 steps every 10", "1 epoch", "60 seconds every 30". Returns whether it is one. */
bool history_track_parse(const char *text, struct history_track *ret_track);

#endif
