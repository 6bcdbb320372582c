/* SPDX-License-Identifier: MIT */
/* kernel_cli: runs the kernels on one tensor and prints everything they found as JSON.
 *
 * For test_against_numpy.py, which owns the truth; nothing is checked here beyond what would crash.
 *
 *     kernel_cli weights=FILE dtype=f32 shape=B,H,Tq,Tk [self=1] [causal=1] [window=W]
 *                [q_offset=N] [q_stride=N] [q_len=n,...] [k_len=n,...] [mask=FILE] [documents=FILE]
 *                [tokens=FILE] [dropout=1] [learned_sink=1] [maps=1] [local_window=W] [top_pairs=K]
 *                [cuts=row,...] [groups=cip] [spectrum=1] [offset=BYTES] [dump=1] [isa=NAME]
 *     kernel_cli isa=list
 *
 * cuts: the rows where a new block begins; the blocks are merged in the order of their rows.
 * groups: c(ore), i(mportance), p(airs). offset: misalignment of the tensors in memory. dump: the
 * weights of sample 0, head 0, as they were loaded. isa: which kernels; `list` prints those that
 * can be asked for here. */
#include "tests/kernels/cli.h"
#include "workers/rows/block.h"
#include "proto/metric.h"
#include "proto/pattern.h"

#include <stdlib.h>
#include <string.h>

struct options {
    struct input in;
    char *weights;
    bool spectrum, dump;
    enum isa isa;
    struct block_plan plan;
    struct map_pool pool;
};

static void parse_groups(char *value, void *ret)
{
    struct block_plan *plan = ret;
    plan->group[METRIC_GROUP_CORE] = strchr(value, 'c') != NULL;
    plan->group[METRIC_GROUP_IMPORTANCE] = strchr(value, 'i') != NULL;
    plan->group[METRIC_GROUP_PAIRS] = strchr(value, 'p') != NULL;
}

/* Prints the pattern of each head, by the numbers of all metrics; and the share of sinks among the
 * heads. */
static void print_patterns(double *const value[METRIC_COUNT], uint32_t heads)
{
    json_open("patterns", '[');
    for (uint32_t h = 0; h < heads; h++) {
        double one[METRIC_COUNT];
        for (uint32_t m = 0; m < METRIC_COUNT; m++) {
            one[m] = value[m][h];
        }
        const char *name = pattern_name[pattern_of(one)];
        json_text(NULL, name ? name : "none");
    }
    json_close(']');
    json_number("sink_rate", pattern_sink_rate(value[METRIC_FIRST_TOKEN], heads));
}

static void kernel_cli_print_values(const struct block *block)
{
    double *value[METRIC_COUNT] = {NULL};
    double *memory = must_have(malloc((size_t)METRIC_COUNT * block->heads * sizeof *memory));
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = memory + (size_t)m * block->heads;
        for (uint32_t h = 0; h < block->heads; h++) {
            value[m][h] = -12345; /* must be overwritten or stay, by the plan */
        }
    }
    block_values(block, value);
    json_open("values", '{');
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        json_numbers(metric_info[m].name, value[m], block->heads);
    }
    json_close('}');
    print_patterns(value, block->heads);
    free(memory);
}

static void print_dist(const struct dist *d)
{
    static const double q[] = {0, 0.01, 0.25, 0.5, 0.9, 0.99, 1};
    enum { COUNT = sizeof q / sizeof q[0] };
    double quantile[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        quantile[i] = dist_quantile(d, q[i]);
    }
    double moments[] = {moments_mean(&d->moments), moments_variance(&d->moments), d->moments.min,
                        d->moments.max};
    json_open(NULL, '{');
    json_integer("n", (int64_t)d->moments.n);
    json_numbers("moments", moments, 4);
    json_numbers("quantiles", quantile, COUNT);
    json_open("hist", '[');
    for (uint32_t i = 0; i < d->hist.used; i++) {
        json_open(NULL, '[');
        json_integer(NULL, d->hist.buckets[i].key);
        json_integer(NULL, d->hist.buckets[i].count);
        json_close(']');
    }
    json_close(']');
    json_close('}');
}

static void print_dists(const struct block *block)
{
    json_open("dists", '{');
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        json_open(metric_info[m].name, '[');
        for (uint32_t h = 0; h < block->heads; h++) {
            print_dist(&block->head[h].row[m]);
        }
        json_close(']');
    }
    json_close('}');
}

static void print_aggregate(const struct block *block)
{
    json_open("aggregate", '[');
    for (uint32_t i = 0; i < BLOCK_MAPS; i++) {
        double stat[MAP_STAT_COUNT];
        block_map_stats(&block->map[i], stat);
        json_numbers(NULL, stat, MAP_STAT_COUNT);
    }
    json_close(']');
}

static void kernel_cli_print_spectra(const struct attention *a, struct scratch *scratch)
{
    json_open("spectra", '[');
    for (uint32_t b = 0; b < a->batch; b++) {
        for (uint32_t h = 0; h < a->heads; h++) {
            struct spectrum s;
            must(spectrum_compute_ref(a, b, h, scratch, &s));
            json_spectrum(NULL, &s);
        }
    }
    json_close(']');
}

static void kernel_cli_print_weights(const struct attention *a)
{
    double *row = must_have(malloc(a->keys * sizeof *row));
    json_open("weights", '[');
    for (uint32_t i = 0; i < a->queries; i++) {
        attention_load_row(a, 0, 0, i, row);
        json_numbers(NULL, row, a->keys);
    }
    json_close(']');
    free(row);
}

/* As halves, by their bits. */
static void print_pool(const struct map_pool *pool)
{
    uint16_t *cell = must_have(malloc((size_t)pool->rows * pool->columns * sizeof *cell));
    map_pool_values(pool, cell);
    json_open("pool", '[');
    for (uint32_t i = 0; i < pool->rows * pool->columns; i++) {
        json_integer(NULL, cell[i]);
    }
    json_close(']');
    free(cell);
}

static void compute_rows(struct block *block, struct options *o, uint32_t begin, uint32_t end,
                         struct scratch *scratch)
{
    block->pool = &o->pool;
    must(o->isa == ISA_SCALAR ? block_compute_ref(block, &o->in.a, begin, end, scratch)
                              : block_compute(block, &o->in.a, begin, end, o->isa, scratch));
}

/* Without cuts there is nothing to merge. */
static void kernel_cli_compute(struct block *total, struct options *o, struct scratch *scratch)
{
    const struct input *in = &o->in;
    must(map_pool_init(&o->pool, &in->a, 0, in->a.queries));
    must(block_init(total, &in->a, &o->plan));
    if (in->cuts.count == 0) {
        compute_rows(total, o, 0, in->a.queries, scratch);
        return;
    }
    for (uint32_t i = 0; i <= in->cuts.count; i++) {
        struct block part;
        must(block_init(&part, &in->a, &o->plan));
        compute_rows(&part, o, input_cut(in, i), input_cut(in, i + 1), scratch);
        must(block_merge(total, &part));
        block_clear(&part);
    }
}

int main(int argc, char **argv)
{
    static struct options o = {.plan = {.group = {[METRIC_GROUP_CORE] = true,
                                                  [METRIC_GROUP_IMPORTANCE] = true,
                                                  [METRIC_GROUP_PAIRS] = true},
                                        .maps = true,
                                        .top_pairs = 10,
                                        .local_window = 8}};
    struct attention *a = &o.in.a;
    const struct option options[] = {
        {"weights", parse_text, &o.weights},
        {"dtype", parse_dtype, &a->dtype},
        {"isa", parse_isa, &o.isa},
        {"groups", parse_groups, &o.plan},
        {"maps", parse_flag, &o.plan.maps},
        {"local_window", parse_number, &o.plan.local_window},
        {"top_pairs", parse_number, &o.plan.top_pairs},
        {"spectrum", parse_flag, &o.spectrum},
        {"dump", parse_flag, &o.dump},
    };
    struct scratch scratch = {0};
    struct block block;
    parse_options(argc, argv, &o.in, options, sizeof options / sizeof options[0]);
    input_read(&o.in);
    size_t entries = (size_t)a->batch * a->heads * a->queries * a->keys;
    a->weights = read_tensor(o.weights, entries * dtype_size(a->dtype), o.in.offset);
    if (!a->weights) {
        die("weights are needed");
    }
    spectrum_global_init();
    kernel_cli_compute(&block, &o, &scratch);
    json_open(NULL, '{');
    json_integer("rows", (int64_t)block.rows);
    json_integer("invalid_rows", (int64_t)block.invalid_rows);
    json_number("row_sum_error", block.row_sum_error);
    kernel_cli_print_values(&block);
    print_dists(&block);
    print_aggregate(&block);
    json_pairs("pairs", block.pairs, block.pair_count);
    print_pool(&o.pool);
    map_pool_clear(&o.pool);
    if (o.spectrum) {
        kernel_cli_print_spectra(a, &scratch);
    }
    if (o.dump) {
        kernel_cli_print_weights(a);
    }
    json_close('}');
    block_clear(&block);
    scratch_clear(&scratch);
    return 0;
}
