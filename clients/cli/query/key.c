/* SPDX-License-Identifier: MIT */
/* key: makes keys and shows their public halves, which go into access lists and ATTND_SERVER_KEY.
 */
#include "clients/cli/base/cli.h"

#include <string.h>

int cmd_key(struct cli *cli)
{
    const char *word = cli->args->words[1], *path = cli->args->words[2];
    char public[KEY_LENGTH + 1] = "", secret[KEY_LENGTH + 1], reason[KEY_REASON_MAX];
    bool is_new = strcmp(word, "new") == 0;
    if (!is_new && strcmp(word, "show") != 0) {
        return cli_usage(cli, "key '%.80s': no such thing to do (valid: new, show)", word);
    }
    if ((is_new ? zmq_curve_keypair(public, secret) : key_read(path, secret, reason)) != 0 ||
        (is_new ? key_write(path, public, secret, reason) : zmq_curve_public(public, secret)) !=
            0) {
        return cli_fail(cli, CLI_USAGE, "%s",
                        zmq_has("curve") ? reason : "this libzmq has no keys (CURVE)");
    }
    explicit_bzero(secret, sizeof secret);
    bool json = cli->args->given & ARGS_JSON;
    fprintf(cli->out, json ? "{\"public_key\": \"%s\"}\n" : "%s\n", public);
    return CLI_OK;
}
