/* SPDX-License-Identifier: MIT */
/* tail: one line per message that attnd publishes, until Ctrl-C or --count. */
#include "clients/cli/base/cli.h"
#include "clients/c/src/drain.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/system.h"
#include "clients/cli/base/unknown.h"

#include "proto/header.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Results that wait to be printed. */
#define RESULTS_MAX       1000
#define RESULTS_BYTES_MAX (UINT64_C(256) << 20)
/* After so long without a result the reason may be that nobody is there. */
#define QUIET_MS 1000

/* Lines --------------------------------------------------------------------------------------- */

/* How many heads from this one on have the name; 0 when one before has it. */
static uint32_t count_name(const msgpack_object *values, uint32_t head, const char *name)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < field_columns(values); i++) {
        bool same = mpk_is_str(field_column(values, i), name);
        if (same && i < head) {
            return 0;
        }
        count += same;
    }
    return count;
}

static void print_values(struct cli *cli, const char *metric, const msgpack_object *values)
{
    uint32_t numbers = 0;
    double mean = 0, min = INFINITY, max = -INFINITY;
    for (uint32_t i = 0; i < field_columns(values); i++) {
        double value = mpk_number(field_column(values, i));
        if (!isnan(value)) {
            mean += (value - mean) / ++numbers;
            min = fmin(min, value);
            max = fmax(max, value);
        }
    }
    fprintf(cli->out, " %s", metric);
    if (!values) {
        fputs(" -", cli->out);
    } else if (numbers == 0) {
        /* "pattern first_token 3, mixed 5": each name with the number of heads that have it. */
        const char *separator = " ";
        for (uint32_t i = 0; i < field_columns(values); i++) {
            const msgpack_object *value = field_column(values, i);
            const char *name = FIELD_VALUE(value);
            uint32_t count = count_name(values, i, name);
            if (value->type == MSGPACK_OBJECT_STR && count > 0) {
                fprintf(cli->out, "%s%s %" PRIu32, separator, name, count);
                separator = ", ";
            }
        }
        fputs(*separator == ' ' ? " -" : "", cli->out);
    } else if (values->type != MSGPACK_OBJECT_ARRAY) {
        fprintf(cli->out, " %.4g", mean);
    } else {
        fprintf(cli->out, " %.4g [%.4g, %.4g] over %" PRIu32 " head%s", mean, min, max, numbers,
                out_plural(numbers));
    }
}

static void tail_print_number(struct cli *cli, const char *name, const msgpack_object *value)
{
    double number = mpk_number(value);
    fprintf(cli->out, isnan(number) ? " %s -" : " %s %.4g", name, number);
}

/* The requested metrics, or those that exist. */
static void tail_print_numbers(struct cli *cli, const msgpack_object *map)
{
    const msgpack_object *weights = mpk_find(map, "weights"), *sketch = mpk_find(map, "sketch");
    char chosen[FIELD_NAME_MAX];
    if (cli->args->metric) {
        print_values(cli, cli->args->metric, field_metric(map, cli->args->metric));
    } else if (mpk_pairs(weights) > 0) {
        /* "wq norm 15.8 rank 63, wk ..." */
        const char *separator = " ";
        for (uint32_t i = 0; i < weights->via.map.size; i++) {
            const msgpack_object_kv *matrix = &weights->via.map.ptr[i];
            const msgpack_object *whole = mpk_find(&matrix->val, "whole");
            if (!whole) {
                continue;
            }
            fprintf(cli->out, "%s%s", separator, FIELD_VALUE(&matrix->key));
            tail_print_number(cli, "norm", mpk_find(whole, "spectral_norm"));
            tail_print_number(cli, "rank", mpk_find(whole, "rank"));
            separator = ", ";
        }
    } else if (mpk_pairs(sketch) > 0) {
        /* "wq moved 0.0012 [0.001, 0.002] over 12 heads, wk ..." */
        const char *separator = " ";
        for (uint32_t i = 0; i < sketch->via.map.size; i++) {
            const msgpack_object_kv *matrix = &sketch->via.map.ptr[i];
            if (mpk_pairs(&matrix->val) > 0) {
                fprintf(cli->out, "%s%s", separator, FIELD_VALUE(&matrix->key));
                print_values(cli, "moved", mpk_find(&matrix->val, "moved"));
                separator = ", ";
            }
        }
    } else if (field_choose_metric(map, 1, chosen)) {
        print_values(cli, chosen, field_metric(map, chosen));
    } else {
        fputs(" no numbers", cli->out);
    }
}

static void print_live(struct cli *cli, const msgpack_object *map)
{
    fprintf(cli->out, " %s epoch %" PRIu64 " step %" PRIu64 " rank %" PRIu64 ":", FIELD_LAYER(map),
            mpk_find_u64(map, "epoch"), mpk_find_u64(map, "step"), mpk_find_u64(map, "rank"));
    tail_print_numbers(cli, map);
}

static void print_summary(struct cli *cli, const msgpack_object *map)
{
    const msgpack_object *window = mpk_find(map, "window");
    uint64_t first = mpk_find_u64(window, "first"), last = mpk_find_u64(window, "last");
    fprintf(cli->out, " %s %s %" PRIu64, FIELD_LAYER(map), FIELD_TEXT(window, "unit"), first);
    if (last != first) {
        fprintf(cli->out, " to %" PRIu64, last);
    }
    fputs(field_bool(window, "partial") ? " (partial):" : ":", cli->out);
    tail_print_numbers(cli, map);
    uint64_t messages = mpk_find_u64(map, "messages");
    fprintf(cli->out, ", %" PRIu64 " message%s, %" PRIu64 " lost, %" PRIu64 " dropped", messages,
            out_plural(messages), mpk_find_u64(map, "lost"), field_dropped(map));
}

static void tail_print_alert(struct cli *cli, const msgpack_object *map)
{
    fprintf(cli->out, " %s %s %s: %s, %s", FIELD_TEXT(map, "severity"), FIELD_STATE(map),
            FIELD_TEXT(map, "rule"), FIELD_TEXT(map, "message"), FIELD_SINCE(map));
}

static void tail_print_job(struct cli *cli, const msgpack_object *map)
{
    uint32_t layers = mpk_items(mpk_find(map, "layers"));
    const char *news = OUT_NEWS(map);
    fprintf(cli->out,
            " %s%s, run %.8s, epoch %" PRIu64 " step %" PRIu64 ", rank %" PRIu64 "/%" PRIu64
            ", %" PRIu32 " layer%s, received %" PRIu64 ", lost %" PRIu64 ", dropped %" PRIu64,
            *news ? "" : FIELD_TEXT(map, "state"), news, FIELD_TEXT(map, "run"),
            mpk_find_u64(map, "epoch"), mpk_find_u64(map, "step"), mpk_find_u64(map, "ranks"),
            mpk_find_u64(map, "world"), layers, out_plural(layers), field_received(map),
            mpk_find_u64(map, "lost"), field_dropped(map));
}

static void tail_print_log(struct cli *cli, const msgpack_object *map)
{
    const msgpack_object *values = mpk_find(map, "values");
    fprintf(cli->out, " step %" PRIu64 ":", mpk_find_u64(map, "step"));
    for (uint32_t i = 0; i < mpk_pairs(values); i++) {
        const msgpack_object_kv *pair = &values->via.map.ptr[i];
        tail_print_number(cli, FIELD_VALUE(&pair->key), &pair->val);
    }
}

static const struct {
    const char *kind;
    void (*print)(struct cli *cli, const msgpack_object *map);
} printers[] = {
    {"live", print_live},    {"summary", print_summary}, {"alert", tail_print_alert},
    {"job", tail_print_job}, {"log", tail_print_log},
};

/* Messages ------------------------------------------------------------------------------------ */

/* Prints one published map; false when it could not be read. */
static bool print_message(struct cli *cli, zmq_msg_t *frame)
{
    struct mpk_doc doc;
    if (mpk_parse(zmq_msg_data(frame), zmq_msg_size(frame), &mpk_result_limits, &doc) != 0) {
        fputs("attnctl: skipped a message that is not a result\n", cli->err);
        return false;
    }
    if (cli->args->given & ARGS_JSON) {
        cli_print_json(cli, doc.root, 0);
    } else {
        const char *kind = FIELD_TEXT(doc.root, "kind");
        fprintf(cli->out, "%-7s %s", kind, FIELD_TEXT(doc.root, "job"));
        for (size_t i = 0; i < sizeof printers / sizeof printers[0]; i++) {
            if (strcmp(kind, printers[i].kind) == 0) {
                printers[i].print(cli, doc.root);
            }
        }
        fputs(field_bool(doc.root, "snapshot") ? " (last value)\n" : "\n", cli->out);
    }
    fflush(cli->out);
    mpk_doc_clear(&doc);
    return true;
}

/* Where attnd knows no job of the topic, yet. */
static void tail_tell_no_job(struct cli *cli, const char *prefix)
{
    const char *slash = strchr(prefix, '/'), *job = slash ? slash + 1 : "";
    size_t length = strcspn(job, "/");
    char pattern[JOB_NAME_MAX + 2];
    struct rpc_reply reply;
    struct ask ask;
    if (!job_name_valid(job, length)) {
        return;
    }
    snprintf(pattern, sizeof pattern, "%.*s%s", (int)length, job, job[length] ? "" : "*");
    ask_init(&ask);
    ask_text(&ask, "jobs", pattern);
    if (ask_call(cli->rpc, "jobs", &ask, &reply) == RPC_OK) {
        if (mpk_items(reply.result) == 0) {
            cli_fail(cli, CLI_OK, "no such job yet: '%s' (see attnctl jobs): waiting for it",
                     pattern);
        }
        rpc_reply_clear(&reply);
    }
}

/* A pager may take none for as long as it likes: the drain does. */
static int tail(struct cli *cli, const char *endpoint, const char *prefix)
{
    struct link link = {.socket = NULL};
    struct drain drain = {.socket = NULL};
    size_t frame_max = mpk_result_limits.bytes;
    int code = cli_subscribe(cli, ADDRESS_PUBLISH, endpoint, prefix, frame_max, &link);
    if (code == CLI_OK &&
        drain_start(&drain, cli->rpc->context, &link, RESULTS_MAX, RESULTS_BYTES_MAX) != 0) {
        code = cli_fail(cli, CLI_FINDING, "cannot start a thread");
    }
    if (code == CLI_OK) {
        interrupt_catch();
        /* A reader that goes away ends it at once, and not with the next message. */
        zmq_pollitem_t items[] = {{.socket = drain.socket, .events = ZMQ_POLLIN},
                                  {.fd = fileno(cli->out)}};
        uint64_t left = cli->args->count ? cli->args->count : UINT64_MAX;
        long quiet_ms = QUIET_MS;
        while (left > 0 && !interrupt_came() && !ferror(cli->out) && !items[1].revents) {
            int ready = zmq_poll(items, 2, quiet_ms);
            if (ready == 0) {
                quiet_ms = -1;
                if (cli_tell_waiting(cli, endpoint) && !cli->args->summaries) {
                    tail_tell_no_job(cli, prefix);
                }
            }
            if (ready <= 0) {
                continue;
            }
            if (items[0].revents) {
                zmq_msg_t frames[2]; /* topic, map; those beyond are ignored */
                uint32_t count = drain_receive(&drain, frames, 2);
                left -= count > 1 && print_message(cli, &frames[1]);
                for (uint32_t i = 0; i < count && i < 2; i++) {
                    zmq_msg_close(&frames[i]);
                }
            }
        }
    }
    drain_stop(&drain);
    link_close(&link);
    return code;
}

/* Whether a topic may begin like this. */
static bool is_topic(const char *prefix)
{
    size_t kind = strcspn(prefix, "/");
    for (size_t i = 0; i < sizeof printers / sizeof printers[0]; i++) {
        const char *name = printers[i].kind;
        if (strncmp(prefix, name, kind) == 0 && (!prefix[kind] || !name[kind])) {
            return true;
        }
    }
    return false;
}

int cmd_tail(struct cli *cli)
{
    char endpoint[ADDRESS_MAX];
    const char *prefix = cli->args->word_count > 1 ? cli->args->words[1] : "";
    int code = CLI_OK;
    if (!is_topic(prefix)) {
        return cli_usage(
            cli,
            "no topic begins with '%.80s' (valid: alert/, job/, live/, log/, summary/, "
            "such as summary/gpt-small/)",
            prefix);
    }
    if (cli_check_json(cli) != CLI_OK || unknown_check_metric(cli) != CLI_OK) {
        return CLI_USAGE;
    }
    if (cli->args->summaries) {
        snprintf(endpoint, sizeof endpoint, "%s", cli->args->summaries);
    } else {
        code = reach_endpoint(cli, ADDRESS_PUBLISH, endpoint);
    }
    return code == CLI_OK ? tail(cli, endpoint, prefix) : code;
}
