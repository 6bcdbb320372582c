/* SPDX-License-Identifier: MIT */
#include "config/names.h"

#include <assert.h>
#include <string.h>

unsigned names_distance(const char *a, const char *b)
{
    unsigned row[32];
    size_t width = strlen(b);
    if (strlen(a) > 31 || width > 31) {
        return 32;
    }
    for (unsigned j = 0; j <= width; j++) {
        row[j] = j;
    }
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[width];
}

void names_add(struct names *names, const char *name)
{
    int written = snprintf(names->list + names->used, sizeof names->list - names->used, "%s%s",
                           names->used ? ", " : "", name);
    names->used += (size_t)written;
    assert(names->used < sizeof names->list);
    unsigned distance = names_distance(names->wanted, name);
    if (distance < names->distance) {
        names->distance = distance;
        names->closest = name;
    }
}

const char *names_guess(const struct names *names, char ret_text[64])
{
    bool close = names->distance <= 2 && names->distance < strlen(names->wanted);
    snprintf(ret_text, 64, close ? "; did you mean %s?" : "%.0s", close ? names->closest : "");
    return ret_text;
}
