/* SPDX-License-Identifier: MIT */
#include "tests/unit/docs.h"

#include "tests/unit/unit.h"

static char *docs_read(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", SOURCE_ROOT, name);
    char *text = calloc(1, 1 << 20);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static char *docs_printed(void (*print)(FILE *out))
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    print(out);
    fclose(out);
    return text;
}

void docs_expect_file(const char *name, const char *text)
{
    char *found = docs_read(name);
    if (strcmp(found, text) != 0 && getenv("ATTND_UPDATE_DOCS")) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", SOURCE_ROOT, name);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(text, file);
        fclose(file);
    } else if (strcmp(found, text) != 0) {
        fail_msg("%s is not what the tables say: ATTND_UPDATE_DOCS=1 meson test -C build "
                 "config-docs protocol daemon-http_routes writes it",
                 name);
    }
    free(found);
}

void docs_expect_table(const char *name, const char *table, void (*print)(FILE *out))
{
    char *text = docs_read(name), *printed = docs_printed(print), mark[64], *whole = NULL;
    size_t size = 0;
    snprintf(mark, sizeof mark, "<!-- %s -->\n", table);
    char *start = strstr(text, mark);
    assert_non_null(start);
    start += strlen(mark);
    snprintf(mark, sizeof mark, "<!-- /%s -->", table);
    char *end = strstr(start, mark);
    assert_non_null(end);
    FILE *out = open_memstream(&whole, &size);
    fprintf(out, "%.*s%s%s", (int)(start - text), text, printed, end);
    fclose(out);
    docs_expect_file(name, whole);
    free(whole);
    free(printed);
    free(text);
}
