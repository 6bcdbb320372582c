/* SPDX-License-Identifier: MIT */
/* ping, page, config, flush: the daemon itself. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

#define URL_MAX 320

int show_ping(struct cli *cli, const msgpack_object *result)
{
    fprintf(cli->out, "attnd %s at %s, up %s\n", FIELD_TEXT(result, "version"), cli->rpc->endpoint,
            OUT_DURATION(mpk_number(mpk_find(result, "uptime_s"))));
    return CLI_OK;
}

/* The file is read only when attnd answers: one that was killed leaves it behind. */
int cmd_page(struct cli *cli)
{
    struct rpc_reply reply;
    char directory[ADDRESS_MAX], url[URL_MAX] = "";
    int code = cli_call(cli, "config", NULL, &reply);
    if (code != CLI_OK) {
        return code;
    }
    bool enabled = mpk_is_str(mpk_find(reply.result, "http.enabled"), "true");
    reach_directory(cli, directory);
    if (enabled) {
        /* The first line of the file that attnd writes beside its sockets. */
        char path[ADDRESS_MAX + 8];
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
        char endpoint[ADDRESS_MAX];
        reach_from_here(cli, FIELD_TEXT(reply.result, "http.endpoint"), endpoint);
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
        code = cli_print_written(cli, &writer, 2);
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

int show_config(struct cli *cli, const msgpack_object *result)
{
    struct out_table table;
    out_begin(&table, "KEY|VALUE");
    out_pairs(&table, "", result);
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}

/* It is answered when what was received before has been computed, which may take its time. */
int show_flush(struct cli *cli, const msgpack_object *result)
{
    uint64_t windows = mpk_find_u64(result, "windows");
    fprintf(cli->out, "published %" PRIu64 " window%s\n", windows, out_plural(windows));
    return CLI_OK;
}
