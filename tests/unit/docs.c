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

/* Compares the text in a file between two marks. */
static void docs_expect_between(const char *name, const char *begin, const char *end,
                                const char *printed)
{
    char *text = docs_read(name), *whole;
    char *start = strstr(text, begin);
    assert_non_null(start);
    start += strlen(begin);
    char *rest = strstr(start, end);
    assert_non_null(rest);
    assert_true(asprintf(&whole, "%.*s%s%s", (int)(start - text), text, printed, rest) > 0);
    docs_expect(name, whole);
    free(whole);
    free(text);
}

void docs_expect_table(const char *name, const char *table, void (*print)(FILE *out))
{
    char *printed = docs_printed(print), begin[64], end[64];
    snprintf(begin, sizeof begin, "<!-- %s -->\n", table);
    snprintf(end, sizeof end, "<!-- /%s -->", table);
    docs_expect_between(name, begin, end, printed);
    free(printed);
}

void docs_expect_bytes(const char *name, const char *example, const unsigned char *bytes,
                       size_t count)
{
    char *printed = calloc(3 * count + 1, 1), begin[64];
    assert_non_null(printed);
    for (size_t i = 0; i < count; i++) {
        snprintf(printed + 3 * i, 4, "%02x%c", bytes[i],
                 i % 16 == 15 || i + 1 == count ? '\n' : ' ');
    }
    snprintf(begin, sizeof begin, "<!-- golden: %s -->\n```\n", example);
    docs_expect_between(name, begin, "```", printed);
    free(printed);
}
