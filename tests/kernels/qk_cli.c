/* SPDX-License-Identifier: MIT */
/* qk_cli: runs tier `qk` on one message, once per instruction set, and prints what it found as
 * JSON.
 *
 * For test_qk.py, which owns the truth; nothing is checked here beyond what would crash.
 *
 *     qk_cli shape=B,H,Tq,Tk dims=KV_HEADS,HEAD_DIM,VALUE_DIM,WRITTEN_DIM q=FILE k=FILE [v=FILE]
 *            [dout=FILE] [wo_r=FILE] [x_norm=FILE] dtypes=f32,f16,f64,f32 (q, k, v, dout) scale=X
 * [softcap=X] [self=1] [causal=1] [window=W] [q_offset=N] [q_stride=N] [q_len=n,...] [k_len=n,...]
 * [mask=FILE] [documents=FILE] [tokens=FILE] [local_window=W] [core=1] [cuts=row,...]
 * [offset=BYTES] [weights=1] [spectrum=1] isa=NAME,... qk_cli isa=list
 *
 * cuts: the rows where a new block begins. offset: misalignment of all tensors in memory. Numbers
 * are printed with 17 digits; NaN and Infinity in Python's spelling. */
#include "tests/kernels/cli.h"
#include "proto/err.h"
#include "workers/base/isa.h"
#include "proto/metric.h"
#include "workers/qk/qk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum file {
    FILE_Q,
    FILE_K,
    FILE_V,
    FILE_DOUT,
    FILE_WO_R,
    FILE_X_NORM,
    FILE_MASK,
    FILE_DOCUMENTS,
    FILE_TOKENS,
    FILE_COUNT
};
static const char *const file_key[FILE_COUNT] = {"q",      "k",    "v",         "dout",  "wo_r",
                                                 "x_norm", "mask", "documents", "tokens"};

struct options {
    const char *path[FILE_COUNT];
    unsigned char *memory[FILE_COUNT];
    struct list shape, dims, q_len, k_len, cuts;
    char *isa, *dtypes;
    uint32_t offset, weights, spectrum;
    struct attention a;
    struct block_plan plan;
};

static enum dtype next_dtype(char **text)
{
    char *word = strsep(text, ",");
    return parse_dtype(word ? word : "");
}

static bool qk_cli_parse_number(struct options *o, const char *key, const char *value)
{
    struct {
        const char *key;
        bool *flag;
        uint32_t *number;
        double *real;
    } table[] = {
        {"self", &o->a.self, NULL, NULL},
        {"causal", &o->a.causal, NULL, NULL},
        {"core", &o->plan.group[METRIC_GROUP_CORE], NULL, NULL},
        {"window", NULL, &o->a.window, NULL},
        {"q_offset", NULL, &o->a.q_offset, NULL},
        {"q_stride", NULL, &o->a.q_stride, NULL},
        {"local_window", NULL, &o->plan.local_window, NULL},
        {"offset", NULL, &o->offset, NULL},
        {"weights", NULL, &o->weights, NULL},
        {"spectrum", NULL, &o->spectrum, NULL},
        {"scale", NULL, NULL, &o->a.qk.scale},
        {"softcap", NULL, NULL, &o->a.qk.softcap},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) != 0) {
            continue;
        }
        if (table[i].flag) {
            *table[i].flag = strcmp(value, "0") != 0;
        } else if (table[i].number) {
            *table[i].number = (uint32_t)strtoul(value, NULL, 10);
        } else {
            *table[i].real = strtod(value, NULL);
        }
        return true;
    }
    return false;
}

static bool parse_words(struct options *o, const char *key, char *value)
{
    struct {
        const char *key;
        struct list *list;
        char **text;
    } table[] = {
        {"shape", &o->shape, NULL},   {"dims", &o->dims, NULL}, {"q_len", &o->q_len, NULL},
        {"k_len", &o->k_len, NULL},   {"cuts", &o->cuts, NULL}, {"isa", NULL, &o->isa},
        {"dtypes", NULL, &o->dtypes},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) == 0) {
            if (table[i].list) {
                parse_list(value, table[i].list);
            } else {
                *table[i].text = value;
            }
            return true;
        }
    }
    for (size_t i = 0; i < FILE_COUNT; i++) {
        if (strcmp(key, file_key[i]) == 0) {
            o->path[i] = value;
            return true;
        }
    }
    return false;
}

static void qk_cli_parse_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            die("not key=value");
        }
        *value++ = '\0';
        if (!qk_cli_parse_number(o, argv[i], value) && !parse_words(o, argv[i], value)) {
            die("unknown option");
        }
    }
}

/* A file of exactly `bytes` bytes, `offset` bytes into an allocation that ends with it. */
static const void *qk_cli_read_tensor(struct options *o, enum file file, size_t bytes,
                                      size_t offset)
{
    if (!o->path[file]) {
        return NULL;
    }
    o->memory[file] = read_file(o->path[file], bytes, offset);
    return o->memory[file] + offset;
}

static void qk_cli_read_tensors(struct options *o)
{
    struct attention *a = &o->a;
    if (o->shape.count != 4 || o->dims.count != 4 || !o->dtypes) {
        die("shape, dims and dtypes are needed");
    }
    a->batch = (uint32_t)o->shape.value[0];
    a->heads = (uint32_t)o->shape.value[1];
    a->queries = (uint32_t)o->shape.value[2];
    a->keys = (uint32_t)o->shape.value[3];
    a->qk.kv_heads = (uint32_t)o->dims.value[0];
    a->qk.head_dim = (uint32_t)o->dims.value[1];
    a->qk.value_dim = (uint32_t)o->dims.value[2];
    a->qk.written_dim = (uint32_t)o->dims.value[3];
    a->qk.q_dtype = next_dtype(&o->dtypes);
    a->qk.k_dtype = next_dtype(&o->dtypes);
    a->qk.v_dtype = next_dtype(&o->dtypes);
    a->qk.dout_dtype = next_dtype(&o->dtypes);
    a->q_len = o->q_len.count > 0 ? o->q_len.value : NULL;
    a->k_len = o->k_len.count > 0 ? o->k_len.value : NULL;
    size_t b = a->batch, keys = b * a->qk.kv_heads * a->keys;
    size_t q_bytes = b * a->heads * a->queries * a->qk.head_dim * dtype_size(a->qk.q_dtype);
    a->qk.q = qk_cli_read_tensor(o, FILE_Q, q_bytes, o->offset);
    a->qk.k =
        qk_cli_read_tensor(o, FILE_K, keys * a->qk.head_dim * dtype_size(a->qk.k_dtype), o->offset);
    a->qk.v = qk_cli_read_tensor(o, FILE_V, keys * a->qk.value_dim * dtype_size(a->qk.v_dtype),
                                 o->offset);
    size_t rows = b * a->heads * a->queries;
    a->qk.dout = qk_cli_read_tensor(
        o, FILE_DOUT, rows * a->qk.value_dim * dtype_size(a->qk.dout_dtype), o->offset);
    a->qk.wo_r = qk_cli_read_tensor(
        o, FILE_WO_R, (size_t)a->heads * a->qk.written_dim * a->qk.value_dim * 4, o->offset);
    a->qk.x_norm = qk_cli_read_tensor(o, FILE_X_NORM, b * a->queries * 4, o->offset);
    o->plan.gradient = a->qk.dout;
    a->mask = qk_cli_read_tensor(o, FILE_MASK, b * a->queries * a->keys, o->offset);
    a->documents = qk_cli_read_tensor(o, FILE_DOCUMENTS, b * a->keys * 4, o->offset);
    a->tokens = qk_cli_read_tensor(o, FILE_TOKENS, b * a->keys * 4, o->offset);
    if (!a->qk.q || !a->qk.k) {
        die("q and k are needed");
    }
}

static void qk_cli_print_values(const struct block *block)
{
    double *value[METRIC_COUNT] = {NULL};
    double *memory = must_have(malloc((size_t)METRIC_COUNT * block->heads * sizeof *memory));
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = memory + (size_t)m * block->heads;
    }
    block_values(block, value);
    printf("\"values\":{");
    bool first = true;
    for (uint32_t m = 0; m < METRIC_COUNT && block->plan.group[METRIC_GROUP_CORE]; m++) {
        if (metric_info[m].group == METRIC_GROUP_CORE) {
            printf("%s\"%s\":", first ? "" : ",", metric_info[m].name);
            print_array(value[m], block->heads);
            first = false;
        }
    }
    printf("},\n");
    free(memory);
}

static void print_moments(const struct moments *m)
{
    double number[] = {(double)m->n, moments_mean(m), moments_std(m), m->n > 0 ? m->min : NAN,
                       m->n > 0 ? m->max : NAN};
    print_array(number, 5);
}

/* n, mean, std, min, max and the number of values in the histogram, per head. */
static void qk_cli_print_rows(const struct block *block)
{
    printf("\"rows_of\":{");
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        printf("%s\"%s\":[", m > 0 ? "," : "", metric_info[m].name);
        for (uint32_t h = 0; h < block->heads; h++) {
            const struct dist *d = &block->head[h].row[m];
            uint64_t counted = 0;
            for (uint32_t i = 0; i < d->hist.used; i++) {
                counted += d->hist.buckets[i].count;
            }
            printf(h > 0 ? ",[" : "[");
            print_moments(&d->moments);
            printf(",%llu]", (unsigned long long)counted);
        }
        printf("]");
    }
    printf("},\n");
}

static void print_moment_sets(const struct block *block)
{
    printf("\"moments_of\":[");
    for (uint32_t h = 0; h < block->heads; h++) {
        const struct head_block *head = &block->head[h];
        const struct moments *set[] = {&head->entries,
                                       &head->logits,
                                       &head->cosine,
                                       &head->q_norm,
                                       &head->k_norm,
                                       &head->output_norm,
                                       &head->norm_weighted_entropy,
                                       &head->write_norm,
                                       &head->residual_share};
        printf(h > 0 ? ",[" : "[");
        for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
            printf(i > 0 ? "," : "");
            print_moments(set[i]);
        }
        printf("]");
    }
    printf("],\n\"gradient\":[");
    for (uint32_t h = 0; h < block->heads; h++) {
        printf(h > 0 ? "," : "");
        print_number(block->head[h].gradient);
    }
    printf("],\n");
}

static void qk_cli_print_weights(const struct options *o, enum isa isa, struct scratch *scratch)
{
    const struct attention *a = &o->a;
    uint32_t begin = a->queries / 3;
    size_t n = (size_t)a->batch * a->heads * (a->queries - begin) * a->keys;
    float *weights = must_have(malloc(n * sizeof *weights + 1));
    if (qk_weights(a, begin, a->queries, weights, isa, scratch) != 0) {
        die("weights: out of memory");
    }
    printf("\"weights\":[");
    for (size_t k = 0; k < n; k++) {
        printf(k > 0 ? "," : "");
        print_number((double)weights[k]);
    }
    printf("],\n");
    free(weights);
}

static void qk_cli_print_spectra(const struct options *o, enum isa isa, struct scratch *scratch)
{
    printf("\"spectra\":[");
    for (uint32_t h = 0; h < o->a.heads; h++) {
        struct spectrum s;
        if (qk_spectrum(&o->a, o->a.batch - 1, h, isa, scratch, &s) != 0) {
            die("spectrum: out of memory");
        }
        double number[] = {s.spectral_norm, s.stable_rank,    s.condition_number,
                           s.rank,          s.effective_rank, s.effective_rank_entropy,
                           s.nuclear_norm};
        printf(h > 0 ? ",{\"numbers\":" : "{\"numbers\":");
        print_array(number, sizeof number / sizeof number[0]);
        printf(",\"values\":");
        print_array(s.singular_values, SINGULAR_VALUES_MAX);
        printf("}");
    }
    printf("],\n");
}

static void qk_cli_add_block(struct block *total, const struct options *o, uint32_t begin,
                             uint32_t end, enum isa isa, struct scratch *scratch)
{
    struct block part;
    if (block_init(&part, &o->a, &o->plan) < 0 ||
        qk_compute(&part, &o->a, begin, end, isa, scratch) < 0 || block_merge(total, &part) < 0) {
        die("block: out of memory");
    }
    block_clear(&part);
}

static void qk_cli_report(const struct options *o, const char *name, enum isa isa)
{
    struct scratch scratch = {0};
    struct block block;
    if (block_init(&block, &o->a, &o->plan) < 0) {
        die("block: out of memory");
    }
    uint32_t begin = 0;
    for (uint32_t i = 0; i <= o->cuts.count; i++) {
        uint32_t end = i < o->cuts.count ? (uint32_t)o->cuts.value[i] : o->a.queries;
        qk_cli_add_block(&block, o, begin, end, isa, &scratch);
        begin = end;
    }
    printf("{\"isa\":\"%s\",\"rows\":%llu,\"invalid_rows\":%llu,\"row_sum_error\":", name,
           (unsigned long long)block.rows, (unsigned long long)block.invalid_rows);
    print_number(block.row_sum_error);
    printf(",\n");
    qk_cli_print_values(&block);
    qk_cli_print_rows(&block);
    print_moment_sets(&block);
    if (o->weights != 0) {
        qk_cli_print_weights(o, isa, &scratch);
    }
    if (o->spectrum != 0) {
        qk_cli_print_spectra(o, isa, &scratch);
    }
    printf("\"end\":true}\n");
    block_clear(&block);
    scratch_clear(&scratch);
}

int main(int argc, char **argv)
{
    static struct options o = {.plan = {.group = {[METRIC_GROUP_CORE] = true}}};
    qk_cli_parse_options(argc, argv, &o);
    if (!o.isa || strcmp(o.isa, "list") == 0) {
        print_isas();
        return 0;
    }
    qk_cli_read_tensors(&o);
    spectrum_global_init();
    printf("[");
    char *names = o.isa, *name;
    for (bool first = true; (name = strsep(&names, ",")) != NULL; first = false) {
        enum isa isa;
        if (isa_parse(name, strlen(name), &isa) != 0) {
            die("unknown instruction set");
        }
        printf(first ? "" : ",");
        qk_cli_report(&o, name, isa);
    }
    printf("]\n");
    for (size_t i = 0; i < FILE_COUNT; i++) {
        free(o.memory[i]);
    }
    return 0;
}
