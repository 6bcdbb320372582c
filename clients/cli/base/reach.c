/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/reach.h"

#include "clients/cli/base/field.h"

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

void reach_from_here(struct cli *cli, const char *bound, char ret_endpoint[ENDPOINT_MAX])
{
    /* Replaces a wildcard host by the control endpoint's, or by this machine when that is ipc. */
    size_t length = host_length(cli->rpc->endpoint);
    const char *host = length > 0 ? cli->rpc->endpoint + 6 : "127.0.0.1";
    if (length == 0) {
        length = strlen(host);
    }
    if (is_wildcard(bound)) {
        snprintf(ret_endpoint, ENDPOINT_MAX, "tcp://%.*s%s", (int)length, host,
                 strrchr(bound, ':'));
    } else {
        snprintf(ret_endpoint, ENDPOINT_MAX, "%s", bound);
    }
}

void reach_directory(const struct cli *cli, char ret_directory[ENDPOINT_MAX])
{
    static const char ipc[] = "ipc://";
    const char *path = cli->rpc->endpoint + strlen(ipc);
    const char *end = strrchr(cli->rpc->endpoint, '/');
    int length = strncmp(cli->rpc->endpoint, ipc, strlen(ipc)) == 0 ? (int)(end - path) : 0;
    snprintf(ret_directory, ENDPOINT_MAX, "%.*s", length > 0 ? length : 0, path);
}

int reach_endpoint(struct cli *cli, enum address_socket which, char ret_endpoint[ENDPOINT_MAX])
{
    char directory[ENDPOINT_MAX], reason[ADDRESS_REASON_MAX];
    if (cli->args->endpoint) {
        struct rpc_reply reply;
        char key[32], bound[ENDPOINT_MAX];
        int code = cli_call(cli, "config", NULL, &reply);
        if (code != CLI_OK) {
            return code;
        }
        snprintf(key, sizeof key, "%s.endpoint", address_socket_name[which]);
        field_text(reply.result, key, bound, sizeof bound);
        rpc_reply_clear(&reply);
        size_t length = strlen(bound);
        ret_endpoint[0] = '\0';
        if (length > 0 && bound[length - 1] != '*') {
            reach_from_here(cli, bound, ret_endpoint);
        }
        return CLI_OK;
    }
    reach_directory(cli, directory);
    const char *address = *directory ? directory : cli->args->address;
    if (address_endpoint(address, which, ret_endpoint, reason) != 0) {
        return cli_usage(cli, "address %s", reason);
    }
    return cli_check_entry(cli, ret_endpoint);
}
