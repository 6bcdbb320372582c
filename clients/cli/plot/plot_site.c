/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/plot_site.h"

#include <stdio.h>

static const struct layer_id sites[] = {
    {STACK_ENCODER, 0, SITE_SELF},
    {STACK_ENCODER, 0, SITE_CROSS},
    {STACK_DECODER, 0, SITE_SELF},
    {STACK_DECODER, 0, SITE_CROSS},
};
enum { SITES = sizeof(sites) / sizeof(sites[0]) };

bool plot_site_is_same(struct layer_id a, struct layer_id b)
{
    return a.stack == b.stack && a.site == b.site;
}

static bool is_there(const struct plot *plot, struct layer_id id)
{
    for (size_t i = 0; i < plot->layer_count; i++)
        if (plot_site_is_same(plot->layers[i].id, id))
            return true;
    return false;
}

/* Those that a text means, "" = all: as a list, and how many. */
static int collect(const struct plot *plot, const char *text, bool self_only,
                   struct layer_id *ret_last, char *ret_list, size_t size)
{
    size_t used = 0;
    int count = 0;
    *ret_list = '\0';
    for (int i = 0; i < SITES; i++) {
        /* Numbers are no part of a site. */
        struct layer_id unnumbered = {sites[i].stack, UINT32_MAX, sites[i].site};
        if (!is_there(plot, sites[i]) || !plot_layer_matches(text, unnumbered) ||
            (self_only && sites[i].site != SITE_SELF))
            continue;
        used += (size_t)snprintf(ret_list + used, size - used, "%s%s.%s", count > 0 ? ", " : "",
                                 stack_name(sites[i].stack), site_name(sites[i].site));
        *ret_last = sites[i];
        count++;
    }
    return count;
}

int plot_site_find(struct plot *plot, bool self_only, struct layer_id *ret_id)
{
    const char *text = plot->options.site;
    struct layer_id last;
    char list[80];
    int count = collect(plot, text, self_only, &last, list, sizeof(list));
    if (count > 1)
        return plot_fail(plot, CLI_USAGE, "--site: '%.80s' may be any of %s: say which", text,
                         list);
    if (count == 1) {
        *ret_id = last;
        return CLI_OK;
    }
    collect(plot, "", self_only, &last, list, sizeof(list));
    return plot_fail(plot, CLI_USAGE, "--site: there is no '%.80s' (valid: %s)", text, list);
}
