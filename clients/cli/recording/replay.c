/* SPDX-License-Identifier: MIT */
/* replay: sends a recording to attnd byte for byte, in its order, over one connection. attnd then
 * sees what it saw: of the same runs with the same sequence numbers. An attnd that still knows a
 * run refuses messages that it has had, which is reported at the end. */
#include "clients/cli/base/cli.h"
#include "clients/cli/recording/feed.h"
#include "clients/cli/base/interrupt.h"
#include "clients/cli/base/out.h"
#include "clients/cli/base/reach.h"

#include <inttypes.h>
#include <stdio.h>

/* Where to -------------------------------------------------------------------------------------
 */

static int find_endpoint(struct cli *cli, char ret_endpoint[ENDPOINT_MAX])
{
    if (cli->args->ingest) {
        snprintf(ret_endpoint, ENDPOINT_MAX, "%s", cli->args->ingest);
        return CLI_OK;
    }
    int code = reach_endpoint(cli, ADDRESS_INGEST, ret_endpoint);
    if (code == CLI_OK && !*ret_endpoint) {
        return cli_usage(cli, "attnd does not say where it takes messages: give --ingest ENDPOINT");
    }
    return code;
}

/* The result -----------------------------------------------------------------------------------
 */

/* Also of what was sent before a record that cannot be read. */
static int replay(struct cli *cli, struct playback *playback, struct sender *sender)
{
    struct feed_counts before, counts;
    int code = feed_count(cli, &before);
    if (code != CLI_OK) {
        return code;
    }
    int failure = feed_send(cli, playback, sender, cli->args->rhythm);
    if (failure != CLI_OK && failure != CLI_USAGE) {
        return failure;
    }
    code = feed_settle(cli, &before, sender->sent, &counts);
    if (code != CLI_OK) {
        return code;
    }
    if (cli->args->given & ARGS_JSON) {
        fprintf(cli->out,
                "{\"sent\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"not_asked_for\": %" PRIu64
                ", \"processed\": %" PRIu64 ", \"dropped\": {",
                sender->sent, sender->bytes, sender->unwanted, counts.processed);
        feed_print_dropped(&counts, true, cli->out);
        fputs("}}\n", cli->out);
    } else {
        char size[OUT_SIZE_MAX];
        out_size(sender->bytes, size);
        fprintf(cli->out,
                "%s: %" PRIu64 " message%s sent, %s; attnd processed %" PRIu64 ", dropped %" PRIu64,
                playback->path, sender->sent, out_plural(sender->sent), size, counts.processed,
                counts.dropped);
        fputs(counts.dropped > 0 ? ": " : "", cli->out);
        feed_print_dropped(&counts, false, cli->out);
        putc('\n', cli->out);
        if (sender->unwanted > 0) {
            fprintf(cli->out, "%" PRIu64 " not sent: attnd does not ask for their topics\n",
                    sender->unwanted);
        }
        if (feed_dropped(&counts, "ended") > 0 || feed_dropped(&counts, "seq_duplicate") > 0) {
            fputs("attnd had these runs already: restart it, or replay to another one\n", cli->out);
        }
    }
    if (failure != CLI_OK) {
        return failure;
    }
    return counts.dropped > 0 ? CLI_FINDING : CLI_OK;
}

int cmd_replay(struct cli *cli)
{
    char endpoint[ENDPOINT_MAX], error[PLAYBACK_ERROR_MAX];
    struct playback playback;
    struct sender sender;
    if (playback_open(cli->args->words[1], &playback, error) != 0) {
        return cli_usage(cli, "%s", error);
    }
    int code = find_endpoint(cli, endpoint);
    interrupt_catch();
    if (code == CLI_OK) {
        code = feed_open(cli, cli->rpc->context, endpoint, &sender);
    }
    if (code == CLI_OK) {
        code = replay(cli, &playback, &sender);
        sender_close(&sender);
    }
    playback_close(&playback);
    return code;
}
