/* SPDX-License-Identifier: MIT */
/* key: makes keys and shows their public halves, which go into access lists and ATTND_SERVER_KEY;
 * lists the keys that attnd knows. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <string.h>

static int show_keys(struct cli *cli, const msgpack_object *result)
{
    static const char *const texts[] = {"name", "public_key", "role", "jobs"};
    struct out_table table;
    out_begin(&table, "NAME|PUBLIC KEY|ROLE|JOBS|CONNECTED|REFUSED");
    for (uint32_t i = 0; i < mpk_items(result); i++) {
        const msgpack_object *key = field_at(result, i);
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            out_text(&table, key, texts[k], 0);
        }
        const msgpack_object *at = mpk_find(key, "connected_at");
        char where[2][16] = {"-", ""}; /* attnd's address has one other at most */
        for (uint32_t k = 0; k < mpk_items(at) && k < 2; k++) {
            field_show(field_at(at, k), where[k], sizeof where[k]);
        }
        out_cell(&table, "%s%s%s", where[0], *where[1] ? ", " : "", where[1]);
        out_count(&table, key, "refused");
    }
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}

static int list_keys(struct cli *cli)
{
    struct ask ask;
    ask_init(&ask);
    return cli_show(cli, "keys", &ask, show_keys, NULL);
}

int cmd_key(struct cli *cli)
{
    const char *word = cli->args->words[1], *path = cli->args->words[2];
    char public[KEY_LENGTH + 1] = "", secret[KEY_LENGTH + 1], reason[KEY_REASON_MAX];
    bool is_new = strcmp(word, "new") == 0, is_list = strcmp(word, "list") == 0;
    bool is_show = strcmp(word, "show") == 0;
    if ((is_new || is_show) && !path) {
        return cli_usage(cli, "key %s: which FILE?", word);
    }
    if ((!is_new && !is_list && !is_show) || is_list == !!path ||
        (is_new && strcmp(path, "-") == 0)) {
        return cli_usage(cli, "key '%.80s': no such thing to do (valid: new FILE, show FILE, list)",
                         word);
    }
    if (is_list) {
        return cli_run_connected(cli, list_keys);
    }
    if (is_new ? zmq_curve_keypair(public, secret) || key_write(path, public, secret, reason)
               : key_read(path, secret, reason) || zmq_curve_public(public, secret)) {
        return cli_fail(cli, CLI_USAGE, "%s",
                        zmq_has("curve") ? reason : "this libzmq has no keys (CURVE)");
    }
    explicit_bzero(secret, sizeof secret);
    fprintf(cli->out, cli->args->given & ARGS_JSON ? "{\"public_key\": \"%s\"}\n" : "%s\n", public);
    return CLI_OK;
}
