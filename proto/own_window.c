/* SPDX-License-Identifier: MIT */
#include "proto/own_window.h"

#include "proto/err.h"

const char *window_unit_name(enum window_unit unit)
{
    static const char *const names[] = {
        [WINDOW_EPOCH] = "epoch", [WINDOW_STEP] = "step", [WINDOW_SECOND] = "second"};
    return names[unit];
}

int own_window_read(const msgpack_object *value, struct own_window *ret_window)
{
    static const char *const names[] = {"unit", "length"};
    const msgpack_object *found[2];
    const char *duplicate;
    uint64_t length;
    unsigned unit = 0;
    int rc = mpk_collect(value, names, 2, found, &duplicate);
    if (rc) {
        return rc;
    }
    if (!found[0] || !found[1]) {
        return ERR_KEY_MISSING;
    }
    if (found[0]->type != MSGPACK_OBJECT_STR) {
        return ERR_KEY_TYPE;
    }
    while (unit < WINDOW_UNIT_COUNT &&
           !mpk_is_str(found[0], window_unit_name((enum window_unit)unit))) {
        unit++;
    }
    if ((rc = mpk_get_u64(found[1], OWN_WINDOW_MAX, &length)) != 0) {
        return rc;
    }
    if (unit == WINDOW_UNIT_COUNT || length == 0) {
        return ERR_KEY_RANGE;
    }
    *ret_window = (struct own_window){.unit = (enum window_unit)unit, .length = length};
    return 0;
}

void own_window_put(const struct own_window *window, struct mpk_writer *writer)
{
    mpk_put_map(writer, 2);
    mpk_pair_str(writer, "unit", window_unit_name(window->unit));
    mpk_pair_u64(writer, "length", window->length);
}
