/* SPDX-License-Identifier: MIT */
/* spectrum_cli: the spectrum of matrices in a file, by the reference and by every effort, as JSON.
 *
 * For test_spectrum.py, which owns the truth.
 *
 *     spectrum_cli FILE DTYPE ROWS COLUMNS [STRIDE]
 *
 * The file holds matrices of ROWS x STRIDE one after the other, the heads of one sample; columns
 * from COLUMNS on are padding. Prints a list with, per matrix, {"ref":{...},"norm":{...},
 * "leading":{...},"full":{...}}. */
#include "tests/kernels/cli.h"

#include <stdlib.h>
#include <sys/stat.h>

static void spectrum_cli_print_all(const struct attention *a, uint32_t head,
                                   struct scratch *scratch)
{
    static const struct {
        const char *name;
        enum spectrum_effort effort;
    } efforts[] = {
        {"norm", SPECTRUM_NORM}, {"leading", SPECTRUM_LEADING}, {"full", SPECTRUM_EIGENVALUES}};
    struct spectrum s;
    json_open(NULL, '{');
    must(spectrum_compute_ref(a, 0, head, scratch, &s));
    json_spectrum("ref", &s);
    for (size_t i = 0; i < sizeof efforts / sizeof efforts[0]; i++) {
        must(spectrum_compute(a, 0, head, efforts[i].effort, isa_best(), scratch, &s));
        json_spectrum(efforts[i].name, &s);
    }
    json_close('}');
}

int main(int argc, char **argv)
{
    struct stat file;
    if (argc < 5) {
        die("usage: spectrum_cli FILE DTYPE ROWS COLUMNS [STRIDE]");
    }
    if (stat(argv[1], &file) != 0) {
        die("no such file");
    }
    spectrum_global_init();
    int32_t columns = (int32_t)atoi(argv[4]);
    struct attention a = {.batch = 1, .k_len = &columns};
    parse_dtype(argv[2], &a.dtype);
    a.queries = (uint32_t)atoi(argv[3]);
    a.keys = (uint32_t)atoi(argv[argc > 5 ? 5 : 4]);
    a.heads = (uint32_t)((size_t)file.st_size / (dtype_size(a.dtype) * a.queries * a.keys));
    a.weights = read_tensor(argv[1], (size_t)file.st_size, 0);
    struct scratch scratch = {0};
    json_open(NULL, '[');
    for (uint32_t h = 0; h < a.heads; h++) {
        spectrum_cli_print_all(&a, h, &scratch);
    }
    json_close(']');
    scratch_clear(&scratch);
    return 0;
}
