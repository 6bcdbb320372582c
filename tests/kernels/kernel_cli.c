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
 * can be asked for here. Numbers are printed with 17 digits; NaN and Infinity in Python's spelling.
 */
#include "tests/kernels/cli.h"
#include "workers/base/attention.h"
#include "workers/rows/block.h"
#include "workers/stats/dist.h"
#include "proto/metric.h"
#include "proto/pattern.h"
#include "workers/linear/spectrum.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *weights_path, *mask_path, *tokens_path, *documents_path;
    struct list shape, q_len, k_len, cuts;
    uint32_t offset;
    bool spectrum, dump;
    enum isa isa;
    struct attention a;
    struct block_plan plan;
    struct map_pool pool;
};

static void parse_groups(const char *text, struct block_plan *plan)
{
    plan->group[METRIC_GROUP_CORE] = strchr(text, 'c') != NULL;
    plan->group[METRIC_GROUP_IMPORTANCE] = strchr(text, 'i') != NULL;
    plan->group[METRIC_GROUP_PAIRS] = strchr(text, 'p') != NULL;
}

/* Returns whether the key is a number or a flag. */
static bool parse_scalar(struct options *o, const char *key, const char *value)
{
    const struct setting table[] = {
        {"self", &o->a.self, NULL},         {"causal", &o->a.causal, NULL},
        {"dropout", &o->a.dropout, NULL},   {"learned_sink", &o->a.learned_sink, NULL},
        {"spectrum", &o->spectrum, NULL},   {"dump", &o->dump, NULL},
        {"maps", &o->plan.maps, NULL},      {"window", NULL, &o->a.window},
        {"q_offset", NULL, &o->a.q_offset}, {"local_window", NULL, &o->plan.local_window},
        {"offset", NULL, &o->offset},       {"top_pairs", NULL, &o->plan.top_pairs},
        {"q_stride", NULL, &o->a.q_stride},
    };
    return parse_setting(table, sizeof table / sizeof table[0], key, value);
}

/* Returns whether the key is a path. */
static bool parse_path(struct options *o, const char *key, const char *value)
{
    struct {
        const char *key;
        const char **path;
    } table[] = {
        {"weights", &o->weights_path},
        {"mask", &o->mask_path},
        {"tokens", &o->tokens_path},
        {"documents", &o->documents_path},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) == 0) {
            *table[i].path = value;
            return true;
        }
    }
    return false;
}

/* Returns whether the key is a list. */
static bool parse_list_option(struct options *o, const char *key, const char *value)
{
    struct {
        const char *key;
        struct list *list;
    } table[] = {
        {"shape", &o->shape}, {"q_len", &o->q_len}, {"k_len", &o->k_len}, {"cuts", &o->cuts}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) == 0) {
            parse_list(value, table[i].list);
            return true;
        }
    }
    return false;
}

static void kernel_cli_parse_option(struct options *o, const char *key, const char *value)
{
    if (strcmp(key, "dtype") == 0) {
        o->a.dtype = parse_dtype(value);
    } else if (strcmp(key, "groups") == 0) {
        parse_groups(value, &o->plan);
    } else if (strcmp(key, "isa") == 0) {
        o->isa = parse_isa(value);
    } else if (!parse_path(o, key, value) && !parse_list_option(o, key, value) &&
               !parse_scalar(o, key, value)) {
        die("unknown option");
    }
}

static void kernel_cli_parse_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            die("not key=value");
        }
        *value = '\0';
        kernel_cli_parse_option(o, argv[i], value + 1);
    }
    if (!o->weights_path || o->shape.count != 4) {
        die("weights and shape are needed");
    }
}

/* Prints the pattern of each head, by the numbers of all metrics; and the share of sinks among the
 * heads. */
static void print_patterns(double *const value[METRIC_COUNT], uint32_t heads)
{
    printf("\"patterns\":[");
    for (uint32_t h = 0; h < heads; h++) {
        double one[METRIC_COUNT];
        for (uint32_t m = 0; m < METRIC_COUNT; m++) {
            one[m] = value[m][h];
        }
        const char *name = pattern_name[pattern_of(one)];
        printf("%s\"%s\"", h > 0 ? "," : "", name ? name : "none");
    }
    printf("],\"sink_rate\":");
    print_number(pattern_sink_rate(value[METRIC_FIRST_TOKEN], heads));
    printf(",\n");
}

static void kernel_cli_print_values(const struct block *block)
{
    double *value[METRIC_COUNT] = {NULL};
    printf("\"values\":{");
    double *memory = must_have(malloc((size_t)METRIC_COUNT * block->heads * sizeof *memory));
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = memory + (size_t)m * block->heads;
        for (uint32_t h = 0; h < block->heads; h++) {
            value[m][h] = -12345; /* must be overwritten or stay, by the plan */
        }
    }
    block_values(block, value);
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        printf("%s\"%s\":", m > 0 ? "," : "", metric_info[m].name);
        print_array(value[m], block->heads);
    }
    printf("},\n");
    print_patterns(value, block->heads);
    free(memory);
}

static void print_dist(const struct dist *d)
{
    static const double q[] = {0, 0.01, 0.25, 0.5, 0.9, 0.99, 1};
    double quantile[sizeof q / sizeof q[0]];
    for (size_t i = 0; i < sizeof q / sizeof q[0]; i++) {
        quantile[i] = dist_quantile(d, q[i]);
    }
    double moments[] = {moments_mean(&d->moments), moments_variance(&d->moments), d->moments.min,
                        d->moments.max};
    printf("{\"n\":%llu,\"moments\":", (unsigned long long)d->moments.n);
    print_array(moments, 4);
    printf(",\"quantiles\":");
    print_array(quantile, sizeof q / sizeof q[0]);
    printf(",\"hist\":[");
    for (uint32_t i = 0; i < d->hist.used; i++) {
        printf("%s[%d,%u]", i > 0 ? "," : "", d->hist.buckets[i].key, d->hist.buckets[i].count);
    }
    printf("]}");
}

static void print_dists(const struct block *block)
{
    printf("\"dists\":{");
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        printf("%s\"%s\":[", m > 0 ? "," : "", metric_info[m].name);
        for (uint32_t h = 0; h < block->heads; h++) {
            printf(h > 0 ? "," : "");
            print_dist(&block->head[h].row[m]);
        }
        printf("]");
    }
    printf("},\n");
}

static void print_aggregate(const struct block *block)
{
    printf("\"aggregate\":[");
    for (uint32_t i = 0; i < BLOCK_MAPS; i++) {
        printf(i > 0 ? "," : "");
        double stat[MAP_STAT_COUNT];
        block_map_stats(&block->map[i], stat);
        print_array(stat, MAP_STAT_COUNT);
    }
    printf("],\n");
}

static void kernel_cli_print_pairs(const struct block *block)
{
    printf("\"pairs\":[");
    for (uint32_t i = 0; i < block->pair_count; i++) {
        printf("%s[%u,%u,", i > 0 ? "," : "", block->pairs[i].query, block->pairs[i].key);
        print_number(block->pairs[i].weight);
        printf("]");
    }
    printf("],\n");
}

static void kernel_cli_print_spectrum(const struct attention *a, uint32_t b, uint32_t h,
                                      struct scratch *scratch)
{
    struct spectrum s;
    if (spectrum_compute_ref(a, b, h, scratch, &s) < 0) {
        die("spectrum: out of memory");
    }
    double number[] = {s.spectral_norm, s.condition_number, s.rank, s.effective_rank};
    printf("{\"numbers\":");
    print_array(number, 4);
    printf(",\"values\":");
    print_array(s.singular_values, SINGULAR_VALUES_MAX);
    printf("}");
}

static void kernel_cli_print_spectra(const struct attention *a, struct scratch *scratch)
{
    printf("\"spectra\":[");
    for (uint32_t b = 0; b < a->batch; b++) {
        for (uint32_t h = 0; h < a->heads; h++) {
            printf(b + h > 0 ? "," : "");
            kernel_cli_print_spectrum(a, b, h, scratch);
        }
    }
    printf("],\n");
}

static void kernel_cli_print_weights(const struct attention *a)
{
    double *row = must_have(malloc(a->keys * sizeof *row));
    printf("\"weights\":[");
    for (uint32_t i = 0; i < a->queries; i++) {
        attention_load_row(a, 0, 0, i, row);
        printf(i > 0 ? ",\n" : "");
        print_array(row, a->keys);
    }
    printf("],\n");
    free(row);
}

/* As halves, by their bits. */
static void print_pool(const struct map_pool *pool)
{
    uint16_t *cell = must_have(malloc((size_t)pool->rows * pool->columns * sizeof *cell));
    map_pool_values(pool, cell);
    printf("\"pool\":[");
    for (uint32_t i = 0; i < pool->rows * pool->columns; i++) {
        printf("%s%u", i > 0 ? "," : "", (unsigned)cell[i]);
    }
    printf("],\n");
    free(cell);
}

static void compute_rows(struct block *block, struct options *o, uint32_t begin, uint32_t end,
                         struct scratch *scratch)
{
    block->pool = &o->pool;
    int rc = o->isa == ISA_SCALAR ? block_compute_ref(block, &o->a, begin, end, scratch)
                                  : block_compute(block, &o->a, begin, end, o->isa, scratch);
    if (rc < 0) {
        die("block: out of memory");
    }
}

/* Computes [begin, end) as a block of its own and merges it. */
static void kernel_cli_add_block(struct block *total, struct options *o, uint32_t begin,
                                 uint32_t end, struct scratch *scratch)
{
    struct block part;
    if (block_init(&part, &o->a, &o->plan) < 0) {
        die("block: out of memory");
    }
    compute_rows(&part, o, begin, end, scratch);
    if (block_merge(total, &part) < 0) {
        die("block: out of memory");
    }
    block_clear(&part);
}

static void kernel_cli_compute(struct block *total, struct options *o, struct scratch *scratch)
{
    if (map_pool_init(&o->pool, &o->a, 0, o->a.queries) < 0) {
        die("map_pool: out of memory");
    }
    if (block_init(total, &o->a, &o->plan) < 0) {
        die("block: out of memory");
    }
    uint32_t begin = 0;
    for (uint32_t i = 0; i < o->cuts.count; i++) {
        uint32_t end = (uint32_t)o->cuts.value[i];
        kernel_cli_add_block(total, o, begin, end, scratch);
        begin = end;
    }
    if (o->cuts.count > 0) {
        kernel_cli_add_block(total, o, begin, o->a.queries, scratch);
    } else {
        compute_rows(total, o, 0, o->a.queries, scratch);
    }
}

static void kernel_cli_report(struct options *o)
{
    struct scratch scratch = {0};
    struct block block;
    kernel_cli_compute(&block, o, &scratch);
    printf("{\"rows\":%llu,\"invalid_rows\":%llu,\"row_sum_error\":",
           (unsigned long long)block.rows, (unsigned long long)block.invalid_rows);
    print_number(block.row_sum_error);
    printf(",\n");
    kernel_cli_print_values(&block);
    print_dists(&block);
    print_aggregate(&block);
    kernel_cli_print_pairs(&block);
    print_pool(&o->pool);
    map_pool_clear(&o->pool);
    if (o->spectrum) {
        kernel_cli_print_spectra(&o->a, &scratch);
    }
    if (o->dump) {
        kernel_cli_print_weights(&o->a);
    }
    printf("\"end\":true}\n");
    block_clear(&block);
    scratch_clear(&scratch);
}

static unsigned char *read_optional(const char *path, size_t bytes, size_t offset)
{
    return path ? read_file(path, bytes, offset) : NULL;
}

static void kernel_cli_set_shape(struct options *o)
{
    struct attention *a = &o->a;
    a->batch = (uint32_t)o->shape.value[0];
    a->heads = (uint32_t)o->shape.value[1];
    a->queries = (uint32_t)o->shape.value[2];
    a->keys = (uint32_t)o->shape.value[3];
    a->q_len = o->q_len.count > 0 ? o->q_len.value : NULL;
    a->k_len = o->k_len.count > 0 ? o->k_len.value : NULL;
}

int main(int argc, char **argv)
{
    struct options o = {.plan = {.maps = true, .top_pairs = 10, .local_window = 8}};
    parse_groups("cip", &o.plan);
    kernel_cli_parse_options(argc, argv, &o);
    kernel_cli_set_shape(&o);
    spectrum_global_init();
    size_t map = (size_t)o.a.queries * o.a.keys, ids = (size_t)o.a.batch * o.a.keys * 4;
    unsigned char *weights = read_optional(
        o.weights_path, o.a.batch * o.a.heads * map * dtype_size(o.a.dtype), o.offset);
    unsigned char *mask = read_optional(o.mask_path, o.a.batch * map, o.offset);
    unsigned char *tokens = read_optional(o.tokens_path, ids, o.offset);
    unsigned char *documents = read_optional(o.documents_path, ids, o.offset);
    o.a.weights = weights + o.offset;
    o.a.mask = !mask ? NULL : mask + o.offset;
    o.a.tokens = !tokens ? NULL : (const int32_t *)(const void *)(tokens + o.offset);
    o.a.documents = !documents ? NULL : (const int32_t *)(const void *)(documents + o.offset);
    kernel_cli_report(&o);
    free(weights);
    free(mask);
    free(tokens);
    free(documents);
    return 0;
}
