/* SPDX-License-Identifier: MIT */
/* ping, config, flush: the daemon itself. */
#include "ask.h"
#include "cli.h"
#include "field.h"
#include "out.h"

#include <inttypes.h>

static int show_ping(struct cli *cli, const msgpack_object *result)
{
    char version[64], uptime[OUT_TIME_MAX];
    double seconds = 0;
    const msgpack_object *value = mpk_find(result, "uptime_s");
    if (value)
        mpk_get_f64(value, &seconds);
    field_text(result, "version", version, sizeof(version));
    out_duration(seconds, uptime);
    fprintf(cli->out, "attnd %s at %s, up %s\n", version, cli->args->endpoint, uptime);
    return CLI_OK;
}

int cmd_ping(struct cli *cli)
{
    return cli_show(cli, "ping", show_ping);
}

static int show_config(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    out_init(&table, 2);
    out_cell(&table, "KEY");
    out_cell(&table, "VALUE");
    for (uint32_t i = 0; result->type == MSGPACK_OBJECT_MAP && i < result->via.map.size; i++) {
        const msgpack_object_kv *pair = &result->via.map.ptr[i];
        char text[OUT_CELL_MAX];
        field_show(&pair->key, text, sizeof(text));
        out_cell(&table, "%s", text);
        field_show(&pair->val, text, sizeof(text));
        out_cell(&table, "%s", text);
    }
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}

int cmd_config(struct cli *cli)
{
    return cli_show(cli, "config", show_config);
}

/* A flush is answered when what was received before it has been computed, which may take its time.
 */
int cmd_flush(struct cli *cli)
{
    struct rpc_reply reply;
    struct mpk_writer params;
    const char *job = cli->args->word_count > 1 ? cli->args->words[1] : NULL;
    int code = ask_patiently(cli);
    if (code != CLI_OK)
        return code;
    mpk_writer_init(&params);
    mpk_put_map(&params, job ? 1 : 0);
    if (job) {
        mpk_put_str(&params, "job");
        mpk_put_str(&params, job);
    }
    code = cli_call(cli, "flush", &params, &reply);
    mpk_writer_clear(&params);
    if (code != CLI_OK)
        return code;
    uint64_t windows = field_u64(reply.result, "windows");
    if (cli->args->given & ARGS_JSON)
        code = cli_print_json(cli, reply.result);
    else
        fprintf(cli->out, "published %" PRIu64 " window%s\n", windows, out_plural(windows));
    rpc_reply_clear(&reply);
    return code;
}
