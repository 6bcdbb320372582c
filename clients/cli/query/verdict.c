/* SPDX-License-Identifier: MIT */
/* verdict: what is wrong in a run, or how many checks have passed and what the others need. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>
#include <string.h>

#define SENTENCE_MAX 1024

/* A line for each rule that had nothing to judge. */
static void verdict_print_needs(struct cli *cli, const msgpack_object *unjudged)
{
    struct rpc_reply reply;
    struct ask ask;
    ask_init(&ask);
    ask_text(&ask, "job", cli->args->words[1]);
    bool known = ask_call(cli->rpc, "rules", &ask, &reply) == RPC_OK;
    for (uint32_t i = 0; i < mpk_items(unjudged); i++) {
        char needs[256] = "", text[SENTENCE_MAX];
        const char *name = FIELD_VALUE(field_at(unjudged, i));
        for (uint32_t r = 0; known && r < mpk_items(reply.result); r++) {
            const msgpack_object *rule = field_at(reply.result, r);
            if (mpk_is_str(mpk_find(rule, "name"), name)) {
                field_text(rule, "needs", needs, sizeof needs);
            }
        }
        snprintf(text, sizeof text, "%s%s%s", name, needs[0] ? ": " : "", needs);
        fputs("  ", cli->out);
        text_wrap(text, 2, 4, cli->out);
    }
    if (known) {
        rpc_reply_clear(&reply);
    }
}

const char *verdict_unjudged(bool ended, bool any_rule)
{
    return !any_rule ? "No rule is in force: alerts are switched off, or none is of this job"
           : ended   ? "The run ended before the first check, which comes with the first capture"
                     : "Not monitoring yet: the first check comes with the first capture";
}

void verdict_print_unmeasured(struct cli *cli, const char *whose, const msgpack_object *layers)
{
    enum { NAMED = 4 };
    uint32_t count = mpk_items(layers);
    char text[SENTENCE_MAX];
    int used = snprintf(text, sizeof text, "%.160sNo numbers came in the last captures of", whose);
    for (uint32_t i = 0; i < count && i < NAMED; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, "%s %.71s", i ? "," : "",
                         FIELD_VALUE(field_at(layers, i)));
    }
    if (count > NAMED) {
        snprintf(text + used, sizeof text - (size_t)used, " and %" PRIu32 " more layer%s",
                 count - NAMED, out_plural(count - NAMED));
    }
    if (count > 0) {
        text_wrap(text, 0, 0, cli->out);
    }
}

static void verdict_print_well(struct cli *cli, const msgpack_object *result, bool brief)
{
    const msgpack_object *checks = mpk_find(result, "checks"),
                         *unjudged = mpk_find(checks, "unjudged");
    uint64_t passed = mpk_find_u64(checks, "judged");
    uint32_t others = mpk_items(unjudged);
    bool ended = field_is_over(result);
    char text[SENTENCE_MAX];
    verdict_print_unmeasured(cli, "", mpk_find(checks, "unmeasured"));
    if (!mpk_find(checks, "judged")) { /* a run that is only in the history */
        fputs(brief ? "No alerts\n" : "", cli->out);
        return;
    }
    if (passed == 0) {
        fprintf(cli->out, "%s\n", verdict_unjudged(ended, others > 0));
        return;
    }
    int used = snprintf(text, sizeof text, "%s%" PRIu64 " check%s passed",
                        brief ? "No alerts: " : "", passed, out_plural(passed));
    if (others > 0) {
        used += snprintf(text + used, sizeof text - (size_t)used, "; %" PRIu32 " not measured%s",
                         others, brief ? "" : ":");
    }
    for (uint32_t i = 0; i < others && brief && used < (int)sizeof text - 80; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, "%s %.71s", i ? "," : ":",
                         FIELD_VALUE(field_at(unjudged, i)));
    }
    text_wrap(text, 0, 0, cli->out);
    if (others > 0 && !brief) {
        verdict_print_needs(cli, unjudged);
    }
}

bool verdict_print(struct cli *cli, bool brief)
{
    struct rpc_reply reply;
    struct ask ask;
    ask_job(&ask, cli->args);
    if (ask_call(cli->rpc, "verdict", &ask, &reply) != RPC_OK) {
        return false;
    }
    const msgpack_object *alerts = mpk_find(reply.result, "alerts");
    bool known = alerts != NULL;
    const char *news = OUT_NEWS(reply.result);
    if (*news) {
        text_wrap(news, 0, 0, cli->out);
    }
    if (mpk_items(alerts) > 0) {
        const msgpack_object *worst = field_at(alerts, 0);
        char more[160] = "", text[SENTENCE_MAX];
        if (mpk_items(alerts) > 1) {
            snprintf(more, sizeof more, "; %" PRIu32 " more: attnctl alerts %.128s",
                     mpk_items(alerts) - 1, cli->args->words[1]);
        }
        snprintf(text, sizeof text, "%s %.79s %s: %s%s", FIELD_TEXT(worst, "severity"),
                 FIELD_TEXT(worst, "rule"), FIELD_SINCE(worst), FIELD_TEXT(worst, "message"), more);
        text_wrap(text, 0, 0, cli->out);
        verdict_print_unmeasured(cli, "", mpk_find(mpk_find(reply.result, "checks"), "unmeasured"));
    } else if (known) {
        verdict_print_well(cli, reply.result, brief);
    }
    rpc_reply_clear(&reply);
    return known;
}
