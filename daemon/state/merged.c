/* SPDX-License-Identifier: MIT */
#include "daemon/state/merged.h"

#include <stdlib.h>

void merged_free(struct merged **merged_p)
{
    struct merged *merged = *merged_p;
    if (!merged) {
        return;
    }
    for (uint32_t i = 0; i < merged->layer_count; i++) {
        free(merged->layers[i].module);
        layer_state_free(&merged->layers[i].state);
    }
    free(merged->layers);
    free(merged->missing);
    free(merged->ranks);
    free(merged->body);
    free(merged);
    *merged_p = NULL;
}
