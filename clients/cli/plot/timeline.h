/* SPDX-License-Identifier: MIT */
/* timeline: how one metric of the heads of a run went, window by window: of a running attnd, or of
 * a file that attnctl export wrote. One thread. */
#ifndef CLIENTS_CLI_PLOT_TIMELINE_H
#define CLIENTS_CLI_PLOT_TIMELINE_H

#include "clients/cli/base/field.h"
#include "clients/cli/plot/plot.h"

/* A head, or a number of a whole layer (head -1). */
struct timeline_row {
    struct layer_id id;
    int32_t head;
};

/* What a statistic was in one window. */
struct timeline_record {
    struct timeline_row row;
    uint64_t step; /* the window's last */
    double mean, std;
    double p10, p90; /* NaN when the source does not say */
};

struct timeline_alert {
    uint64_t step;
    bool resolved;
};

struct timeline {
    char metric[FIELD_NAME_MAX];
    char job[JOB_NAME_MAX + 1];      /* "" = not said */
    struct timeline_record *records; /* [record_count]; sorted by row, then step, when loaded */
    size_t record_count, record_room;
    struct timeline_alert *alerts; /* [alert_count] of the metric and the layers */
    size_t alert_count;
    /* made of the records */
    struct timeline_row *rows; /* [row_count] */
    uint64_t *steps;           /* [step_count], ascending */
    double *mean;              /* [row_count][step_count], NaN where there is none */
    double *low, *high;        /* [row_count][step_count]: where most of a window's values are */
    bool has_percentiles;      /* low, high are p10, p90; otherwise mean - std, mean + std */
    size_t row_count, step_count;
    /* Without a record: what windows end at that --from and --to leave out; count 0 = none are. */
    uint64_t left_out, left_first, left_last;
};

/* Reads what the command line asks for. Returns CLI_OK, or the exit code; the sentence is in
 * plot->error, or was printed when that is empty. timeline_clear in either case. */
int timeline_load(struct plot *plot, struct timeline *ret_timeline);
void timeline_clear(struct timeline *timeline);

/* "mean distance (tokens)" */
void timeline_axis_title(const char *metric, char *ret_title, size_t size);

/* For the readers of the two kinds of source. -------------------------------------------------- */

/* Returns 0 or ERR_MEMORY. */
int timeline_add(struct timeline *timeline, const struct timeline_record *record);
/* A window that is left out for what it ends at. */
void timeline_leave_out(struct timeline *timeline, uint64_t last);
/* Whether the command line asks for this layer and head. */
bool timeline_wants(const struct plot *plot, struct layer_id id, int32_t head);
int timeline_load_file(struct plot *plot, const char *path, struct timeline *timeline);
int timeline_load_live(struct plot *plot, const char *job, struct timeline *timeline);

#endif
