/* SPDX-License-Identifier: MIT */
#include "tests/kernels/cli.h"
#include "workers/rows/first_key.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    exit(2);
}

void must(int rc)
{
    if (rc != 0) {
        die("out of memory");
    }
}

void *must_have(void *memory)
{
    must(!memory);
    return memory;
}

void parse_flag(char *value, void *ret)
{
    *(bool *)ret = strcmp(value, "0") != 0;
}

void parse_number(char *value, void *ret)
{
    *(uint32_t *)ret = (uint32_t)strtoul(value, NULL, 10);
}

void parse_real(char *value, void *ret)
{
    *(double *)ret = strtod(value, NULL);
}

void parse_text(char *value, void *ret)
{
    *(char **)ret = value;
}

void parse_list(char *value, void *ret)
{
    struct list *list = ret;
    for (list->count = 0; *value != '\0' && list->count < LIST_MAX; list->count++) {
        char *end;
        list->value[list->count] = (int32_t)strtol(value, &end, 10);
        value = *end == ',' ? end + 1 : end;
    }
}

void parse_dtype(char *value, void *ret)
{
    if (dtype_parse(value, strlen(value), ret) != 0) {
        die("unknown dtype");
    }
}

void print_isas(void)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (isa_available((enum isa)i)) {
            puts(isa_name[i]);
        }
    }
}

void parse_isa(char *value, void *ret)
{
    if (strcmp(value, "list") == 0) {
        print_isas();
        exit(0);
    }
    if (isa_parse(value, strlen(value), ret) != 0) {
        die("no such instruction set here");
    }
}

static bool option_take(const struct option *options, size_t count, const char *key, char *value)
{
    for (size_t k = 0; k < count; k++) {
        if (strcmp(key, options[k].key) == 0) {
            options[k].parse(value, options[k].ret);
            return true;
        }
    }
    return false;
}

static bool input_take(struct input *in, const char *key, char *value)
{
    const struct option options[] = {
        {"shape", parse_list, &in->shape},
        {"q_len", parse_list, &in->q_len},
        {"k_len", parse_list, &in->k_len},
        {"cuts", parse_list, &in->cuts},
        {"mask", parse_text, &in->mask},
        {"documents", parse_text, &in->documents},
        {"tokens", parse_text, &in->tokens},
        {"offset", parse_number, &in->offset},
        {"self", parse_flag, &in->a.self},
        {"causal", parse_flag, &in->a.causal},
        {"window", parse_number, &in->a.window},
        {"q_offset", parse_number, &in->a.q_offset},
        {"q_stride", parse_number, &in->a.q_stride},
        {"dropout", parse_flag, &in->a.dropout},
        {"learned_sink", parse_flag, &in->a.learned_sink},
    };
    return option_take(options, sizeof options / sizeof options[0], key, value);
}

void parse_options(int argc, char **argv, struct input *in, const struct option *options,
                   size_t count)
{
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            die("not key=value");
        }
        *value++ = '\0';
        if (!option_take(options, count, argv[i], value) &&
            !(in && input_take(in, argv[i], value))) {
            die("unknown option");
        }
    }
}

void input_read(struct input *in)
{
    struct attention *a = &in->a;
    if (in->shape.count != 4) {
        die("a shape is needed");
    }
    a->batch = (uint32_t)in->shape.value[0];
    a->heads = (uint32_t)in->shape.value[1];
    a->queries = (uint32_t)in->shape.value[2];
    a->keys = (uint32_t)in->shape.value[3];
    a->q_len = in->q_len.count > 0 ? in->q_len.value : NULL;
    a->k_len = in->k_len.count > 0 ? in->k_len.value : NULL;
    size_t keys = (size_t)a->batch * a->keys;
    a->mask = read_tensor(in->mask, keys * a->queries, in->offset);
    a->documents = read_tensor(in->documents, keys * sizeof *a->documents, in->offset);
    a->tokens = read_tensor(in->tokens, keys * sizeof *a->tokens, in->offset);
    if (first_key_differs(a)) {
        static uint32_t *first; /* no leaks */
        struct scratch scratch = {0};
        first = must_have(malloc((size_t)a->batch * a->queries * sizeof *first));
        must(first_key_find(a, &scratch, first));
        a->first = first;
        scratch_clear(&scratch);
    }
}

uint32_t input_cut(const struct input *in, uint32_t i)
{
    return i == 0 ? 0 : i > in->cuts.count ? in->a.queries : (uint32_t)in->cuts.value[i - 1];
}

void *read_tensor(const char *path, size_t bytes, size_t offset)
{
    static unsigned char *read[16]; /* no leaks */
    static size_t count;
    if (!path) {
        return NULL;
    }
    if (count == sizeof read / sizeof read[0]) {
        die("too many files");
    }
    FILE *file = fopen(path, "rb");
    if (!file) {
        die("no such file");
    }
    unsigned char *memory = read[count++] = must_have(malloc(offset + bytes));
    if (fread(memory + offset, 1, bytes, file) != bytes || fgetc(file) != EOF) {
        die("file size differs from the shape");
    }
    fclose(file);
    return memory + offset;
}

static bool json_comma;

/* Begins a value. */
static void json_begin(const char *key)
{
    if (json_comma) {
        putchar(',');
    }
    json_comma = true;
    if (key) {
        printf("\"%s\":", key);
    }
}

void json_open(const char *key, char bracket)
{
    json_begin(key);
    putchar(bracket);
    json_comma = false;
}

void json_close(char bracket)
{
    putchar(bracket);
    json_comma = true;
}

void json_number(const char *key, double x)
{
    json_begin(key);
    if (isnan(x)) {
        printf("NaN");
    } else if (isinf(x)) {
        printf(x > 0 ? "Infinity" : "-Infinity");
    } else if (x == 0) {
        printf(signbit(x) ? "-0.0" : "0.0"); /* JSON's -0 is an integer, and loses its sign */
    } else {
        printf("%.17g", x);
    }
}

void json_integer(const char *key, int64_t n)
{
    json_begin(key);
    printf("%lld", (long long)n);
}

void json_text(const char *key, const char *text)
{
    json_begin(key);
    printf("\"%s\"", text);
}

void json_numbers(const char *key, const double *x, size_t n)
{
    json_open(key, '[');
    for (size_t i = 0; i < n; i++) {
        json_number(NULL, x[i]);
    }
    json_close(']');
}

void json_moments(const char *key, const struct moments *m)
{
    double number[] = {(double)m->n, moments_mean(m), moments_std(m), m->n > 0 ? m->min : NAN,
                       m->n > 0 ? m->max : NAN};
    json_numbers(key, number, sizeof number / sizeof number[0]);
}

void json_spectrum(const char *key, const struct spectrum *s)
{
    json_open(key, '{');
    json_number("spectral_norm", s->spectral_norm);
    json_number("stable_rank", s->stable_rank);
    json_number("condition_number", s->condition_number);
    json_number("rank", s->rank);
    json_number("effective_rank", s->effective_rank);
    json_number("effective_rank_entropy", s->effective_rank_entropy);
    json_number("nuclear_norm", s->nuclear_norm);
    json_number("eigenvalue_2", s->eigenvalue_2);
    json_numbers("singular_values", s->singular_values, SINGULAR_VALUES_MAX);
    json_numbers("low_rank_error", s->low_rank_error, LOW_RANK_COUNT);
    json_close('}');
}

void json_pairs(const char *key, const struct pair *pairs, uint32_t n)
{
    json_open(key, '[');
    for (uint32_t i = 0; i < n; i++) {
        json_open(NULL, '[');
        json_integer(NULL, pairs[i].query);
        json_integer(NULL, pairs[i].key);
        json_number(NULL, pairs[i].weight);
        json_close(']');
    }
    json_close(']');
}
