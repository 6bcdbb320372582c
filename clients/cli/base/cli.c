/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/cli.h"

#include "proto/err.h"
#include "clients/cli/base/now.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_EVERY_MS 50

int cli_check_entry(struct cli *cli, const char *endpoint)
{
    static const char ipc[] = "ipc://";
    if (strncmp(endpoint, ipc, strlen(ipc)) != 0 || access(endpoint + strlen(ipc), W_OK) == 0 ||
        errno != EACCES) {
        return CLI_OK;
    }
    fprintf(cli->err,
            "attnctl: cannot reach attnd at %s: permission denied: it is for another user; join "
            "group attnd if it runs as a service\n",
            endpoint);
    return CLI_UNREACHABLE;
}

static int explain_unreachable(struct cli *cli, const struct rpc *rpc)
{
    if (cli_check_entry(cli, rpc->endpoint) != CLI_OK) {
        return CLI_UNREACHABLE;
    }
    fprintf(cli->err,
            "attnctl: cannot reach attnd at %s within %g s: is it running? start it with `attnd` "
            "or give --address\n",
            rpc->endpoint, cli->args->timeout_ms / 1000.0);
    return CLI_UNREACHABLE;
}

/* The remedy for a refusal, where its sentence does not name it. */
static const struct {
    const char *code, *hint;
} hints[] = {
    {"history_off", " (the log of attnd says more; see history.enabled and history.path in attnctl "
                    "config)"},
    {"query_time", ": ask for less with --from and --to, or raise it"},
    {"no_summary", "; windows end with the job's epochs, or with its steps if window.unit says so. "
                   "attnctl flush JOB shows what is open"},
    {"again", " (too many questions are waiting)"},
};

static const char *cli_hint_of(const char *code)
{
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        if (strcmp(hints[i].code, code) == 0) {
            return hints[i].hint;
        }
    }
    return "";
}

/* A sentence of attnd's own says why there is no summary, and will not be. */
static bool cli_needs_hint(const struct rpc_reply *reply)
{
    return strcmp(reply->code, err_slug(ERR_NO_SUMMARY)) != 0 ||
           strcmp(reply->message, err_text(ERR_NO_SUMMARY)) == 0;
}

/* Codes whose sentence is all there is to say. */
static bool speaks_for_itself(const char *code)
{
    return *cli_hint_of(code) || strcmp(code, err_slug(ERR_ARGUMENT)) == 0 ||
           strcmp(code, err_slug(ERR_RUN_UNKNOWN)) == 0 ||
           strcmp(code, err_slug(ERR_NO_HISTORY)) == 0;
}

static int base_cli_explain(struct cli *cli, enum rpc_status status, const struct rpc *rpc)
{
    switch (status) {
    case RPC_UNREACHABLE:
        return explain_unreachable(cli, rpc);
    case RPC_NOBODY:
        fprintf(cli->err, "attnctl: %s. " CLI_NOBODY_HINT "\n", rpc->reason);
        return CLI_UNREACHABLE;
    case RPC_ADDRESS:
        return cli_usage(cli, "address %s", rpc->reason);
    case RPC_BROKEN:
        fprintf(cli->err, "attnctl: what answers at %s is not attnd\n", rpc->endpoint);
        return CLI_UNREACHABLE;
    case RPC_ENDPOINT:
        return cli_usage(cli,
                         "--endpoint: '%.200s': not an endpoint (valid: tcp://host:port, "
                         "ipc://path)",
                         rpc->endpoint);
    case RPC_INTERRUPTED:
        fputs("attnctl: interrupted\n", cli->err);
        return CLI_FINDING;
    default:
        fputs("attnctl: out of memory\n", cli->err);
        return CLI_FINDING;
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

int cli_connect(struct cli *cli, struct rpc *ret_rpc)
{
    enum rpc_status status = cli_open(cli->args, ret_rpc);
    return status == RPC_OK ? CLI_OK : base_cli_explain(cli, status, ret_rpc);
}

int cli_explain(struct cli *cli, enum rpc_status status, const struct rpc_reply *reply)
{
    if (status == RPC_REFUSED) {
        if (strcmp(reply->code, err_slug(ERR_JOB_UNKNOWN)) == 0 && cli->args->word_count > 1) {
            fprintf(cli->err, "attnctl: no such job: '%.80s' (see attnctl jobs)\n",
                    cli->args->words[1]);
        } else if (speaks_for_itself(reply->code)) {
            fprintf(cli->err, "attnctl: %s%s\n", reply->message,
                    cli_needs_hint(reply) ? cli_hint_of(reply->code) : "");
        } else {
            fprintf(cli->err, "attnctl: attnd refused: %s (%s)\n", reply->message, reply->code);
        }
        return strcmp(reply->code, err_slug(ERR_ARGUMENT)) == 0 ? CLI_USAGE : CLI_FINDING;
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

int cli_fail(struct cli *cli, int code, const char *sentence)
{
    if (*sentence == '\0') {
        return code;
    }
    fputs("attnctl: ", cli->err);
    for (const char *c = sentence; *c; c++) {
        putc((unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c, cli->err);
    }
    putc('\n', cli->err);
    return code;
}

int cli_fail_output(struct cli *cli)
{
    fputs("attnctl: cannot write the output\n", cli->err);
    return CLI_FINDING;
}

int cli_print_json(struct cli *cli, const msgpack_object *value)
{
    char *text = mpk_to_json(value, 2);
    if (!text) {
        fputs("attnctl: out of memory\n", cli->err);
        return CLI_FINDING;
    }
    fprintf(cli->out, "%s\n", text);
    free(text);
    return CLI_OK;
}

int cli_print_written(struct cli *cli, const struct mpk_writer *writer, unsigned indent, FILE *out)
{
    struct mpk_doc doc;
    char *text = NULL;
    int rc = ERR_MEMORY;
    if (mpk_writer_ok(writer)) {
        rc = mpk_parse(writer->buffer.data, writer->buffer.size, &mpk_result_limits, &doc);
    }
    if (rc == 0) {
        text = mpk_to_json(doc.root, indent);
        mpk_doc_clear(&doc);
    } else if (rc != ERR_MEMORY) {
        return cli_fail(cli, CLI_FINDING, "this is too much for one JSON document");
    }
    if (!text) {
        return cli_fail(cli, CLI_FINDING, "out of memory");
    }
    fprintf(out, "%s\n", text);
    free(text);
    return CLI_OK;
}

int cli_show(struct cli *cli, const char *method,
             int (*show)(struct cli *cli, const msgpack_object *result))
{
    struct rpc_reply reply;
    int code = cli_call(cli, method, NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    if (cli->args->given & ARGS_JSON) {
        code = cli_print_json(cli, reply.result);
    } else {
        code = show(cli, reply.result);
    }
    rpc_reply_clear(&reply);
    return code;
}
