/* SPDX-License-Identifier: MIT */
/* weights_cli: runs the tier `weights` on matrices in files and prints what it found as JSON, for
 * test_weights.py, which owns the truth.
 *
 *     weights_cli heads=H kv_heads=K head_dim=D [offset=BYTES] [wq=FILE:dtype:out:in] [wk=...]
 *                 [wv=...] [wo=...]
 *
 * offset: misalignment of the matrices in memory. Shapes that do not fit print {"error":CODE}. */
#include "tests/kernels/cli.h"
#include "workers/linear/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FILE:dtype:out:in; returns the memory to free. */
static unsigned char *parse_matrix(char *text, size_t offset, struct projection_matrix *ret)
{
    char *state = NULL, *part[4];
    for (int i = 0; i < 4; i++) {
        part[i] = strtok_r(i == 0 ? text : NULL, ":", &state);
        if (!part[i]) {
            die("not FILE:dtype:out:in");
        }
    }
    ret->dtype = parse_dtype(part[1]);
    ret->out = (uint32_t)strtoul(part[2], NULL, 10);
    ret->in = (uint32_t)strtoul(part[3], NULL, 10);
    size_t width = dtype_size(ret->dtype);
    unsigned char *memory = read_file(part[0], ret->out * width * ret->in, offset);
    ret->data = memory + offset;
    return memory;
}

static void weights_cli_print_numbers(const char *name, const double *x, size_t n)
{
    printf(",\"%s\":", name);
    print_array(x, n);
}

static void weights_cli_print_spectrum(const struct spectrum *s)
{
    const double number[] = {s->spectral_norm, s->stable_rank,    s->condition_number,
                             s->rank,          s->effective_rank, s->effective_rank_entropy,
                             s->nuclear_norm};
    printf("{\"is\":\"spectrum\"");
    weights_cli_print_numbers("numbers", number, sizeof number / sizeof number[0]);
    weights_cli_print_numbers("values", s->singular_values, SINGULAR_VALUES_MAX);
    weights_cli_print_numbers("low_rank", s->low_rank_error, LOW_RANK_COUNT);
    printf("}\n");
}

static void weights_cli_print_spectra(const struct spectrum *s, uint32_t n)
{
    printf("[");
    for (uint32_t i = 0; i < n; i++) {
        printf(i > 0 ? "," : "");
        weights_cli_print_spectrum(&s[i]);
    }
    printf("]");
}

static void print_result(const struct weights_result *r)
{
    printf("{\"heads\":%u", r->heads);
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        const struct projection_result *one = &r->projection[p];
        if (one->present) {
            printf(",\"%s\":{\"slices\":%u,\"whole\":", projection_name[p], one->heads);
            weights_cli_print_spectrum(&one->whole);
            printf(",\"head\":");
            weights_cli_print_spectra(one->head, one->heads);
            weights_cli_print_numbers("correlation", one->correlation,
                                      (size_t)one->heads * one->heads);
            const double more[] = {one->correlation_mean, one->eigenvalue_min, one->eigenvalue_max};
            weights_cli_print_numbers("more", more, 3);
            printf("}");
        }
    }
    for (uint32_t c = 0; c < CIRCUIT_COUNT; c++) {
        if (r->circuit[c]) {
            printf(",\"%s\":", circuit_name[c]);
            weights_cli_print_spectra(r->circuit[c], r->heads);
        }
    }
    printf("}\n");
}

static void weights_cli_parse_number(struct weights *w, size_t *offset, const char *key,
                                     const char *value)
{
    uint32_t n = (uint32_t)strtoul(value, NULL, 10);
    if (strcmp(key, "heads") == 0) {
        w->heads = n;
    } else if (strcmp(key, "kv_heads") == 0) {
        w->kv_heads = n;
    } else if (strcmp(key, "head_dim") == 0) {
        w->head_dim = n;
    } else if (strcmp(key, "offset") == 0) {
        *offset = n;
    } else {
        die("unknown option");
    }
}

int main(int argc, char **argv)
{
    struct weights w = {0};
    unsigned char *memory[PROJECTION_COUNT] = {NULL};
    size_t offset = 0;
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            die("not key=value");
        }
        *value++ = '\0';
        uint32_t p = 0;
        while (p < PROJECTION_COUNT && strcmp(projection_name[p], argv[i]) != 0) {
            p++;
        }
        if (p < PROJECTION_COUNT) {
            memory[p] = parse_matrix(value, offset, &w.matrix[p]);
        } else {
            weights_cli_parse_number(&w, &offset, argv[i], value);
        }
    }
    spectrum_global_init();
    struct scratch scratch = {0};
    struct weights_result result;
    int rc = weights_check(&w);
    if (rc == 0) {
        rc = weights_compute(&w, &scratch, &result);
    }
    if (rc < 0) {
        printf("{\"error\":%d}\n", rc);
    } else {
        print_result(&result);
        weights_result_clear(&result);
    }
    scratch_clear(&scratch);
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        free(memory[p]);
    }
    return 0;
}
