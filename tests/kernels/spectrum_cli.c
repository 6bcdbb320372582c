/* SPDX-License-Identifier: MIT */
/* spectrum_cli: the spectrum of matrices in a file, by the reference and by every effort, as JSON.
 *
 * For test_spectrum.py, which owns the truth.
 *
 *     spectrum_cli FILE DTYPE ROWS COLUMNS [STRIDE]
 *
 * The file holds matrices of ROWS x STRIDE one after the other, the heads of one sample; columns
 * from COLUMNS on are padding. Prints a list with, per matrix, {"ref":{...},"norm":{...},
 * "leading":{...},"full":{...}}; numbers have 17 digits, NaN and Infinity in Python's spelling. */
#include "tests/kernels/cli.h"
#include "workers/linear/spectrum.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void spectrum_cli_print_numbers(const char *name, const double *x, uint32_t count)
{
    printf("\"%s\":", name);
    print_array(x, count);
}

static void spectrum_cli_print_spectrum(const char *name, const struct spectrum *s)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"spectral_norm", s->spectral_norm},
        {"stable_rank", s->stable_rank},
        {"condition_number", s->condition_number},
        {"rank", s->rank},
        {"effective_rank", s->effective_rank},
        {"effective_rank_entropy", s->effective_rank_entropy},
        {"nuclear_norm", s->nuclear_norm},
        {"eigenvalue_2", s->eigenvalue_2},
    };
    printf("\"%s\":{", name);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        printf("\"%s\":", numbers[i].name);
        print_number(numbers[i].value);
        printf(",");
    }
    spectrum_cli_print_numbers("singular_values", s->singular_values, SINGULAR_VALUES_MAX);
    printf(",");
    spectrum_cli_print_numbers("low_rank_error", s->low_rank_error, LOW_RANK_COUNT);
    printf("}");
}

static void spectrum_cli_print_all(const struct attention *a, uint32_t head,
                                   struct scratch *scratch)
{
    static const struct {
        const char *name;
        enum spectrum_effort effort;
    } efforts[] = {
        {"norm", SPECTRUM_NORM}, {"leading", SPECTRUM_LEADING}, {"full", SPECTRUM_EIGENVALUES}};
    struct spectrum s;
    if (spectrum_compute_ref(a, 0, head, scratch, &s) < 0) {
        die("out of memory");
    }
    printf("{");
    spectrum_cli_print_spectrum("ref", &s);
    for (size_t i = 0; i < sizeof efforts / sizeof efforts[0]; i++) {
        if (spectrum_compute(a, 0, head, efforts[i].effort, isa_best(), scratch, &s) < 0) {
            die("out of memory");
        }
        printf(",\n");
        spectrum_cli_print_spectrum(efforts[i].name, &s);
    }
    printf("}");
}

/* Reads the whole file. */
static void *read_whole(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        die("no such file");
    }
    long bytes = ftell(file);
    void *memory = bytes > 0 ? malloc((size_t)bytes) : NULL;
    rewind(file);
    if (!memory || fread(memory, 1, (size_t)bytes, file) != (size_t)bytes) {
        die("not readable");
    }
    fclose(file);
    *ret_bytes = (size_t)bytes;
    return memory;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        die("usage: spectrum_cli FILE DTYPE ROWS COLUMNS [STRIDE]");
    }
    spectrum_global_init();
    size_t bytes = 0;
    int32_t columns = (int32_t)atoi(argv[4]);
    struct attention a = {.dtype = parse_dtype(argv[2]), .batch = 1, .k_len = &columns};
    a.queries = (uint32_t)atoi(argv[3]);
    a.keys = (uint32_t)atoi(argv[argc > 5 ? 5 : 4]);
    a.weights = read_whole(argv[1], &bytes);
    size_t element = dtype_size(a.dtype);
    a.heads = (uint32_t)(bytes / (element * a.queries * a.keys));
    struct scratch scratch = {0};
    for (uint32_t h = 0; h < a.heads; h++) {
        printf(h > 0 ? ",\n" : "[");
        spectrum_cli_print_all(&a, h, &scratch);
    }
    printf("]\n");
    scratch_clear(&scratch);
    free((void *)a.weights);
    return 0;
}
