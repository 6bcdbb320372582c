/* SPDX-License-Identifier: MIT */
#include "tests/unit/docs.h"

#include "tests/unit/unit.h"

static FILE *docs_open(const char *name, const char *mode)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", SOURCE_ROOT, name);
    FILE *file = fopen(path, mode);
    assert_non_null(file);
    return file;
}

static char *docs_read(const char *name)
{
    char *text = calloc(1, 1 << 20);
    FILE *file = docs_open(name, "r");
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

static void docs_expect(const char *name, const char *text)
{
    char *found = docs_read(name);
    if (strcmp(found, text) != 0 && getenv("ATTND_UPDATE_DOCS")) {
        FILE *file = docs_open(name, "w");
        fputs(text, file);
        fclose(file);
        free(found);
        found = docs_read(name);
    }
    if (strcmp(found, text) != 0) {
        fail_msg("%s is not what the tables say: ATTND_UPDATE_DOCS=1 meson test -C build "
                 "config-docs protocol daemon-http_routes writes it",
                 name);
    }
    free(found);
}

void docs_expect_file(const char *name, void (*print)(FILE *out))
{
    char *text = docs_printed(print);
    docs_expect(name, text);
    free(text);
}

void docs_expect_table(const char *name, const char *table, void (*print)(FILE *out))
{
    char *text = docs_read(name), *printed = docs_printed(print), mark[64], *whole;
    snprintf(mark, sizeof mark, "<!-- %s -->\n", table);
    char *start = strstr(text, mark);
    assert_non_null(start);
    start += strlen(mark);
    snprintf(mark, sizeof mark, "<!-- /%s -->", table);
    char *end = strstr(start, mark);
    assert_non_null(end);
    assert_true(asprintf(&whole, "%.*s%s%s", (int)(start - text), text, printed, end) > 0);
    docs_expect(name, whole);
    free(whole);
    free(printed);
    free(text);
}
