/* SPDX-License-Identifier: MIT */
/* result: the maps the daemon publishes (live, summary, job, log) and one layer of `attnctl
 * analyze`. Encoders only; readers walk the map by name (mpk_find), so that unknown keys are
 * skipped.
 *
 * The last key of each published map is `snapshot`, so that the last byte of the encoded map is
 * 0xc2 (false) or 0xc3 (true): the last-value cache flips it in place (result_set_snapshot). NaN in
 * any number means "does not exist" and becomes nil. Pure; any thread. */
#ifndef PROTO_RESULT_H
#define PROTO_RESULT_H

#include "proto/header.h"

/* The statistics of one number over a window. Columns of the history go by the order of the members
 * (daemon/store/series.c). */
struct result_stat {
    double mean, std, min, max, p10, p50, p90, p99, last;
    uint64_t count;
};

/* Keys of every result. */
struct result_common {
    const char *job;
    const uint8_t *run; /* RUN_BYTES, written as lower-case hex text */
    uint64_t epoch, step, time_ns;
};

/* Keys of every result about one layer. */
struct result_layer {
    struct layer_id id;
    uint32_t shape[4]; /* B, H, Tq, Tk of the newest message; nil for MESSAGE_WEIGHTS and _SKETCH */
    bool causal;
    uint64_t rows;         /* (sample, head, query) rows that counted */
    uint64_t rows_of;      /* the rows that `rows` were sampled from; at most `rows`: all taken */
    uint64_t invalid_rows; /* rows that were left out as unsound */
    double row_sum_error;  /* largest |sum - 1| seen; NaN when no row was seen */
    enum message_type tier;
    const char *module; /* the path of the module that attends; NULL = not known */
};

/* One message's numbers. */
struct live_result {
    struct result_common common;
    struct result_layer layer;
    uint32_t rank;
    struct layer_numbers numbers;
    const void *sketch; /* MESSAGE_SKETCH: an encoded map (daemon/state/sketch.h); else NULL */
    size_t sketch_size;
};

/* One layer of `attnctl analyze`: the numbers without job, run and time. */
struct analysis_layer {
    struct result_layer layer;
    bool stack_known, layer_known, site_known; /* else nil */
    struct layer_numbers numbers;
};

struct reason_count {
    const char *reason;
    uint64_t count;
};

struct result_window {
    enum window_unit unit;
    uint64_t first, last;   /* first and last unit covered, inclusive */
    uint64_t length, every; /* in units, from the config */
    bool partial;           /* covers less than `length`, or a unit in it was cut short */
};

/* How one head's window differs from the baseline. NaN = cannot be told. */
struct result_drift {
    double delta;  /* mean - baseline's mean */
    double shift;  /* delta in units that count (daemon/state/drift.h) */
    double js;     /* Jensen-Shannon divergence of the two histograms, nats; row metrics only */
    double change; /* last unit of the window with which the newest change began; NaN = none */
};

enum alert_severity { ALERT_INFO, ALERT_WARNING, ALERT_CRITICAL };

/* A node that a hub's window lacks. */
struct result_missing {
    char name[65];
    const char *reason; /* static */
};

/* One layer's window. Arrays are [heads]; NULL = not computed. */
struct summary_result {
    struct result_common common; /* epoch and step of the newest message */
    struct result_layer layer;
    struct result_window window;
    uint32_t track;    /* the window rule: 0 = the primary, whose windows are judged */
    uint32_t ranks;    /* ranks that contributed */
    uint64_t messages; /* messages in the window */
    uint64_t lost;     /* messages that never arrived: gaps in seq */
    const struct reason_count
        *dropped; /* messages that arrived or were announced, and were not used */
    uint32_t dropped_count;
    uint32_t heads;
    const struct result_stat *stat[METRIC_COUNT];
    /* [heads][vector_info.width]; their p10, p50, p90 and p99 are not kept and left out of the map
     */
    const struct result_stat *vector[VECTOR_COUNT];
    const struct result_stat *sink_rate;
    const double *invalid_share; /* of each head's rows; NaN = it had none. Not encoded. */
    double rank_distance;        /* of `odd_rank`, the farthest, from the others; NaN = too few. Not
                                    encoded. */
    uint32_t odd_rank;
    const struct result_drift
        *drift[METRIC_COUNT]; /* [heads]; NULL = nothing to compare with yet */
    double quantile_error;    /* relative, of the coarsest histogram; NaN or 0 when there is none */
    uint32_t local_window;    /* of local_mass; written when that is */
    uint32_t nodes;    /* that a hub has merged; 0 = no hub has, and the next three do not count */
    uint32_t revision; /* how often the window was published before, with other parts */
    const struct result_missing *missing;
    uint32_t missing_count;
    bool has_aggregate[AGGREGATE_COUNT];
    const struct result_stat (*aggregate)[MAP_STAT_COUNT]; /* [AGGREGATE_COUNT]; NULL = has none */
    /* of the newest message */
    const enum pattern *pattern; /* [heads] */
    struct result_pairs pairs;
    struct result_similarity similarity;
    const struct weights_result *weights;
};

/* The first three are states of the machine of a run; the last two are only shown and stored
 * (run_shown): an ended run with a failure, and a run without a sign of life (limits.no_news). */
enum job_state { JOB_ACTIVE, JOB_IDLE, JOB_ENDED, JOB_FAILED, JOB_NO_NEWS, JOB_STATE_COUNT };

/* Whether nothing more is to come, as far as is known. */
static inline bool job_state_is_over(enum job_state state)
{
    return state == JOB_ENDED || state == JOB_FAILED;
}

/* One run of a job. */
struct job_result {
    struct result_common common;
    enum job_state state;
    uint64_t heard_ns;             /* when attnd last heard of it, by its own clock, since 1970 */
    double silent_s;               /* JOB_NO_NEWS: seconds since its last sign of life */
    const struct failure *failure; /* JOB_FAILED */
    uint32_t world, ranks;
    const struct layer_info *layers; /* [layer_count] */
    uint32_t layer_count;
    uint64_t received, processed, lost;
    const struct reason_count *dropped;
    uint32_t dropped_count;
};

/* FIRING_AT_END: it fired when its run ended or went idle, and stays so. */
enum alert_state { ALERT_FIRING, ALERT_RESOLVED, ALERT_FIRING_AT_END, ALERT_STATE_COUNT };

/* Numbers that the training itself reported; epoch and step are theirs. */
struct log_result {
    struct result_common common;
    const struct named_values *values;
};

/* A rule began to hold somewhere, or ceased to. */
/* Nothing had passed before. */
#define ALERT_FROM_START UINT64_MAX

struct alert_result {
    struct result_common common; /* epoch and step of the newest message of the window judged */
    const char *rule;
    enum alert_severity severity;
    enum alert_state state;
    const char *metric;
    bool has_layer; /* else it is about the run as a whole */
    struct layer_id layer;
    const char *module;  /* of the layer; NULL = not known */
    int32_t head;        /* -1: about the layer, or the run, as a whole */
    double value, bound; /* what was compared, now; and the bound that was crossed */
    /* Steps: it began after the last that passed, ALERT_FROM_START: none did; and not after the
     * first that failed. */
    uint64_t since_after, since_step;
    const char *message;      /* a sentence for people */
    const char *why, *advice; /* why it matters, what people do about it; NULL = a rule of theirs */
};

/* Each appends one map to an empty writer; ask mpk_writer_ok afterwards. `snapshot` is false. */
void live_encode(const struct live_result *live, struct mpk_writer *writer);
void summary_encode(const struct summary_result *summary, struct mpk_writer *writer);
void job_encode(const struct job_result *job, struct mpk_writer *writer);
void log_encode(const struct log_result *log, struct mpk_writer *writer);
void alert_encode(const struct alert_result *alert, struct mpk_writer *writer);
/* One layer's map in the schema attnd.analysis/1; it has no `snapshot`. */
void analysis_encode_layer(const struct analysis_layer *layer, struct mpk_writer *writer);

/* Sets the `snapshot` value of an encoded result in place. */
void result_set_snapshot(void *buf, size_t len, bool snapshot);

/* Appends the keys `state` and, as JOB_NO_NEWS and JOB_FAILED have, `silent_s` or `failure`. */
void job_state_put(enum job_state state, double silent_s, const struct failure *failure,
                   struct mpk_writer *writer);
const char *job_state_name(enum job_state state);
const char *alert_state_name(enum alert_state state);
const char *alert_severity_name(enum alert_severity severity);
/* 2 * RUN_BYTES lower-case hex digits and a NUL. */
void run_hex(const uint8_t run[RUN_BYTES], char ret_hex[2 * RUN_BYTES + 1]);

#endif
