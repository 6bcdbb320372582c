/* SPDX-License-Identifier: MIT */
#include "tests/unit/cli/source/opened.h"

#include <unistd.h>

int opened_set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.directory = "/tmp/attnd-source-XXXXXX"};
    assert_non_null(mkdtemp(f.directory));
    f.file = f.path;
    f.request = (struct source_request){
        .files = &f.file, .file_count = 1, .naming = {.stack = STACK_DECODER}};
    *state = &f;
    return 0;
}

int opened_tear_down(void **state)
{
    struct fixture *f = *state;
    source_free(&f->source);
    unlink(f->path);
    return rmdir(f->directory);
}

void opened_open(struct fixture *f)
{
    int code = source_open(&f->request, &f->source, f->error);
    if (code != CLI_OK) {
        print_error("%s\n", f->error);
    }
    assert_int_equal(code, CLI_OK);
}

void opened_expect_refusal(struct fixture *f, int code, const char *part)
{
    assert_int_equal(source_open(&f->request, &f->source, f->error), code);
    assert_null(f->source);
    if (!strstr(f->error, part)) {
        print_error("%s\n", f->error);
    }
    assert_non_null(strstr(f->error, part));
}

const struct source_layer *opened_layer(struct fixture *f, size_t index)
{
    assert_true(index < f->source->layer_count);
    return &f->source->layers[index];
}

void opened_expect_labels_refused(struct fixture *f, const char *why)
{
    assert_int_equal(source_choose(f->source, 0, 0, HEAD_MEAN, f->error), CLI_USAGE);
    assert_string_equal(f->error, why);
}
