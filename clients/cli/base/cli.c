/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/cli.h"

#include "proto/err.h"
#include "proto/utf8.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/system.h"
#include "clients/c/src/listener.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_EVERY_MS 50
#define PATIENCE_MS   60000
#define LIMIT_MAX     200000
#define SENTENCE_MAX  2048 /* bytes; what is more is cut */

/* Whether this user may connect to an endpoint, as far as a file's mode tells. Returns CLI_OK, or
 * CLI_UNREACHABLE with a sentence on err. */
static int cli_check_entry(struct cli *cli, const char *endpoint)
{
    static const char ipc[] = "ipc://";
    if (strncmp(endpoint, ipc, strlen(ipc)) != 0 || access(endpoint + strlen(ipc), W_OK) == 0 ||
        errno != EACCES) {
        return CLI_OK;
    }
    return cli_fail(cli, CLI_UNREACHABLE,
                    "cannot reach attnd at %s: permission denied: it is for another user; join "
                    "group attnd if it runs as a service",
                    endpoint);
}

static int explain_unreachable(struct cli *cli, const struct rpc *rpc)
{
    const struct args *args = cli->args;
    char why[ADDRESS_REASON_MAX];
    if (!rpc->found && listener_is_wrong(ADDRESS_CONTROL, args->endpoint, args->address, why)) {
        return cli_fail(cli, CLI_UNREACHABLE, "%s", why);
    }
    if (cli_check_entry(cli, rpc->endpoint) == CLI_OK) {
        cli_fail(cli, CLI_UNREACHABLE,
                 "cannot reach attnd at %s within %g s: is it running? start it with `attnd` or "
                 "give --address",
                 rpc->endpoint, args->timeout_ms / 1000.0);
    }
    return CLI_UNREACHABLE;
}

/* Refusals whose sentence is all there is to say, and the remedy where it does not name it. */
static const struct {
    const char *code, *hint;
} hints[] = {
    {"argument", ""},
    {"run_unknown", ""},
    {"no_history", ""},
    {"history_off", " (attnd's log says why; see history.enabled, history.path in attnctl config)"},
    {"query_time", ": ask for less with --from and --to, or raise it"},
    {"no_summary", "; windows end after 16 captures, or as window.unit says. "
                   "attnctl flush JOB shows what is open"},
    {"again", " (too many questions are waiting)"},
    {"method_unknown", ": this attnd is too old for what was asked, update attnd"},
};

/* NULL for other codes. */
static const char *cli_hint_of(const char *code)
{
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        if (strcmp(hints[i].code, code) == 0) {
            return hints[i].hint;
        }
    }
    return NULL;
}

/* A sentence of attnd's own says why there is no summary, and will not be. */
static bool cli_needs_hint(const struct rpc_reply *reply)
{
    return strcmp(reply->code, err_slug(ERR_NO_SUMMARY)) != 0 ||
           strcmp(reply->message, err_text(ERR_NO_SUMMARY)) == 0;
}

static int base_cli_explain(struct cli *cli, enum rpc_status status, const struct rpc *rpc)
{
    switch (status) {
    case RPC_UNREACHABLE:
        return explain_unreachable(cli, rpc);
    case RPC_NOBODY:
        return cli_fail(cli, CLI_UNREACHABLE, "%s. " CLI_NOBODY_HINT, rpc->reason);
    case RPC_KEY:
        return cli_fail(cli, CLI_UNREACHABLE, "%s", rpc->reason);
    case RPC_ADDRESS:
        return cli_usage(cli, "address %s", rpc->reason);
    case RPC_BROKEN:
        return cli_fail(cli, CLI_UNREACHABLE, "what answers at %s is not attnd", rpc->endpoint);
    case RPC_ENDPOINT:
        return cli_usage(cli,
                         "--endpoint: '%.200s': not an endpoint (valid: tcp://host:port, "
                         "ipc://path)",
                         rpc->endpoint);
    case RPC_INTERRUPTED:
        return cli_fail(cli, CLI_FINDING, "interrupted");
    default:
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
}

enum rpc_status cli_open(const struct args *args, struct rpc *ret_rpc)
{
    int64_t deadline_ms = now_ms() + args->timeout_ms;
    for (;;) {
        enum rpc_status status = rpc_open(args->endpoint, args->address, args->timeout_ms, ret_rpc);
        if (status != RPC_NOBODY || now_ms() >= deadline_ms) {
            return status;
        }
        if (zmq_poll(NULL, 0, LOOK_EVERY_MS) < 0) {
            return RPC_INTERRUPTED;
        }
    }
}

int cli_run_connected(struct cli *cli, int (*run)(struct cli *cli))
{
    struct rpc rpc;
    enum rpc_status status = cli_open(cli->args, &rpc);
    if (status != RPC_OK) {
        return base_cli_explain(cli, status, &rpc);
    }
    cli->rpc = &rpc;
    int code = run(cli);
    rpc_close(&rpc);
    return code;
}

int cli_explain(struct cli *cli, enum rpc_status status, const struct rpc_reply *reply)
{
    if (status == RPC_REFUSED) {
        int code = strcmp(reply->code, err_slug(ERR_ARGUMENT)) == 0 ? CLI_USAGE : CLI_FINDING;
        if (strcmp(reply->code, err_slug(ERR_JOB_UNKNOWN)) == 0 && cli->args->word_count > 1) {
            return cli_fail(cli, code, "no such job: '%.80s' (see attnctl jobs)",
                            cli->args->words[1]);
        }
        const char *hint = cli_hint_of(reply->code);
        return hint ? cli_fail(cli, code, "%s%s", reply->message, cli_needs_hint(reply) ? hint : "")
                    : cli_fail(cli, code, "attnd refused: %s (%s)", reply->message, reply->code);
    }
    return status == RPC_OK ? CLI_OK : base_cli_explain(cli, status, cli->rpc);
}

int cli_call(struct cli *cli, const char *method, const struct mpk_writer *params,
             struct rpc_reply *ret_reply)
{
    return cli_explain(cli, rpc_call(cli->rpc, method, params, ret_reply), ret_reply);
}

int cli_usage(struct cli *cli, const char *format, ...)
{
    va_list args;
    fputs("attnctl: ", cli->err);
    va_start(args, format);
    vfprintf(cli->err, format, args);
    va_end(args);
    putc('\n', cli->err);
    return CLI_USAGE;
}

int cli_check_json(struct cli *cli)
{
    bool both = cli->args->metric && cli->args->given & ARGS_JSON;
    return both ? cli_usage(cli, "--metric: %s --json has every metric; leave one of them out",
                            cli->args->words[0])
                : CLI_OK;
}

int cli_fail(struct cli *cli, int code, const char *format, ...)
{
    char sentence[SENTENCE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    if (*sentence == '\0') {
        return code;
    }
    utf8_make_plain(sentence, strlen(sentence));
    fprintf(cli->err, "attnctl: %s\n", sentence);
    return code;
}

int cli_print_json(struct cli *cli, const msgpack_object *value, unsigned indent)
{
    char *text = mpk_to_json(value, indent);
    if (!text) {
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    fprintf(cli->out, "%s\n", text);
    free(text);
    return CLI_OK;
}

int cli_print_written(struct cli *cli, struct mpk_writer *writer, unsigned indent)
{
    struct mpk_doc doc;
    int code, rc = ERR_MEMORY;
    if (mpk_writer_ok(writer)) {
        rc = mpk_parse(writer->buffer.data, writer->buffer.size, &mpk_result_limits, &doc);
    }
    if (rc == 0) {
        code = cli_print_json(cli, doc.root, indent);
        mpk_doc_clear(&doc);
    } else {
        code =
            cli_fail(cli, CLI_FINDING,
                     rc == ERR_MEMORY ? "out of memory" : "this is too much for one JSON document");
    }
    mpk_writer_clear(writer);
    return code;
}

/* Questions */

void ask_init(struct ask *ask)
{
    *ask = (struct ask){.patient = false};
    mpk_writer_init(&ask->params);
    ask->map = mpk_open(&ask->params, NULL);
}

void ask_job(struct ask *ask, const struct args *args)
{
    ask_init(ask);
    ask_text(ask, "job", args->words[1]);
    ask_text(ask, "run", args->run);
}

void ask_past(struct ask *ask, const struct args *args)
{
    ask_job(ask, args);
    ask->patient = true;
}

void ask_text(struct ask *ask, const char *key, const char *text)
{
    if (text) {
        mpk_pair_str(&ask->params, key, text);
    }
}

void ask_number(struct ask *ask, const char *key, uint64_t number)
{
    mpk_pair_u64(&ask->params, key, number);
}

void ask_layer(struct ask *ask, const struct args *args)
{
    ask_text(ask, "stack", args->stack);
    if (args->given & ARGS_LAYER) {
        ask_number(ask, "layer", args->layer);
    }
    ask_text(ask, "site", args->site);
}

void ask_range(struct ask *ask, const struct args *args)
{
    ask_text(ask, "window", args->window);
    if (args->given & ARGS_HEAD) {
        ask_number(ask, "head", args->head);
    }
    if (args->given & ARGS_FROM) {
        ask_number(ask, "from", args->from);
    }
    if (args->given & ARGS_TO) {
        ask_number(ask, "to", args->to);
    }
}

void ask_limit(struct ask *ask, const struct args *args, uint64_t otherwise)
{
    uint64_t limit = args->count ? args->count : otherwise;
    if (limit > 0) {
        ask_number(ask, "limit", limit < LIMIT_MAX ? limit : LIMIT_MAX);
    }
}

/* Waits longer for answers from here on, unless --timeout says how long. */
static int ask_patiently(struct cli *cli)
{
    struct rpc_reply reply;
    int code = cli_call(cli, "ping", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    rpc_reply_clear(&reply);
    if (!(cli->args->given & ARGS_TIMEOUT)) {
        cli->rpc->timeout_ms = PATIENCE_MS;
    }
    return CLI_OK;
}

enum rpc_status ask_call(struct rpc *rpc, const char *method, struct ask *ask,
                         struct rpc_reply *ret_reply)
{
    mpk_close_map(&ask->params, &ask->map);
    enum rpc_status status = rpc_call(rpc, method, &ask->params, ret_reply);
    mpk_writer_clear(&ask->params);
    return status;
}

enum rpc_status ask_send(struct rpc *rpc, const char *method, struct ask *ask, uint64_t *ret_id)
{
    mpk_close_map(&ask->params, &ask->map);
    enum rpc_status status = rpc_send(rpc, method, &ask->params, ret_id);
    mpk_writer_clear(&ask->params);
    return status;
}

int ask_for_any(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply,
                bool *ret_any)
{
    int code = ask->patient ? ask_patiently(cli) : CLI_OK;
    *ret_any = false;
    if (code != CLI_OK) {
        mpk_writer_clear(&ask->params);
        return code;
    }
    enum rpc_status status = ask_call(cli->rpc, method, ask, ret_reply);
    *ret_any = status == RPC_OK;
    if (status == RPC_REFUSED && strcmp(ret_reply->code, err_slug(ERR_NO_HISTORY)) == 0) {
        return CLI_OK;
    }
    return cli_explain(cli, status, ret_reply);
}

static int ask_reply(struct cli *cli, const char *method, struct ask *ask,
                     struct rpc_reply *ret_reply)
{
    bool any;
    int code = ask_for_any(cli, method, ask, ret_reply, &any);
    return code == CLI_OK && !any ? cli_explain(cli, RPC_REFUSED, ret_reply) : code;
}

int ask_read(struct cli *cli, const char *method, struct ask *ask, answer_reader *read)
{
    struct rpc_reply reply;
    int code = ask_reply(cli, method, ask, &reply);
    if (code == CLI_OK) {
        code = read(cli, reply.result);
        rpc_reply_clear(&reply);
    }
    return code;
}

int cli_show(struct cli *cli, const char *method, struct ask *ask, answer_reader *show,
             answer_reader *judge)
{
    struct rpc_reply reply;
    bool json = cli->args->given & ARGS_JSON;
    int code = ask_reply(cli, method, ask, &reply);
    if (code == CLI_OK) {
        code = json ? cli_print_json(cli, reply.result, 2) : show(cli, reply.result);
        code = code == CLI_OK && judge ? judge(cli, reply.result) : code;
        rpc_reply_clear(&reply);
    }
    return code;
}

/* Other sockets of the same attnd */

/* The host of tcp://host:port, as a length from text + 6; 0 for anything else. */
static size_t host_length(const char *text)
{
    const char *colon = strrchr(text, ':');
    return strncmp(text, "tcp://", 6) == 0 && colon > text + 6 ? (size_t)(colon - text - 6) : 0;
}

static bool is_wildcard(const char *endpoint)
{
    size_t length = host_length(endpoint);
    const char *host = endpoint + 6;
    return (length == 1 && *host == '*') || (length == 7 && strncmp(host, "0.0.0.0", 7) == 0) ||
           (length == 4 && strncmp(host, "[::]", 4) == 0);
}

void reach_from_here(struct cli *cli, const char *bound, char ret_endpoint[ADDRESS_MAX])
{
    /* Replaces a wildcard host by the control endpoint's, or by this machine when that is ipc. */
    size_t length = host_length(cli->rpc->endpoint);
    const char *host = length > 0 ? cli->rpc->endpoint + 6 : "127.0.0.1";
    if (length == 0) {
        length = strlen(host);
    }
    if (is_wildcard(bound)) {
        snprintf(ret_endpoint, ADDRESS_MAX, "tcp://%.*s%s", (int)length, host, strrchr(bound, ':'));
    } else {
        snprintf(ret_endpoint, ADDRESS_MAX, "%s", bound);
    }
}

void reach_directory(const struct cli *cli, char ret_directory[ADDRESS_MAX])
{
    static const char ipc[] = "ipc://";
    const char *path = cli->rpc->endpoint + strlen(ipc);
    const char *end = strrchr(cli->rpc->endpoint, '/');
    int length = strncmp(cli->rpc->endpoint, ipc, strlen(ipc)) == 0 ? (int)(end - path) : 0;
    snprintf(ret_directory, ADDRESS_MAX, "%.*s", length > 0 ? length : 0, path);
}

int reach_endpoint(struct cli *cli, enum address_socket which, char ret_endpoint[ADDRESS_MAX])
{
    char directory[ADDRESS_MAX], reason[ADDRESS_REASON_MAX];
    if (cli->args->endpoint) {
        struct rpc_reply reply;
        char key[32], bound[ADDRESS_MAX];
        int code = cli_call(cli, "config", NULL, &reply);
        if (code != CLI_OK) {
            return code;
        }
        snprintf(key, sizeof key, "%s.endpoint", address_socket_name[which]);
        field_text(reply.result, key, bound, sizeof bound);
        rpc_reply_clear(&reply);
        size_t length = strlen(bound);
        if (length == 0 || bound[length - 1] == '*') {
            return cli_usage(cli, "attnd does not say where its %s socket is: give %s",
                             address_socket_name[which],
                             which == ADDRESS_PUBLISH  ? "--summaries ENDPOINT"
                             : which == ADDRESS_INGEST ? "--ingest ENDPOINT"
                                                       : "--address");
        }
        reach_from_here(cli, bound, ret_endpoint);
        return CLI_OK;
    }
    reach_directory(cli, directory);
    const char *address = *directory ? directory : cli->args->address;
    if (address_endpoint(address, which, ret_endpoint, reason) != 0) {
        return cli_usage(cli, "address %s", reason);
    }
    if (cli->args->address && listener_is_wrong(which, NULL, cli->args->address, reason)) {
        return cli_fail(cli, CLI_UNREACHABLE, "%s", reason);
    }
    return cli_check_entry(cli, ret_endpoint);
}

static void cli_tell(void *data, const char *sentence)
{
    cli_fail(data, CLI_OK, "%s", sentence);
}

int cli_subscribe(struct cli *cli, enum address_socket which, const char *endpoint,
                  const char *topic, size_t frame_max, struct link *ret_link)
{
    struct link_target target = {.keys = cli->rpc->keys, .which = which, .tell = cli_tell};
    target.look_every_ms = LINK_LOOK_EVERY_MS;
    target.data = cli;
    snprintf(target.endpoint, sizeof target.endpoint, "%s", endpoint);
    if (link_subscribe(ret_link, cli->rpc->context, topic, (int64_t)frame_max, &target) == 0) {
        return CLI_OK;
    }
    return cli_usage(cli, "cannot subscribe at %s: %s", endpoint, zmq_strerror(errno));
}

bool cli_tell_waiting(struct cli *cli, const char *endpoint)
{
    char there[LISTENER_TEXT_MAX];
    bool somebody = listener_ask(endpoint, there);
    if (!somebody) {
        cli_fail(cli, CLI_OK,
                 "nobody listens at %s: waiting for attnd; start it with `attnd` or give --address",
                 endpoint);
    }
    return somebody;
}
