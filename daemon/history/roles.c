/* SPDX-License-Identifier: MIT */
/* roles: the role of each head now, the evidence for it, and the roles it has had over the run.
 *
 * Nothing is stored for it: the role of a window is the pattern (proto/pattern.h) of the means that
 * the history has of it anyway. A window without a sound row has no role and is passed over.
 *
 * Near a threshold a role flickers. So a role holds until two windows in succession have another
 * one, and the next begins with the first of these two; a single window of another role only
 * counts, as one of `others`. The newest window alone is no exception: the role is then still the
 * one before. Decided against: a role that begins at its first window alone (a head at 0.5 of its
 * weight would emerge every few windows), and a second threshold to leave a role by (the role would
 * not be what KERNELS.md says of the numbers).
 *
 * A head's role emerged when the window before the span shows that it had another: not at the first
 * window that is kept, and not where the number that decides did not exist before, as induction
 * does without tokens. */
#include "daemon/history/values.h"

#include "proto/pattern.h"

#include <math.h>
#include <stdlib.h>

/* Numbers that are in memory at once; heads of an answer, and of each the newest spans: within what
 * clients read. */
#define VALUES_MAX (3u << 20)
#define HEADS_MAX  10000
#define SPANS_MAX  8

/* Rows of the layer's windows. */
struct role_span {
    enum pattern role;
    uint32_t since, until; /* the first and the last window of this role */
    uint32_t windows;      /* of this role */
    uint32_t others;       /* of other roles, between these and at the end */
    bool emerged;
};

struct roles_head {
    struct role_span span[SPANS_MAX]; /* span n at n % SPANS_MAX */
    uint32_t spans;
    int64_t alone; /* the window before this one, when it had another role; else -1 */
};

struct roles {
    struct found_run run;
    struct found_track track;                 /* of the first layer that has windows */
    struct value_series series[METRIC_COUNT]; /* of those that a pattern reads, of one layer */
    uint32_t place[METRIC_COUNT];             /* of a metric among those */
    uint32_t metrics;
    uint32_t heads; /* in `encoded` */
    bool more;      /* heads beyond HEADS_MAX were left out */
    struct mpk_writer encoded;
};

/* Spans */

static double roles_value(struct roles *roles, enum metric metric, uint32_t head, uint32_t row)
{
    return series_column(&roles->series[roles->place[metric]], head, STATISTIC_MEAN)[row];
}

static enum pattern roles_at(struct roles *roles, uint32_t head, uint32_t row)
{
    double value[METRIC_COUNT];
    for (int m = 0; m < METRIC_COUNT; m++) {
        value[m] = NAN;
    }
    for (uint32_t i = 0; i < roles->metrics; i++) {
        value[roles->series[i].number] =
            series_column(&roles->series[i], head, STATISTIC_MEAN)[row];
    }
    return pattern_of(value);
}

static struct role_span *roles_newest(struct roles_head *head)
{
    return &head->span[(head->spans - 1) % SPANS_MAX];
}

static void roles_begin(struct roles *roles, struct roles_head *head, uint32_t index, uint32_t row)
{
    struct role_span span = {roles_at(roles, index, row), row, row, 1, 0, false};
    if (head->spans > 0) { /* it ended in the window before */
        uint32_t before = roles_newest(head)->until;
        /* The window before could have shown that a head has the role. */
        struct pattern_condition all[PATTERN_CONDITIONS_MAX];
        uint32_t count = pattern_conditions(span.role, all);
        bool shows = true;
        for (uint32_t i = 0; i < count; i++) {
            shows = shows && !isnan(roles_value(roles, all[i].metric, index, before));
        }
        span.emerged = shows;
    }
    head->spans++;
    head->alone = -1;
    *roles_newest(head) = span;
}

/* Takes in the next window. `index` is the head's place in the series. */
static void roles_add(struct roles *roles, struct roles_head *head, uint32_t index, uint32_t row)
{
    enum pattern role = roles_at(roles, index, row);
    if (role == PATTERN_NONE) {
        return;
    }
    if (head->spans == 0) {
        roles_begin(roles, head, index, row);
        return;
    }
    if (head->alone >= 0 && role != roles_newest(head)->role) {
        roles_begin(roles, head, index, (uint32_t)head->alone);
    }
    struct role_span *span = roles_newest(head);
    if (role != span->role) {
        head->alone = row;
        return;
    }
    span->others += head->alone >= 0;
    span->windows++;
    span->until = row;
    head->alone = -1;
}

/* The answer */

static void roles_put_window(struct query *query, const struct roles *roles, const char *key,
                             uint32_t row)
{
    const struct series_window *window = &roles->series[0].rows.row[row].window;
    mpk_pair_map(query->result, key, 3);
    put_u64(query, "window", window->last);
    put_u64(query, "epoch", window->epoch);
    put_u64(query, "step", window->step);
}

static void roles_put_head(struct query *query, struct roles *roles, struct roles_head *head,
                           uint32_t index)
{
    const struct value_series *series = &roles->series[0];
    const struct role_span *now = roles_newest(head);
    uint32_t shown = head->spans < SPANS_MAX ? head->spans : SPANS_MAX;
    struct mpk_writer *result = query->result;
    query->result = &roles->encoded;
    mpk_put_map(query->result, put_layer_count(&series->layer) + 6);
    put_layer(query, &series->layer);
    put_u64(query, "head", series->head_first + index);
    put_text(query, "role", pattern_name[now->role]);
    /* The numbers of the newest window of the role. */
    struct pattern_condition all[PATTERN_CONDITIONS_MAX];
    uint32_t count = pattern_conditions(now->role, all);
    mpk_pair_array(query->result, "evidence", count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(query->result, 3);
        put_text(query, "metric", metric_info[all[i].metric].name);
        mpk_pair_f64(query->result, "value", roles_value(roles, all[i].metric, index, now->until));
        mpk_pair_f64(query->result, all[i].at_most ? "at_most" : "at_least", all[i].bound);
    }
    if (now->emerged) {
        roles_put_window(query, roles, "emerged", now->since);
    } else {
        mpk_pair_nil(query->result, "emerged");
    }
    put_u64(query, "changes", head->spans - 1);
    mpk_pair_array(query->result, "spans", shown);
    for (uint32_t i = head->spans - shown; i < head->spans; i++) {
        const struct role_span *span = &head->span[i % SPANS_MAX];
        mpk_put_map(query->result, 5);
        put_text(query, "role", pattern_name[span->role]);
        roles_put_window(query, roles, "since", span->since);
        roles_put_window(query, roles, "until", span->until);
        put_u64(query, "windows", span->windows);
        put_u64(query, "others", span->others);
    }
    query->result = result;
    roles->heads++;
}

/* Layers */

/* As many heads at a time as VALUES_MAX allows. */
static int roles_read_heads(struct query *query, struct roles *roles,
                            const struct value_series *of_layer)
{
    bool one = query->params.given & PARAM_HEAD;
    uint32_t first = one ? (uint32_t)query->params.head : 0;
    uint32_t end = !one ? of_layer->layer.heads : first < of_layer->layer.heads ? first + 1 : 0;
    uint32_t most = VALUES_MAX / roles->metrics / (of_layer->rows.count + 1);
    int code = 0;
    for (uint32_t heads; !code && first < end; first += heads) {
        heads = end - first < most ? end - first : most + !most;
        for (uint32_t i = 0; i < roles->metrics; i++) {
            struct value_series *series = &roles->series[i];
            int number = series->number;
            *series = *of_layer;
            series->number = number;
            series->metric = metric_info[number].name;
            series->head_first = first;
            series->heads = heads;
            series_choose(series, 1u << STATISTIC_MEAN);
        }
        code = series_read(query, roles->series, roles->metrics);
        if (!code) {
            /* The heads that are in memory. */
            const struct value_series *series = &roles->series[0];
            for (uint32_t index = 0; index < series->heads; index++) {
                struct roles_head head = {.alone = -1};
                for (uint32_t row = 0; row < series->rows.count; row++) {
                    roles_add(roles, &head, index, row);
                }
                if (head.alone >= 0) {
                    roles_newest(&head)->others++;
                }
                roles->more = roles->more || (head.spans > 0 && roles->heads == HEADS_MAX);
                if (head.spans > 0 && !roles->more) {
                    roles_put_head(query, roles, &head, index);
                }
            }
        }
        for (uint32_t i = 0; i < roles->metrics; i++) {
            free(roles->series[i].value);
        }
    }
    return code;
}

static int roles_read_layer(struct query *query, struct roles *roles,
                            const struct found_layer *layer)
{
    struct value_series series = {.layer = *layer};
    int code = find_track(query, layer, &series.track);
    code = code ? code : windows_read(query, layer, &series.track, HISTORY_LIMIT_MAX, &series.rows);
    if (code) {
        return code == ERR_NO_HISTORY ? 0 : code;
    }
    if (roles->heads == 0) {
        roles->track = series.track;
    }
    code = roles_read_heads(query, roles, &series);
    windows_free(&series.rows);
    return code;
}

int history_roles(struct query *query)
{
    struct roles *roles = calloc(1, sizeof *roles);
    if (!roles) {
        return ERR_MEMORY;
    }
    for (int m = 0; m < METRIC_COUNT; m++) {
        if (pattern_reads((enum metric)m)) {
            roles->place[m] = roles->metrics;
            roles->series[roles->metrics++].number = m;
        }
    }
    mpk_writer_init(&roles->encoded);
    struct found_layer *layers = NULL, first;
    uint32_t count = 0;
    bool has_head = !(query->params.given & PARAM_HEAD);
    int code = find_run(query, query->params.job, query->params.run, &roles->run);
    code = code ? code : find_layer(query, &roles->run, &first);
    code = code ? code : layers_read(query, &roles->run, &layers, &count);
    for (uint32_t i = 0; !code && i < count; i++) {
        has_head = has_head || query->params.head < layers[i].heads;
        code = roles_read_layer(query, roles, &layers[i]);
    }
    free(layers);
    if (!code && roles->heads == 0) {
        code = query_fail(query, ERR_NO_HISTORY, "the run has no %s",
                          has_head ? "window with a role yet: a role needs the metrics of "
                                     "metrics.core"
                                   : "such head");
    }
    if (!code) {
        mpk_put_map(query->result, 7);
        put_run(query, &roles->run);
        put_track(query, &roles->track);
        mpk_pair_array(query->result, "heads", roles->heads);
        mpk_put_raw(query->result, roles->encoded.buffer.data, roles->encoded.buffer.size);
        mpk_pair_bool(query->result, "more", roles->more);
        code = mpk_writer_ok(&roles->encoded) ? 0 : ERR_MEMORY;
    }
    mpk_writer_clear(&roles->encoded);
    free(roles);
    return code;
}
