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
 * misalignment of the tensors in memory. Numbers have 17 digits; NaN and Infinity in Python's
 * spelling. */
#include "tests/kernels/cli.h"
#include "workers/across/across.h"
#include "workers/across/outputs.h"
#include "workers/across/similarity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *weights, *grad, *head_weights, *mask, *documents, *v, *wo_r, *x_norm;
    struct list shape, q_len, k_len, cuts, dims;
    uint32_t offset, limit;
    double bound;
    enum isa isa;
    struct attention a;
};

static bool parse_text(struct options *o, const char *key, const char *value)
{
    struct {
        const char *key;
        const char **text;
        struct list *list;
    } table[] = {
        {"weights", &o->weights, NULL},
        {"grad", &o->grad, NULL},
        {"mask", &o->mask, NULL},
        {"head_weights", &o->head_weights, NULL},
        {"shape", NULL, &o->shape},
        {"documents", &o->documents, NULL},
        {"q_len", NULL, &o->q_len},
        {"k_len", NULL, &o->k_len},
        {"cuts", NULL, &o->cuts},
        {"dims", NULL, &o->dims},
        {"v", &o->v, NULL},
        {"wo_r", &o->wo_r, NULL},
        {"x_norm", &o->x_norm, NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(key, table[i].key) == 0) {
            if (table[i].text) {
                *table[i].text = value;
            } else {
                parse_list(value, table[i].list);
            }
            return true;
        }
    }
    return false;
}

static bool across_cli_parse_number(struct options *o, const char *key, const char *value)
{
    const struct setting table[] = {
        {"self", &o->a.self, NULL},       {"causal", &o->a.causal, NULL},
        {"dropout", &o->a.dropout, NULL}, {"learned_sink", &o->a.learned_sink, NULL},
        {"window", NULL, &o->a.window},   {"q_offset", NULL, &o->a.q_offset},
        {"offset", NULL, &o->offset},     {"limit", NULL, &o->limit},
    };
    return parse_setting(table, sizeof table / sizeof table[0], key, value);
}

static void across_cli_parse_option(struct options *o, const char *key, const char *value)
{
    if (parse_text(o, key, value) || across_cli_parse_number(o, key, value)) {
        return;
    }
    if (strcmp(key, "dtype") == 0) {
        o->a.dtype = parse_dtype(value);
    } else if (strcmp(key, "grad_dtype") == 0) {
        o->a.grad_dtype = parse_dtype(value);
    } else if (strcmp(key, "v_dtype") == 0) {
        o->a.qk.v_dtype = parse_dtype(value);
    } else if (strcmp(key, "bound") == 0) {
        o->bound = strtod(value, NULL);
    } else if (strcmp(key, "isa") == 0) {
        o->isa = parse_isa(value);
    } else {
        die("unknown option");
    }
}

static void across_cli_print_numbers(const char *name, const double *x, size_t n)
{
    printf("\"%s\":", name);
    print_array(x, n);
    printf(",\n");
}

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
    uint32_t heads = o->a.heads;
    *f = (struct found){.score = must_have(calloc(heads, sizeof *f->score)),
                        .pairs = must_have(calloc((size_t)heads * o->limit, sizeof *f->pairs)),
                        .count = must_have(calloc(heads, sizeof *f->count)),
                        .head = must_have(calloc(heads, sizeof *f->head))};
    if (similarity_init(&f->similarity, heads) < 0) {
        die("out of memory");
    }
}

static void found_clear(struct found *f)
{
    similarity_clear(&f->similarity);
    free(f->score);
    free(f->pairs);
    free(f->count);
    free(f->head);
}

static void across_cli_compute(struct found *f, const struct options *o, const double *weight,
                               uint32_t begin, uint32_t end)
{
    struct scratch scratch = {0};
    const struct attention *a = &o->a;
    int rc = similarity_compute(&f->similarity, a, begin, end, o->isa, &scratch);
    if (rc == 0 && weight) {
        rc = across_weighted_map(&f->map, a, weight, begin, end, o->isa, &scratch);
    }
    if (rc == 0 && a->grad) {
        rc = across_gradient(f->score, a, begin, end, o->isa, &scratch);
    }
    if (rc == 0 && a->qk.v) {
        rc = outputs_compute(f->head, a, begin, end, o->isa, &scratch);
    }
    if (rc == 0) {
        rc = across_head_pairs(f->pairs, f->count, o->limit, a, begin, end, o->isa, &scratch);
    }
    if (rc < 0) {
        die("out of memory");
    }
    scratch_clear(&scratch);
}

/* Computes [begin, end) on its own and merges it. */
static void across_cli_add_block(struct found *total, const struct options *o, const double *weight,
                                 uint32_t begin, uint32_t end)
{
    struct found part;
    found_init(&part, o);
    across_cli_compute(&part, o, weight, begin, end);
    similarity_merge(&total->similarity, &part.similarity);
    moments_merge(&total->map, &part.map);
    for (uint32_t h = 0; h < o->a.heads; h++) {
        total->score[h] += part.score[h];
        for (uint32_t s = 0; s < OUTPUT_SETS; s++) {
            moments_merge(output_set(&total->head[h], s), output_set(&part.head[h], s));
        }
    }
    across_head_pairs_merge(total->pairs, total->count, o->limit, o->a.heads, part.pairs,
                            part.count);
    found_clear(&part);
}

static void print_similarity(const struct similarity *s, double bound)
{
    size_t cells = (size_t)s->heads * s->heads;
    double *x = must_have(malloc(cells * sizeof *x));
    similarity_cosine(s, x);
    across_cli_print_numbers("cosine", x, cells);
    similarity_js(s, x);
    across_cli_print_numbers("js", x, cells);
    for (size_t i = 0; i < cells; i++) {
        x[i] = (double)s->rows[i];
    }
    across_cli_print_numbers("rows", x, cells);
    free(x);
    struct redundant_pair pairs[3];
    uint32_t total = similarity_redundant(s, bound, 3, pairs);
    printf("\"redundant_count\":%u,\"redundant\":[", total);
    for (uint32_t i = 0; i < total && i < 3; i++) {
        printf("%s[%u,%u]", i > 0 ? "," : "", pairs[i].g, pairs[i].h);
    }
    printf("],\n");
}

static void across_cli_print_pairs(const struct found *f, const struct options *o)
{
    printf("\"pairs\":[");
    for (uint32_t h = 0; h < o->a.heads; h++) {
        printf(h > 0 ? ",[" : "[");
        for (uint32_t k = 0; k < f->count[h]; k++) {
            const struct pair *p = &f->pairs[(size_t)h * o->limit + k];
            printf("%s[%u,%u,", k > 0 ? "," : "", p->query, p->key);
            print_number(p->weight);
            printf("]");
        }
        printf("]");
    }
    printf("],\n");
}

static void across_cli_print_outputs(const struct found *f, uint32_t heads)
{
    printf("\"outputs\":[");
    for (uint32_t h = 0; h < heads; h++) {
        printf(h > 0 ? ",[" : "[");
        for (uint32_t s = 0; s < OUTPUT_SETS; s++) {
            const struct moments *m = output_set(&f->head[h], s);
            double number[] = {(double)m->n, moments_mean(m), moments_std(m),
                               m->n > 0 ? m->min : NAN, m->n > 0 ? m->max : NAN};
            printf(s > 0 ? "," : "");
            print_array(number, 5);
        }
        printf("]");
    }
    printf("],\n");
}

static void across_cli_report(struct found *f, const struct options *o)
{
    printf("{");
    print_similarity(&f->similarity, o->bound);
    double map[] = {moments_mean(&f->map), f->map.n > 0 ? f->map.max : NAN,
                    f->map.n > 0 ? f->map.min : NAN, moments_std(&f->map)};
    across_cli_print_numbers("map", map, 4);
    printf("\"map_n\":%llu,\n", (unsigned long long)f->map.n);
    across_cli_print_numbers("score", f->score, o->a.heads);
    across_gradient_normalize(f->score, o->a.heads);
    across_cli_print_numbers("gradient", f->score, o->a.heads);
    across_cli_print_pairs(f, o);
    across_cli_print_outputs(f, o->a.heads);
    printf("\"end\":true}\n");
}

static void across_cli_set_shape(struct options *o)
{
    struct attention *a = &o->a;
    a->batch = (uint32_t)o->shape.value[0];
    a->heads = (uint32_t)o->shape.value[1];
    a->queries = (uint32_t)o->shape.value[2];
    a->keys = (uint32_t)o->shape.value[3];
    a->q_len = o->q_len.count > 0 ? o->q_len.value : NULL;
    a->k_len = o->k_len.count > 0 ? o->k_len.value : NULL;
    if (o->v) {
        a->qk.kv_heads = (uint32_t)o->dims.value[0];
        a->qk.value_dim = (uint32_t)o->dims.value[1];
        a->qk.written_dim = (uint32_t)o->dims.value[2];
    }
}

/* The files of one message; NULL where none was named. */
struct files {
    unsigned char *weights, *grad, *mask, *documents, *head_weights, *v, *wo_r, *x_norm;
};

static struct files read_files(struct options *o)
{
    struct attention *a = &o->a;
    size_t map = (size_t)a->queries * a->keys, all = a->batch * a->heads * map;
    struct files f = {.weights = read_file(o->weights, all * dtype_size(a->dtype), o->offset)};
    a->weights = f.weights + o->offset;
    if (o->grad) {
        f.grad = read_file(o->grad, all * dtype_size(a->grad_dtype), o->offset);
        a->grad = f.grad + o->offset;
    }
    if (o->mask) {
        f.mask = read_file(o->mask, a->batch * map, 0);
        a->mask = f.mask;
    }
    if (o->documents) {
        f.documents = read_file(o->documents, (size_t)a->batch * a->keys * 4, 0);
        a->documents = (const int32_t *)(void *)f.documents;
    }
    if (o->v) {
        size_t values = (size_t)a->batch * a->qk.kv_heads * a->keys * a->qk.value_dim;
        f.v = read_file(o->v, values * dtype_size(a->qk.v_dtype), o->offset);
        a->qk.v = f.v + o->offset;
    }
    if (o->wo_r) {
        size_t factors = (size_t)a->heads * a->qk.written_dim * a->qk.value_dim;
        f.wo_r = read_file(o->wo_r, factors * sizeof(float), o->offset);
        a->qk.wo_r = f.wo_r + o->offset;
    }
    if (o->x_norm) {
        f.x_norm = read_file(o->x_norm, (size_t)a->batch * a->queries * sizeof(float), o->offset);
        a->qk.x_norm = f.x_norm + o->offset;
    }
    if (o->head_weights) {
        f.head_weights = read_file(o->head_weights, a->heads * sizeof(double), 0);
    }
    return f;
}

int main(int argc, char **argv)
{
    struct options o = {.limit = 10, .bound = 0.1};
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            die("not key=value");
        }
        *value = '\0';
        across_cli_parse_option(&o, argv[i], value + 1);
    }
    if (!o.weights || o.shape.count != 4) {
        die("weights and shape are needed");
    }
    across_cli_set_shape(&o);
    struct files files = read_files(&o);
    const double *weight = (const double *)(const void *)files.head_weights;
    struct found found;
    found_init(&found, &o);
    uint32_t begin = 0;
    for (uint32_t i = 0; i < o.cuts.count; i++) {
        across_cli_add_block(&found, &o, weight, begin, (uint32_t)o.cuts.value[i]);
        begin = (uint32_t)o.cuts.value[i];
    }
    across_cli_add_block(&found, &o, weight, begin, o.a.queries);
    across_cli_report(&found, &o);
    found_clear(&found);
    free(files.weights);
    free(files.grad);
    free(files.mask);
    free(files.documents);
    free(files.head_weights);
    free(files.v);
    free(files.wo_r);
    free(files.x_norm);
    return 0;
}
