/* SPDX-License-Identifier: MIT */
#include "clients/c/src/bounds.h"

#include "clients/c/src/plan.h"

#include <string.h>

#define BOUNDS_PREFIX    "limits/"
#define BOUNDS_BYTES_MAX 1024

/* The types that are sent to a daemon that does not say which it accepts. */
static const unsigned types_unsaid =
    1u << MESSAGE_ATTENTION | 1u << MESSAGE_QK | 1u << MESSAGE_WEIGHTS | 1u << MESSAGE_EVENT;

/* Keys that are not known say something to newer clients. */
static bool bounds_setting(struct span setting, struct bounds *bounds, unsigned *types)
{
    struct span key, type;
    if (setting.len == 0) {
        return true;
    }
    if (!memchr(setting.at, '=', setting.len) || !plan_next_part(&setting, '=', &key)) {
        return false;
    }
    if (plan_word_is(key, "accepts")) {
        *types = 0;
        while (plan_next_part(&setting, ',', &type)) {
            for (unsigned i = MESSAGE_ATTENTION; i <= MESSAGE_EVENT; i++) {
                if (plan_word_is(type, message_type_name((enum message_type)i))) {
                    *types |= 1u << i;
                }
            }
        }
    }
    /* Each, and what it may have at most: the smaller number is kept. */
    const struct {
        const char *key;
        uint64_t *number, most;
    } numbers[] = {{"header", &bounds->header, bounds->header},
                   {"max_message", &bounds->max_message, bounds->max_message},
                   {"max_entries", &bounds->max_entries, bounds->max_entries},
                   {"max_heads", &bounds->max_heads, bounds->max_heads}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (plan_word_is(key, numbers[i].key)) {
            uint64_t value = 0;
            bool good = plan_read_number(setting, UINT64_MAX, &value);
            *numbers[i].number = value < numbers[i].most ? value : numbers[i].most;
            return good;
        }
    }
    return true;
}

static bool bounds_read(const struct prefix *prefix, struct bounds *bounds)
{
    struct span rest = {prefix->text + strlen(BOUNDS_PREFIX), prefix->len - strlen(BOUNDS_PREFIX)};
    struct span setting;
    struct bounds read = *bounds;
    unsigned types = types_unsaid;
    if (prefix->len > BOUNDS_BYTES_MAX) {
        return false;
    }
    while (plan_next_part(&rest, ';', &setting)) {
        if (!bounds_setting(setting, &read, &types)) {
            return false;
        }
    }
    read.accepts &= types;
    *bounds = read;
    return true;
}

struct bounds bounds_of(const struct prefixes *prefixes, uint64_t *ret_malformed)
{
    struct bounds bounds = {.accepts = ~0u,
                            .header = HEADER_REVISION,
                            .max_message = UINT64_MAX,
                            .max_entries = UINT64_MAX,
                            .max_heads = UINT64_MAX};
    bool any = false;

    *ret_malformed = 0;
    for (size_t i = 0; i < prefixes->count; i++) {
        const struct prefix *prefix = &prefixes->items[i];

        if (strncmp(prefix->text, BOUNDS_PREFIX, strlen(BOUNDS_PREFIX)) != 0) {
            continue;
        }
        if (bounds_read(prefix, &bounds)) {
            any = true;
        } else {
            ++*ret_malformed;
        }
    }
    if (!any) {
        bounds.accepts = types_unsaid;
    }
    return bounds;
}

bool bounds_take(const struct bounds *bounds, const struct header *header, uint64_t bytes)
{
    double entries = (double)header->batch * header->heads * header->queries * header->keys;
    return bounds->accepts & 1u << header->type && bytes <= bounds->max_message &&
           (header->type == MESSAGE_EVENT ||
            (header->heads_total <= bounds->max_heads && entries <= (double)bounds->max_entries &&
             bounds->header >= BOUNDS_OLDEST));
}
