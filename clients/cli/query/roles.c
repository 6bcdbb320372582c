/* SPDX-License-Identifier: MIT */
/* roles: what each head does, the number that says so, since when, and what it did before. */
#include "clients/cli/base/cli.h"
#include "clients/cli/base/field.h"
#include "clients/cli/base/out.h"

#include <inttypes.h>

int show_roles(struct cli *cli, const msgpack_object *result)
{
    const msgpack_object *heads = mpk_find(result, "heads");
    const char *unit = mpk_is_str(mpk_find(result, "unit"), "epoch") ? "epoch" : "step";
    struct out_table table;
    out_begin(&table, "HEAD|ROLE|EVIDENCE|SINCE|WINDOWS|BEFORE|CHANGES");
    for (uint32_t i = 0; i < mpk_items(heads); i++) {
        const msgpack_object *head = field_at(heads, i), *spans = mpk_find(head, "spans");
        const msgpack_object *now = field_at(spans, mpk_items(spans) - 1);
        uint64_t windows = mpk_find_u64(now, "windows");
        out_cell(&table, "%s", FIELD_PLACE(head));
        out_text(&table, head, "role", 0);
        out_number(&table, mpk_find(field_at(mpk_find(head, "evidence"), 0), "value"));
        out_cell(&table, "%s %" PRIu64 "%s", unit, mpk_find_u64(mpk_find(now, "since"), unit),
                 mpk_pairs(mpk_find(head, "emerged")) > 0 ? "" : " or before");
        out_cell(&table, "%" PRIu64 "/%" PRIu64, windows, windows + mpk_find_u64(now, "others"));
        out_text(&table, field_at(spans, mpk_items(spans) - 2), "role", 0);
        out_count(&table, head, "changes");
    }
    out_print(&table, cli->width, true, cli->out);
    return CLI_OK;
}
