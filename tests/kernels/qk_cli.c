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
 * cuts: the rows where a new block begins. offset: misalignment of all tensors in memory. */
#include "tests/kernels/cli.h"
#include "proto/metric.h"
#include "workers/qk/qk.h"

#include <stdlib.h>
#include <string.h>

struct options {
    struct input in;
    char *q, *k, *v, *dout, *wo_r, *x_norm;
    struct list dims;
    char *isa, *dtypes;
    bool weights, spectrum;
    struct block_plan plan;
};

static void qk_cli_read_tensors(struct options *o)
{
    struct attention *a = &o->in.a;
    struct qk *qk = &a->qk;
    enum dtype *const dtypes[] = {&qk->q_dtype, &qk->k_dtype, &qk->v_dtype, &qk->dout_dtype};
    if (o->dims.count != 4 || !o->dtypes) {
        die("dims and dtypes are needed");
    }
    qk->kv_heads = (uint32_t)o->dims.value[0];
    qk->head_dim = (uint32_t)o->dims.value[1];
    qk->value_dim = (uint32_t)o->dims.value[2];
    qk->written_dim = (uint32_t)o->dims.value[3];
    for (int i = 0; i < 4; i++) {
        char *word = strsep(&o->dtypes, ",");
        if (!word) {
            die("four dtypes are needed");
        }
        parse_dtype(word, dtypes[i]);
    }
    size_t b = a->batch, rows = b * a->heads * a->queries, keys = b * qk->kv_heads * a->keys;
    const struct {
        const void **tensor;
        const char *path;
        size_t bytes;
    } files[] = {
        {&qk->q, o->q, rows * qk->head_dim * dtype_size(qk->q_dtype)},
        {&qk->k, o->k, keys * qk->head_dim * dtype_size(qk->k_dtype)},
        {&qk->v, o->v, keys * qk->value_dim * dtype_size(qk->v_dtype)},
        {&qk->dout, o->dout, rows * qk->value_dim * dtype_size(qk->dout_dtype)},
        {&qk->wo_r, o->wo_r, (size_t)a->heads * qk->written_dim * qk->value_dim * sizeof(float)},
        {&qk->x_norm, o->x_norm, b * a->queries * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        *files[i].tensor = read_tensor(files[i].path, files[i].bytes, o->in.offset);
    }
    if (!qk->q || !qk->k) {
        die("q and k are needed");
    }
    o->plan.gradient = qk->dout;
}

static void qk_cli_print_values(const struct block *block)
{
    double *value[METRIC_COUNT] = {NULL};
    double *memory = must_have(malloc((size_t)METRIC_COUNT * block->heads * sizeof *memory));
    for (uint32_t m = 0; m < METRIC_COUNT; m++) {
        value[m] = memory + (size_t)m * block->heads;
    }
    block_values(block, value);
    json_open("values", '{');
    for (uint32_t m = 0; m < METRIC_COUNT && block->plan.group[METRIC_GROUP_CORE]; m++) {
        if (metric_info[m].group == METRIC_GROUP_CORE) {
            json_numbers(metric_info[m].name, value[m], block->heads);
        }
    }
    json_close('}');
    free(memory);
}

/* Moments and the number of values in the histogram, per head. */
static void qk_cli_print_rows(const struct block *block)
{
    json_open("rows_of", '{');
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        json_open(metric_info[m].name, '[');
        for (uint32_t h = 0; h < block->heads; h++) {
            const struct dist *d = &block->head[h].row[m];
            uint64_t counted = 0;
            for (uint32_t i = 0; i < d->hist.used; i++) {
                counted += d->hist.buckets[i].count;
            }
            json_open(NULL, '[');
            json_moments(NULL, &d->moments);
            json_integer(NULL, (int64_t)counted);
            json_close(']');
        }
        json_close(']');
    }
    json_close('}');
}

static void print_moment_sets(const struct block *block)
{
    json_open("moments_of", '[');
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
        json_open(NULL, '[');
        for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
            json_moments(NULL, set[i]);
        }
        json_close(']');
    }
    json_close(']');
    json_open("gradient", '[');
    for (uint32_t h = 0; h < block->heads; h++) {
        json_number(NULL, block->head[h].gradient);
    }
    json_close(']');
}

static void qk_cli_print_weights(const struct attention *a, enum isa isa, struct scratch *scratch)
{
    uint32_t begin = a->queries / 3;
    size_t n = (size_t)a->batch * a->heads * (a->queries - begin) * a->keys;
    float *weights = must_have(malloc(n * sizeof *weights + 1));
    must(qk_weights(a, begin, a->queries, weights, isa, scratch));
    json_open("weights", '[');
    for (size_t k = 0; k < n; k++) {
        json_number(NULL, (double)weights[k]);
    }
    json_close(']');
    free(weights);
}

static void qk_cli_print_spectra(const struct attention *a, enum isa isa, struct scratch *scratch)
{
    json_open("spectra", '[');
    for (uint32_t h = 0; h < a->heads; h++) {
        struct spectrum s;
        must(qk_spectrum(a, a->batch - 1, h, isa, scratch, &s));
        json_spectrum(NULL, &s);
    }
    json_close(']');
}

static void qk_cli_report(const struct options *o, const char *name, enum isa isa)
{
    const struct attention *a = &o->in.a;
    struct scratch scratch = {0};
    struct block block;
    must(block_init(&block, a, &o->plan));
    for (uint32_t i = 0; i <= o->in.cuts.count; i++) {
        struct block part;
        must(block_init(&part, a, &o->plan));
        must(qk_compute(&part, a, input_cut(&o->in, i), input_cut(&o->in, i + 1), isa, &scratch));
        must(block_merge(&block, &part));
        block_clear(&part);
    }
    json_open(NULL, '{');
    json_text("isa", name);
    json_integer("rows", (int64_t)block.rows);
    json_integer("invalid_rows", (int64_t)block.invalid_rows);
    json_number("row_sum_error", block.row_sum_error);
    qk_cli_print_values(&block);
    qk_cli_print_rows(&block);
    print_moment_sets(&block);
    if (o->weights) {
        qk_cli_print_weights(a, isa, &scratch);
    }
    if (o->spectrum) {
        qk_cli_print_spectra(a, isa, &scratch);
    }
    json_close('}');
    block_clear(&block);
    scratch_clear(&scratch);
}

int main(int argc, char **argv)
{
    static struct options o = {.plan = {.group = {[METRIC_GROUP_CORE] = true}}};
    const struct option options[] = {
        {"dims", parse_list, &o.dims},
        {"dtypes", parse_text, &o.dtypes},
        {"q", parse_text, &o.q},
        {"k", parse_text, &o.k},
        {"v", parse_text, &o.v},
        {"dout", parse_text, &o.dout},
        {"wo_r", parse_text, &o.wo_r},
        {"x_norm", parse_text, &o.x_norm},
        {"scale", parse_real, &o.in.a.qk.scale},
        {"softcap", parse_real, &o.in.a.qk.softcap},
        {"core", parse_flag, &o.plan.group[METRIC_GROUP_CORE]},
        {"local_window", parse_number, &o.plan.local_window},
        {"weights", parse_flag, &o.weights},
        {"spectrum", parse_flag, &o.spectrum},
        {"isa", parse_text, &o.isa},
    };
    parse_options(argc, argv, &o.in, options, sizeof options / sizeof options[0]);
    if (!o.isa || strcmp(o.isa, "list") == 0) {
        print_isas();
        return 0;
    }
    input_read(&o.in);
    qk_cli_read_tensors(&o);
    spectrum_global_init();
    json_open(NULL, '[');
    for (char *name; (name = strsep(&o.isa, ",")) != NULL;) {
        enum isa isa;
        parse_isa(name, &isa);
        qk_cli_report(&o, name, isa);
    }
    json_close(']');
    return 0;
}
