/* SPDX-License-Identifier: MIT */
/* One list, err.def, gives the codes (err.h) and the two texts below; nothing else names an error.
 */
#include "proto/err.h"

#include <stddef.h>

static const struct {
    const char *slug, *text;
} errors[ERR_COUNT] = {
#define ERR(number, symbol, slug, text) [number] = {slug, text},
#include "proto/err.def"
#undef ERR
};

int err_index(int code)
{
    if (code > ERR_BASE || code <= ERR_BASE - ERR_COUNT) {
        return -1;
    }
    return ERR_BASE - code;
}

const char *err_slug(int code)
{
    int index = err_index(code);
    return index < 0 ? "unknown" : errors[index].slug;
}

const char *err_text(int code)
{
    int index = err_index(code);
    return index < 0 ? "unknown" : errors[index].text;
}
