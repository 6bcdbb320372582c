/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/ask.h"

#include "proto/err.h"

#include <string.h>

#define PATIENCE_MS 60000

void ask_init(struct ask *ask)
{
    mpk_writer_init(&ask->pairs);
    ask->count = 0;
}

void ask_text(struct ask *ask, const char *key, const char *text)
{
    if (!text) {
        return;
    }
    mpk_pair_str(&ask->pairs, key, text);
    ask->count++;
}

void ask_number(struct ask *ask, const char *key, uint64_t number)
{
    mpk_pair_u64(&ask->pairs, key, number);
    ask->count++;
}

void ask_flag(struct ask *ask, const char *key, bool value)
{
    mpk_pair_bool(&ask->pairs, key, value);
    ask->count++;
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
    if (args->given & ARGS_FROM) {
        ask_number(ask, "from", args->from);
    }
    if (args->given & ARGS_TO) {
        ask_number(ask, "to", args->to);
    }
}

int ask_patiently(struct cli *cli)
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

void ask_write(struct ask *ask, struct mpk_writer *ret_params)
{
    mpk_writer_init(ret_params);
    mpk_put_map(ret_params, ask->count);
    mpk_put_raw(ret_params, ask->pairs.buffer.data, ask->pairs.buffer.size);
    ret_params->failed = ret_params->failed || !mpk_writer_ok(&ask->pairs);
    mpk_writer_clear(&ask->pairs);
}

static enum rpc_status call(struct cli *cli, const char *method, struct ask *ask,
                            struct rpc_reply *ret_reply)
{
    struct mpk_writer params;
    ask_write(ask, &params);
    enum rpc_status status = rpc_call(cli->rpc, method, &params, ret_reply);
    mpk_writer_clear(&params);
    return status;
}

int ask_call(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply)
{
    return cli_explain(cli, call(cli, method, ask, ret_reply), ret_reply);
}

int ask_for_any(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply,
                bool *ret_any)
{
    enum rpc_status status = call(cli, method, ask, ret_reply);
    *ret_any = status == RPC_OK;
    if (status == RPC_REFUSED && strcmp(ret_reply->code, err_slug(ERR_NO_HISTORY)) == 0) {
        return CLI_OK;
    }
    return cli_explain(cli, status, ret_reply);
}
