/* SPDX-License-Identifier: MIT */
/* compare: the heads that behave most differently in two runs, and by which metric. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/unknown.h"

#include "proto/header.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define HEADS_DEFAULT 20

/* Divergences less than this are no difference that anyone could see. */
#define SAME 1e-9

static void print_side(struct cli *cli, const char *name, const msgpack_object *side)
{
    uint64_t windows = mpk_find_u64(side, "windows");
    uint64_t first = mpk_find_u64(side, "first"), last = mpk_find_u64(side, "last");
    fprintf(cli->out, "%s: %s, run %.8s", name, FIELD_TEXT(side, "job"), FIELD_TEXT(side, "run"));
    if (windows > 0) { /* else no layer is in both */
        fprintf(cli->out, ", %" PRIu64 " window%s, %" PRIu64, windows, out_plural(windows), first);
    }
    if (first != last) {
        fprintf(cli->out, " to %" PRIu64, last);
    }
    if (mpk_find(side, "rows_of")) {
        fprintf(cli->out, ", %" PRIu64 " of about %" PRIu64 " rows", mpk_find_u64(side, "rows"),
                mpk_find_u64(side, "rows_of"));
    }
    putc('\n', cli->out);
}

/* The metric that differs most; NULL when there is none. */
static const msgpack_object_kv *most_different(const msgpack_object *head)
{
    const msgpack_object *metrics = mpk_find(head, "metrics");
    const msgpack_object_kv *most = NULL;
    for (uint32_t i = 0; i < mpk_pairs(metrics); i++) {
        const msgpack_object_kv *pair = &metrics->via.map.ptr[i];
        if (!most ||
            mpk_number(mpk_find(&pair->val, "js")) > mpk_number(mpk_find(&most->val, "js"))) {
            most = pair;
        }
    }
    return most;
}

/* Whether the rows of either are a sample. */
static bool compare_is_sampled(const msgpack_object *result)
{
    return mpk_find(mpk_find(result, "a"), "rows_of") || mpk_find(mpk_find(result, "b"), "rows_of");
}

/* The difference of the means, with its standard error. */
static void compare_add_delta(struct out_table *table, const msgpack_object *metric)
{
    double error = mpk_number(mpk_find(metric, "delta_error"));
    if (isnan(error)) {
        out_number(table, mpk_find(metric, "delta"));
    } else {
        out_cell(table, "%.4g %s %.2g", mpk_number(mpk_find(metric, "delta")), out_plus_minus(),
                 error);
    }
}

static void print_alone(struct cli *cli, const char *name, const msgpack_object *list)
{
    uint32_t count = mpk_items(list);
    if (count > 0) {
        fprintf(cli->out, "%" PRIu32 " head%s only in %s\n", count, out_plural(count), name);
    }
}

static int show_comparison(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *heads = mpk_find(result, "heads");
    bool any = mpk_items(heads) > 0, sampled = compare_is_sampled(result);
    print_side(cli, "a", mpk_find(result, "a"));
    print_side(cli, "b", mpk_find(result, "b"));
    if (!any) {
        fputs("no head is in both\n", cli->out);
    } else if (mpk_number(mpk_find(&heads->via.array.ptr[0], "distance")) < SAME) {
        fputs("no head differs\n", cli->out);
    } else {
        struct out_table table;
        out_begin(&table, "HEAD|DISTANCE|MOST BY|JS|MEAN A|MEAN B");
        if (sampled) {
            fprintf(cli->out,
                    "of the rows taken; %s: standard error of B - A, at most; two samples of one "
                    "head have a distance, too\n",
                    out_plus_minus());
            out_more(&table, "B - A");
        }
        for (uint32_t i = 0; i < heads->via.array.size; i++) {
            const msgpack_object *head = &heads->via.array.ptr[i];
            const msgpack_object_kv *most = most_different(head);
            out_cell(&table, "%s", FIELD_PLACE(head));
            out_number(&table, mpk_find(head, "distance"));
            out_cell(&table, "%s", most ? FIELD_VALUE(&most->key) : "-");
            out_number(&table, mpk_find(most ? &most->val : NULL, "js"));
            out_number(&table, mpk_find(most ? &most->val : NULL, "mean_a"));
            out_number(&table, mpk_find(most ? &most->val : NULL, "mean_b"));
            if (sampled) {
                compare_add_delta(&table, most ? &most->val : NULL);
            }
        }
        putc('\n', cli->out);
        out_print(&table, cli->width, false, cli->out);
    }
    print_alone(cli, "a", mpk_find(result, "only_a"));
    print_alone(cli, "b", mpk_find(result, "only_b"));
    if (any && field_bool(result, "more")) {
        fputs("there are more heads: --count shows them\n", cli->out);
    }
    return CLI_OK;
}

int cmd_compare(struct cli *cli)
{
    static const char *const keys[2][2] = {{"job", "run"}, {"job_b", "run_b"}};
    const struct args *args = cli->args;
    struct ask ask;
    int code = CLI_OK;
    ask_init(&ask);
    ask.patient = true;
    for (int i = 0; i < 2 && code == CLI_OK; i++) { /* "JOB" or "JOB/RUN" */
        const char *word = args->words[1 + i], *slash = strchr(word, '/');
        char job[JOB_NAME_MAX + 1];
        snprintf(job, sizeof job, "%.*s", (int)strcspn(word, "/"), word);
        if (!job_name_valid(word, strcspn(word, "/")) ||
            (slash && (!slash[1] || slash[1 + strspn(slash + 1, "0123456789abcdef")]))) {
            code = cli_usage(
                cli, "'%.80s': not a run (valid: JOB, or JOB/RUN with the first digits of it)",
                word);
        }
        ask_text(&ask, keys[i][0], job);
        ask_text(&ask, keys[i][1], slash ? slash + 1 : NULL);
    }
    if (code != CLI_OK || unknown_check_metric(cli) != CLI_OK) {
        mpk_writer_clear(&ask.params);
        return CLI_USAGE;
    }
    ask_text(&ask, "metric", args->metric);
    ask_range(&ask, args);
    ask_limit(&ask, args, HEADS_DEFAULT);
    return cli_show(cli, "compare", &ask, show_comparison, NULL);
}
