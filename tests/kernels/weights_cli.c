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

#include <stdlib.h>
#include <string.h>

static uint32_t matrix_offset;

/* FILE:dtype:out:in */
static void parse_matrix(char *value, void *ret)
{
    struct projection_matrix *matrix = ret;
    char *part[4];
    for (int i = 0; i < 4; i++) {
        part[i] = strsep(&value, ":");
        if (!part[i]) {
            die("not FILE:dtype:out:in");
        }
    }
    parse_dtype(part[1], &matrix->dtype);
    parse_number(part[2], &matrix->out);
    parse_number(part[3], &matrix->in);
    size_t width = dtype_size(matrix->dtype);
    matrix->data = read_tensor(part[0], matrix->out * width * matrix->in, matrix_offset);
}

static void weights_cli_print_spectra(const char *key, const struct spectrum *s, uint32_t n)
{
    json_open(key, '[');
    for (uint32_t i = 0; i < n; i++) {
        json_spectrum(NULL, &s[i]);
    }
    json_close(']');
}

static void print_result(const struct weights_result *r)
{
    json_integer("heads", r->heads);
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        const struct projection_result *one = &r->projection[p];
        if (one->present) {
            const double more[] = {one->correlation_mean, one->eigenvalue_min, one->eigenvalue_max};
            json_open(projection_name[p], '{');
            json_integer("slices", one->heads);
            json_spectrum("whole", &one->whole);
            weights_cli_print_spectra("head", one->head, one->heads);
            json_numbers("correlation", one->correlation, (size_t)one->heads * one->heads);
            json_numbers("more", more, 3);
            json_close('}');
        }
    }
    for (uint32_t c = 0; c < CIRCUIT_COUNT; c++) {
        if (r->circuit[c]) {
            weights_cli_print_spectra(circuit_name[c], r->circuit[c], r->heads);
        }
    }
}

int main(int argc, char **argv)
{
    struct weights w = {0};
    struct option options[4 + PROJECTION_COUNT] = {
        {"heads", parse_number, &w.heads},
        {"kv_heads", parse_number, &w.kv_heads},
        {"head_dim", parse_number, &w.head_dim},
        {"offset", parse_number, &matrix_offset},
    };
    for (uint32_t p = 0; p < PROJECTION_COUNT; p++) {
        options[4 + p] = (struct option){projection_name[p], parse_matrix, &w.matrix[p]};
    }
    parse_options(argc, argv, NULL, options, 4 + PROJECTION_COUNT);
    spectrum_global_init();
    struct scratch scratch = {0};
    struct weights_result result;
    int rc = weights_check(&w);
    if (rc == 0) {
        rc = weights_compute(&w, &scratch, &result);
    }
    json_open(NULL, '{');
    if (rc < 0) {
        json_integer("error", rc);
    } else {
        print_result(&result);
        weights_result_clear(&result);
    }
    json_close('}');
    scratch_clear(&scratch);
    return 0;
}
