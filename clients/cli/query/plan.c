/* SPDX-License-Identifier: MIT */
/* plan: the capture plans of training jobs; shows, sets and resets them while jobs run. A value
 * goes to attnd as it was written: what is one is the business of its config. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

#define PATTERN_WIDTH 32
#define LAYERS_WIDTH  32
#define HEADS_WIDTH   16

static const char *const keys[] = {"every", "layers", "heads", "samples", "rows", "tier"};
enum { KEYS = sizeof keys / sizeof keys[0] };
#define KEY_LIST "every, layers, heads, samples, rows, tier"

/* Showing */

/* 0 by the word that it stands for. */
static void plan_add_number(struct out_table *table, const msgpack_object *plan, const char *key,
                            const char *zero)
{
    uint64_t number = mpk_find_u64(plan, key);
    if (number == 0) {
        out_cell(table, "%s", zero);
    } else {
        out_cell(table, "%" PRIu64, number);
    }
}

/* One plan, or the list of all: the first one that matches a job holds for it. */
static int show_plans(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    const char *cost = FIELD_TEXT(mpk_find(result, "cost"), "message");
    const char *note = FIELD_TEXT(result, "note");
    out_begin(&table, "JOBS|EVERY|LAYERS|HEADS|SAMPLES|ROWS|TIER|FROM");
    for (uint32_t i = 0; i < field_columns(result); i++) {
        const msgpack_object *plan = field_column(result, i);
        out_text(&table, plan, "pattern", PATTERN_WIDTH);
        plan_add_number(&table, plan, "every", "never");
        out_text(&table, plan, "layers", LAYERS_WIDTH);
        out_text(&table, plan, "heads", HEADS_WIDTH);
        plan_add_number(&table, plan, "samples", "all");
        plan_add_number(&table, plan, "rows", "all");
        out_text(&table, plan, "tier", 0);
        out_text(&table, plan, "from", 0);
    }
    out_print(&table, cli->width, true, cli->out);
    fprintf(cli->out, "%s%s%s%s", cost, *cost ? "\n" : "", note, *note ? "\n" : "");
    return CLI_OK;
}

/* Setting */

/* Adds words[3...]; explains what is wrong with one. */
static int add_assignments(struct cli *cli, struct ask *ask)
{
    const struct args *args = cli->args;
    unsigned given = 0;
    for (int i = 3; i < args->word_count; i++) {
        size_t length = strcspn(args->words[i], "=");
        int key = args->words[i][length] == '=' ? KEYS - 1 : -1;
        while (key >= 0 &&
               (strlen(keys[key]) != length || strncmp(keys[key], args->words[i], length) != 0)) {
            key--;
        }
        if (key < 0) {
            return cli_usage(cli,
                             "'%.80s': not KEY=VALUE with a key of a plan (valid: " KEY_LIST ")",
                             args->words[i]);
        }
        if (given & 1u << key) {
            return cli_usage(cli, "%s: given twice", keys[key]);
        }
        given |= 1u << key;
        ask_text(ask, keys[key], args->words[i] + length + 1);
    }
    return CLI_OK;
}

int cmd_plan(struct cli *cli)
{
    static const struct {
        const char *word, *method, *usage;
        int words_min, words_max;
    } verbs[] = {
        {"get", "plan.get", "get [JOB]", 2, 3},
        {"set", "plan.set", "set JOB KEY=VALUE...", 4, ARGS_WORDS_MAX},
        {"reset", "plan.reset", "reset JOB", 3, 3},
    };
    const struct args *args = cli->args;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(args->words[1], verbs[i].word) != 0) {
            continue;
        }
        if (args->word_count < verbs[i].words_min || args->word_count > verbs[i].words_max) {
            return cli_usage(cli, "plan %s: %s; usage: attnctl plan %s [OPTIONS]", verbs[i].word,
                             args->word_count < verbs[i].words_min ? "something is missing"
                                                                   : "unexpected argument",
                             verbs[i].usage);
        }
        struct ask ask;
        ask_init(&ask);
        ask_text(&ask, "job", args->words[2]);
        if (add_assignments(cli, &ask) != CLI_OK) {
            mpk_writer_clear(&ask.params);
            return CLI_USAGE;
        }
        return cli_show(cli, verbs[i].method, &ask, show_plans, NULL);
    }
    return cli_usage(cli, "plan '%.80s': no such thing to do (valid: get, set, reset)",
                     args->words[1]);
}
