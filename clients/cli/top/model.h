/* SPDX-License-Identifier: MIT */
/* model: the data that attnctl top knows and shows: the jobs, one job's layers and heads, its
 * alerts, the state of attnd; and the position of the user. Answers of attnd go in (read.h), keys
 * go in (keys.h), pictures come out (view.h), and what should be asked next (`needs`). Pure: the
 * caller passes the time, in milliseconds that never go back. One thread. */
#ifndef CLIENTS_CLI_TOP_MODEL_H
#define CLIENTS_CLI_TOP_MODEL_H

#include "clients/cli/top/bars.h"
#include "clients/cli/base/field.h"
#include "proto/header.h"

/* Limits of the lists shown; the rest is counted and mentioned. */
#define MODEL_JOBS_MAX     500
#define MODEL_LAYERS_MAX   4096
#define MODEL_HEADS_MAX    65536 /* of the whole job */
#define MODEL_ALERTS_MAX   400
#define MODEL_ALERTS_ASKED 200 /* of those that are over */
#define MODEL_METRICS_MAX  96
#define MODEL_PAST_MAX     120 /* windows of a trend: what a wide terminal has columns for */
#define MODEL_SEEN_MAX     60  /* moments that top has seen itself */
#define MODEL_FILTER_MAX   48
#define MODEL_RULE_MAX     80
#define MODEL_MESSAGE_MAX  512
#define MODEL_PATTERN_MAX  24

/* Jobs */

struct job_entry {
    char job[JOB_NAME_MAX + 1], run[2 * RUN_BYTES + 1], state[16];
    uint64_t epoch, step, ranks, world, layers, received, lost, dropped, firing;
};

/* attnd */

struct health {
    bool known;
    double rate, bytes_rate; /* per second since the last look; NaN at the first */
    uint64_t received, bytes, lost, dropped, source_dropped;
    uint64_t new_losses; /* what came to lost, dropped and source_dropped since the last look */
    char reason[48];     /* the most frequent one of `dropped`; "" = none */
    uint64_t in_flight_bytes, budget_bytes; /* budget 0 = not known */
    uint64_t threads, queued;
    double uptime_s;
    int64_t at_ms; /* when it was looked at */
    uint64_t summaries, alerts;
};

/* Alerts */

enum severity { SEVERITY_NONE, SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_CRITICAL };

struct alert {
    enum severity severity;
    bool firing;
    bool has_layer; /* else it is about the run */
    char stack[16], site[16];
    uint32_t layer;
    int64_t head; /* -1: the layer as a whole */
    char rule[MODEL_RULE_MAX], metric[FIELD_NAME_MAX], message[MODEL_MESSAGE_MAX];
    double value, bound;
    uint64_t since_epoch, since_step;
};

/* Heads */

struct head {
    double value;        /* of the metric, of the newest message */
    double by;           /* of the metric that is sorted by */
    double mean;         /* of the metric over the newest window */
    double delta, z, js; /* against the baseline; NaN = none */
    uint64_t rank;       /* whose message `value` is from */
    char pattern[MODEL_PATTERN_MAX];
    /* The gravest alert that fires here; -1 = none. An alert of the layer as a whole counts where
     * the head has none of its own. */
    int alert;
    bool alert_own;
};

struct layer {
    char stack[16], site[16];
    uint32_t layer, head_count;
    uint64_t step;
    struct head *heads; /* [head_count]; owned */
    double *past;       /* [head_count][model.past.count]; owned; NULL = none */
    double *seen;       /* [head_count][MODEL_SEEN_MAX]; owned */
    int alert;          /* the gravest alert of the layer and its heads; -1 = none */
    uint32_t alerts;    /* that fire in it */
    bool has_value;     /* the metric is one number of the layer: all heads have the same */
};

/* The windows that trends are over. */
struct past {
    uint32_t count;
    char unit[16];
    uint64_t last[MODEL_PAST_MAX], step[MODEL_PAST_MAX];
};

struct row {
    uint32_t layer, head; /* indices */
};

/* One head, looked at closely */

struct detail_metric {
    char name[FIELD_NAME_MAX];
    double now, mean, z, js, change;
    struct past windows;
    double past[MODEL_PAST_MAX];
};

struct detail {
    char stack[16], site[16];
    uint32_t layer, head;
    uint64_t epoch, step, rows, invalid_rows;
    char pattern[MODEL_PATTERN_MAX];
    uint32_t count;
    struct detail_metric metrics[MODEL_METRICS_MAX];
};

/* The choices of the user */

enum page { PAGE_JOBS, PAGE_HEADS, PAGE_LAYERS, PAGE_HEAD, PAGE_ALERTS };
enum overlay { OVERLAY_NONE, OVERLAY_HELP, OVERLAY_METRIC, OVERLAY_SORT };
enum sort { SORT_URGENCY, SORT_PLACE, SORT_VALUE, SORT_DRIFT, SORT_METRIC };

struct list {
    uint32_t at, top; /* the chosen row and the first one shown */
};

struct ui {
    enum page page, before; /* where Escape leads back to from a head */
    enum overlay overlay;
    struct list jobs, heads, layers, metrics, alerts, picker;
    uint32_t list_rows; /* rows that the list on the screen has room for */
    bool typing;        /* the filter */
    bool stays;         /* in the list of jobs, though there is only one */
    bool paused, quit;
    bool trend_seen; /* trends are what top has seen, not windows */
    char filter[MODEL_FILTER_MAX];
};

/* The questions to ask as soon as possible. */
struct needs {
    bool config, live, grid, alerts, detail, detail_window, series;
    uint32_t summary_next; /* layers before it have been asked; layer_count = all */
    uint32_t series_next;  /* of the series of a detail */
    bool windows;          /* there are new ones: grid, summaries and series, not all at once */
    int64_t grid_ms, series_ms; /* when they were last asked for */
    int64_t
        again_ms; /* then once more: a window is in the history a little later; -1 = soon, 0 = no */
};

struct model {
    struct health health;
    int64_t silent_since_ms; /* attnd has not answered since; -1 = it answers */
    struct job_entry jobs[MODEL_JOBS_MAX];
    uint32_t job_count, jobs_left_out;

    char job[JOB_NAME_MAX + 1]; /* "" = none is chosen */
    bool job_known;             /* attnd has it now */
    struct job_entry entry;     /* of the job, as far as it is known */
    uint64_t generation; /* one more with each choice of a job: older answers are of another */

    struct layer *layers; /* in the model's order; owned */
    uint32_t layer_count, layer_room, head_total;
    bool cut; /* there are more layers or heads than fit */
    struct past past;
    uint32_t seen_count;
    uint64_t seen_step;
    int64_t grid_took_ms; /* how long attnd took for the last trends */
    char refusal[256];    /* why there are no trends; "" = no reason */

    struct alert alerts[MODEL_ALERTS_MAX]; /* those that fire first */
    uint32_t alert_count, firing_count;
    bool alerts_cut; /* there are older ones */

    char metrics[MODEL_METRICS_MAX][FIELD_NAME_MAX];
    uint32_t metric_count;
    char metric[FIELD_NAME_MAX]; /* "" = not chosen yet */
    enum sort sort;
    char sort_metric[FIELD_NAME_MAX];
    bool reversed;

    struct row *rows; /* heads that pass the filter, sorted; [head_total]; owned */
    uint32_t row_count, row_room;
    uint32_t *layer_rows; /* the same of layers; [layer_room]; owned */
    uint32_t layer_row_count;

    struct detail detail;
    struct ui ui;
    struct needs needs;
    bool out_of_memory; /* something could not be kept */
};

/* NULL when out of memory. */
struct model *model_new(void);
void model_free(struct model **model);

/* Looks at another job: all that is known of the one before is forgotten. "" = none. */
void model_choose_job(struct model *model, const char *job);
/* Forgets layers and heads: of another run the numbers are others. */
void model_forget(struct model *model);

/* Shows another metric: its values are asked anew. */
void model_choose_metric(struct model *model, const char *metric);
/* "urgency", "head", "value", "drift" or a metric; with a '-' before it the other way round. */
void model_choose_sort(struct model *model, const char *name);
/* The order in words, for people: "greatest max_logit first". */
#define MODEL_SORT_TEXT_MAX (FIELD_NAME_MAX + 32)
void model_sort_text(const struct model *model, char ret_text[MODEL_SORT_TEXT_MAX]);

/* Opens the page of a head. */
void model_open_head(struct model *model, uint32_t layer, uint32_t head);

/* The layer of a result, added in its place when it is new; NULL when there is no room for it. */
struct layer *model_layer(struct model *model, const char *stack, uint32_t layer, const char *site,
                          uint32_t heads);
/* The index of one that is known, or -1. */
int64_t model_find_layer(const struct model *model, const char *stack, uint32_t layer,
                         const char *site);

/* Remembers the values of this moment, if the job has moved on since the last one. */
void model_see(struct model *model);

/* Forgets the windows of the trends, or makes room for others. Returns false when out of memory. */
bool model_make_past(struct model *model, uint32_t windows);

/* Says of each layer and head which alert fires there. */
void model_place_alerts(struct model *model);

/* Filters and sorts: `rows` and `layer_rows`. The selection below the first row stays. */
void model_arrange(struct model *model);

/* The trend of a head as it is to be shown: its length, and the numbers through ret_values. */
uint32_t model_trend(const struct model *model, uint32_t layer, uint32_t head,
                     const double **ret_values);
/* The same of a layer, as the mean over its heads; `values`: MODEL_PAST_MAX numbers. */
uint32_t model_layer_trend(const struct model *model, uint32_t layer, double *values);
/* Whether trends are what top has seen itself. */
bool model_trend_is_seen(const struct model *model);

/* The values of the layer's heads: their mean, least and greatest; NaN without any. */
struct spread {
    double mean, least, greatest;
};
struct spread model_spread(const struct layer *layer);
/* The mean over the heads of what is sorted by. */
double model_layer_by(const struct layer *layer);
/* The largest |z| in the layer, with its sign; NaN without any. */
double model_layer_z(const struct layer *layer);

/* "decoder.3.self" or, with a head that is not negative, "decoder.3.self.h2". */
#define MODEL_PLACE_MAX 64
void model_place(const char *stack, uint32_t layer, const char *site, int64_t head,
                 char ret_place[MODEL_PLACE_MAX]);

/* Moves a list's choice so that it is in 0..count, and what is shown so that the choice is. */
void list_settle(struct list *list, uint32_t count, uint32_t rows);

#endif
