/* SPDX-License-Identifier: MIT */
#include "reach.h"

#include "field.h"

#include <string.h>

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

/* Replaces a wildcard host by the control endpoint's, or by this machine when that is ipc. */
static void reachable(const char *bound, const char *control, char ret_endpoint[ENDPOINT_MAX])
{
    size_t length = host_length(control);
    const char *host = length > 0 ? control + 6 : "127.0.0.1";
    if (length == 0)
        length = strlen(host);
    if (is_wildcard(bound))
        snprintf(ret_endpoint, ENDPOINT_MAX, "tcp://%.*s%s", (int)length, host,
                 strrchr(bound, ':'));
    else
        snprintf(ret_endpoint, ENDPOINT_MAX, "%s", bound);
}

int reach_endpoint(struct cli *cli, const char *key, char ret_endpoint[ENDPOINT_MAX])
{
    struct rpc_reply reply;
    char bound[ENDPOINT_MAX];
    int code = cli_call(cli, "config", NULL, &reply);
    if (code != CLI_OK)
        return code;
    field_text(reply.result, key, bound, sizeof(bound));
    rpc_reply_clear(&reply);
    size_t length = strlen(bound);
    ret_endpoint[0] = '\0';
    if (length > 0 && bound[length - 1] != '*')
        reachable(bound, cli->args->endpoint, ret_endpoint);
    return CLI_OK;
}
