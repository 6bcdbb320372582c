/* SPDX-License-Identifier: MIT */
/* ping, page, config, flush: the daemon itself. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

#define URL_MAX 320

static int show_ping(struct cli *cli, const msgpack_object *result)
{
    char version[64], uptime[OUT_TIME_MAX];
    field_text(result, "version", version, sizeof version);
    out_duration(mpk_number(mpk_find(result, "uptime_s")), uptime);
    fprintf(cli->out, "attnd %s at %s, up %s\n", version, cli->rpc->endpoint, uptime);
    return CLI_OK;
}

int cmd_ping(struct cli *cli)
{
    return cli_show(cli, "ping", NULL, show_ping);
}

/* The file is read only when attnd answers: one that was killed leaves it behind. */
int cmd_page(struct cli *cli)
{
    struct rpc_reply reply;
    char directory[ENDPOINT_MAX], url[URL_MAX] = "", setting[8];
    int code = cli_call(cli, "config", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    field_text(reply.result, "http.enabled", setting, sizeof setting);
    bool enabled = strcmp(setting, "true") == 0;
    reach_directory(cli, directory);
    if (enabled) {
        /* The first line of the file that attnd writes beside its sockets. */
        char path[ENDPOINT_MAX + 8];
        snprintf(path, sizeof path, "%s/page", directory);
        FILE *file = *directory ? fopen(path, "re") : NULL;
        if (file) {
            *url = fgets(url, URL_MAX, file) ? *url : '\0';
            fclose(file);
        }
        url[strcspn(url, "\n")] = '\0';
    }
    if (enabled && !*url) {
        /* Where attnd says that it binds HTTP. */
        char bound[ENDPOINT_MAX], endpoint[ENDPOINT_MAX];
        field_text(reply.result, "http.endpoint", bound, sizeof bound);
        reach_from_here(cli, bound, endpoint);
        if (strncmp(endpoint, "tcp://", 6) == 0) {
            snprintf(url, URL_MAX, "http://%s/", endpoint + 6);
        }
    }
    rpc_reply_clear(&reply);
    if (cli->args->given & ARGS_JSON) {
        struct mpk_writer writer;
        mpk_writer_init(&writer);
        mpk_put_map(&writer, 1);
        mpk_pair_str(&writer, "page", *url ? url : NULL);
        code = cli_print_written(cli, &writer, 2, cli->out);
        mpk_writer_clear(&writer);
    } else if (*url) {
        fprintf(cli->out, "%s\n", url);
        const char *host = cli->rpc->endpoint + 6, *end = strrchr(host, ':'); /* tcp://host:port */
        int port = 0, here = 0;
        sscanf(url, "http://127.0.0.1:%d/", &port);
        sscanf(host, "127.%*[0-9.]:%n", &here);
        sscanf(host, "localhost:%n", &here);
        if (!*directory && port > 0 && end && !here) {
            fprintf(cli->err, "on attnd's machine; elsewhere, first: ssh -L %d:127.0.0.1:%d %.*s\n",
                    port, port, (int)(end - host), host);
        }
    }
    return *url ? code
                : cli_fail(cli, CLI_FINDING,
                           "this attnd has no page: set http.enabled: true in its config");
}

static int show_config(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    out_begin(&table, "KEY|VALUE");
    out_pairs(&table, "", result);
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}

int cmd_config(struct cli *cli)
{
    return cli_show(cli, "config", NULL, show_config);
}

static int show_flush(struct cli *cli, const msgpack_object *result)
{
    uint64_t windows = mpk_find_u64(result, "windows");
    fprintf(cli->out, "published %" PRIu64 " window%s\n", windows, out_plural(windows));
    return CLI_OK;
}

/* It is answered when what was received before has been computed, which may take its time. */
int cmd_flush(struct cli *cli)
{
    struct ask ask;
    ask_past(&ask, cli->args);
    return cli_show(cli, "flush", &ask, show_flush);
}
