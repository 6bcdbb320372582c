/* SPDX-License-Identifier: MIT */
#include "clients/cli/plot/measures.h"

#include <inttypes.h>

#define BLOCK_ENTRIES 1048576
#define LOCAL_WINDOW  8

/* Values have been f32 since they were read, but may have been sent with fewer digits: then rows do
 * not sum to 1 as closely as the engine wants it of f32, and their sums are not asked for. */
struct attention measures_attention(const struct source_layer *layer, const float *values)
{
    return (struct attention){
        .weights = values,
        .dtype = DTYPE_F32,
        .batch = 1,
        .heads = layer->heads,
        .queries = layer->rows,
        .keys = layer->columns,
        .self = layer->id.site == SITE_SELF,
        .q_offset = layer->q_offset,
        .causal = layer->causal,
        .dropout = layer->tolerance > attention_tolerance(DTYPE_F32),
    };
}

int measures_check(struct plot *plot, size_t layer, const char *what)
{
    const struct source_layer *of = &plot->layers[layer];
    if (of->rows == of->queries && of->columns == of->keys)
        return CLI_OK;
    return plot_fail(plot, CLI_FINDING,
                     "%s needs whole maps, and attnd keeps these pooled to %" PRIu32 " x %" PRIu32
                     ": raise maps.size to %" PRIu32 " or more, or draw from a file or a recording",
                     what, of->rows, of->columns, of->queries > of->keys ? of->queries : of->keys);
}

static int run_all(struct measure *measure)
{
    struct scratch scratch = {0};
    for (uint32_t i = 0; i < measure_jobs(measure); i++)
        measure_run(measure, i, &scratch);
    int rc = measure_finish(measure, &scratch);
    scratch_clear(&scratch);
    return rc;
}

int measures_run(struct plot *plot, const struct attention *attention, enum metric_group group,
                 struct measure **ret_measure)
{
    struct measure_plan plan = {
        .whole = true,
        .threads = 1,
        .top_pairs = 1,
        .local_window = LOCAL_WINDOW,
        .spectrum_max_size = UINT32_MAX,
        .spectrum_effort = SPECTRUM_LEADING,
        .block_entries = BLOCK_ENTRIES,
        .isa = isa_best(),
    };
    struct measure *measure = NULL;
    plan.group[group] = true;
    int rc = measure_new(attention, &plan, &measure);
    if (rc == 0)
        rc = run_all(measure);
    if (rc == 0)
        *ret_measure = measure;
    else
        measure_free(&measure);
    return rc == 0 ? CLI_OK : plot_fail_memory(plot);
}
