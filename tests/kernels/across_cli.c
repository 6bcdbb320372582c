/* SPDX-License-Identifier: MIT */
/* across_cli: runs similarity and across on one tensor and prints what they found as JSON, for
 * test_across.py, which owns the truth.
 *
 *     across_cli weights=FILE dtype=f32 shape=B,H,Tq,Tk [grad=FILE grad_dtype=f32] [head_weights=
 * FILE of H doubles] [self=1] [causal=1] [window=W] [q_offset=N] [q_len=n,...] [k_len=n,...]
 * [mask=FILE] [documents=FILE] [dropout=1] [learned_sink=1] [limit=K] [cuts=row,...] [isa=NAME]
 *                [offset=BYTES] [bound=X] [v=FILE v_dtype=f32 dims=KV_HEADS,VALUE_DIM,WRITTEN_DIM]
 *                [wo_r=FILE] [x_norm=FILE]
 *
 * cuts: the rows where a new block begins; blocks are merged in the order of their rows. offset:
 * misalignment of the tensors in memory. */
#include "tests/kernels/cli.h"
#include "workers/across/across.h"
#include "workers/across/outputs.h"
#include "workers/across/similarity.h"

#include <math.h>
#include <stdlib.h>

struct options {
    struct input in;
    char *weights, *grad, *head_weights, *v, *wo_r, *x_norm;
    struct list dims;
    uint32_t limit;
    double bound;
    enum isa isa;
    const double *weight; /* [heads] or NULL */
};

/* Everything that is merged from block to block. */
struct found {
    struct similarity similarity;
    struct moments map;
    double *score;
    struct pair *pairs;
    uint32_t *count;
    struct head_block *head;
};

#define OUTPUT_SETS 4

static struct moments *output_set(struct head_block *head, uint32_t set)
{
    struct moments *const sets[OUTPUT_SETS] = {&head->output_norm, &head->norm_weighted_entropy,
                                               &head->write_norm, &head->residual_share};
    return sets[set];
}

static void found_init(struct found *f, const struct options *o)
{
    uint32_t heads = o->in.a.heads;
    *f = (struct found){.score = must_have(calloc(heads, sizeof *f->score)),
                        .pairs = must_have(calloc((size_t)heads * o->limit, sizeof *f->pairs)),
                        .count = must_have(calloc(heads, sizeof *f->count)),
                        .head = must_have(calloc(heads, sizeof *f->head))};
    must(similarity_init(&f->similarity, heads));
}

static void found_clear(struct found *f)
{
    similarity_clear(&f->similarity);
    free(f->score);
    free(f->pairs);
    free(f->count);
    free(f->head);
}

static void across_cli_compute(struct found *f, const struct options *o, uint32_t begin,
                               uint32_t end)
{
    struct scratch scratch = {0};
    const struct attention *a = &o->in.a;
    must(similarity_compute(&f->similarity, a, begin, end, o->isa, &scratch));
    if (o->weight) {
        must(across_weighted_map(&f->map, a, o->weight, begin, end, o->isa, &scratch));
    }
    if (a->grad) {
        must(across_gradient(f->score, a, begin, end, o->isa, &scratch));
    }
    if (a->qk.v) {
        must(outputs_compute(f->head, a, begin, end, o->isa, &scratch));
    }
    must(across_head_pairs(f->pairs, f->count, o->limit, a, begin, end, o->isa, &scratch));
    scratch_clear(&scratch);
}

/* Computes [begin, end) on its own and merges it. */
static void across_cli_add_block(struct found *total, const struct options *o, uint32_t begin,
                                 uint32_t end)
{
    struct found part;
    found_init(&part, o);
    across_cli_compute(&part, o, begin, end);
    similarity_merge(&total->similarity, &part.similarity);
    moments_merge(&total->map, &part.map);
    for (uint32_t h = 0; h < o->in.a.heads; h++) {
        total->score[h] += part.score[h];
        for (uint32_t s = 0; s < OUTPUT_SETS; s++) {
            moments_merge(output_set(&total->head[h], s), output_set(&part.head[h], s));
        }
    }
    across_head_pairs_merge(total->pairs, total->count, o->limit, o->in.a.heads, part.pairs,
                            part.count);
    found_clear(&part);
}

static void print_similarity(const struct similarity *s, double bound)
{
    size_t cells = (size_t)s->heads * s->heads;
    double *x = must_have(malloc(cells * sizeof *x));
    similarity_cosine(s, x);
    json_numbers("cosine", x, cells);
    similarity_js(s, x);
    json_numbers("js", x, cells);
    for (size_t i = 0; i < cells; i++) {
        x[i] = (double)s->rows[i];
    }
    json_numbers("rows", x, cells);
    free(x);
    struct redundant_pair pairs[3];
    uint32_t total = similarity_redundant(s, bound, 3, pairs);
    json_integer("redundant_count", total);
    json_open("redundant", '[');
    for (uint32_t i = 0; i < total && i < 3; i++) {
        json_open(NULL, '[');
        json_integer(NULL, pairs[i].g);
        json_integer(NULL, pairs[i].h);
        json_close(']');
    }
    json_close(']');
}

static void across_cli_print_outputs(const struct found *f, uint32_t heads)
{
    json_open("outputs", '[');
    for (uint32_t h = 0; h < heads; h++) {
        json_open(NULL, '[');
        for (uint32_t s = 0; s < OUTPUT_SETS; s++) {
            json_moments(NULL, output_set(&f->head[h], s));
        }
        json_close(']');
    }
    json_close(']');
}

static void across_cli_report(struct found *f, const struct options *o)
{
    uint32_t heads = o->in.a.heads;
    double map[] = {moments_mean(&f->map), f->map.n > 0 ? f->map.max : NAN,
                    f->map.n > 0 ? f->map.min : NAN, moments_std(&f->map)};
    json_open(NULL, '{');
    print_similarity(&f->similarity, o->bound);
    json_numbers("map", map, 4);
    json_integer("map_n", (int64_t)f->map.n);
    json_numbers("score", f->score, heads);
    across_gradient_normalize(f->score, heads);
    json_numbers("gradient", f->score, heads);
    json_open("pairs", '[');
    for (uint32_t h = 0; h < heads; h++) {
        json_pairs(NULL, f->pairs + (size_t)h * o->limit, f->count[h]);
    }
    json_close(']');
    across_cli_print_outputs(f, heads);
    json_close('}');
}

static void across_cli_read_tensors(struct options *o)
{
    struct attention *a = &o->in.a;
    struct qk *qk = &a->qk;
    size_t b = a->batch, entries = b * a->heads * a->queries * a->keys;
    if (o->v) {
        qk->kv_heads = (uint32_t)o->dims.value[0];
        qk->value_dim = (uint32_t)o->dims.value[1];
        qk->written_dim = (uint32_t)o->dims.value[2];
    }
    const struct {
        const void **tensor;
        const char *path;
        size_t bytes;
    } files[] = {
        {&a->weights, o->weights, entries * dtype_size(a->dtype)},
        {&a->grad, o->grad, entries * dtype_size(a->grad_dtype)},
        {&qk->v, o->v, b * qk->kv_heads * a->keys * qk->value_dim * dtype_size(qk->v_dtype)},
        {&qk->wo_r, o->wo_r, (size_t)a->heads * qk->written_dim * qk->value_dim * sizeof(float)},
        {&qk->x_norm, o->x_norm, b * a->queries * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        *files[i].tensor = read_tensor(files[i].path, files[i].bytes, o->in.offset);
    }
    o->weight = read_tensor(o->head_weights, a->heads * sizeof *o->weight, 0);
    if (!a->weights) {
        die("weights are needed");
    }
}

int main(int argc, char **argv)
{
    static struct options o = {.limit = 10, .bound = 0.1};
    struct attention *a = &o.in.a;
    const struct option options[] = {
        {"weights", parse_text, &o.weights},
        {"dtype", parse_dtype, &a->dtype},
        {"grad", parse_text, &o.grad},
        {"grad_dtype", parse_dtype, &a->grad_dtype},
        {"head_weights", parse_text, &o.head_weights},
        {"v", parse_text, &o.v},
        {"v_dtype", parse_dtype, &a->qk.v_dtype},
        {"wo_r", parse_text, &o.wo_r},
        {"x_norm", parse_text, &o.x_norm},
        {"dims", parse_list, &o.dims},
        {"limit", parse_number, &o.limit},
        {"bound", parse_real, &o.bound},
        {"isa", parse_isa, &o.isa},
    };
    struct found found;
    parse_options(argc, argv, &o.in, options, sizeof options / sizeof options[0]);
    input_read(&o.in);
    across_cli_read_tensors(&o);
    found_init(&found, &o);
    for (uint32_t i = 0; i <= o.in.cuts.count; i++) {
        across_cli_add_block(&found, &o, input_cut(&o.in, i), input_cut(&o.in, i + 1));
    }
    across_cli_report(&found, &o);
    found_clear(&found);
    return 0;
}
