/* SPDX-License-Identifier: MIT */
/* PROTOCOL.md is the contract, so it must not lag behind the lists it describes. */
#include "tests/unit/proto/support.h"

#include "proto/err.h"
#include "proto/header.h"
#include "proto/metric.h"
#include "tests/unit/docs.h"

/* The document as a string. */
static char *document(void)
{
    struct bytes bytes = bytes_file(PROTOCOL_MD);
    char *text = realloc(bytes.data, bytes.len + 1);

    assert_non_null(text);
    text[bytes.len] = '\0';
    return text;
}

static void expect_mention(const char *text, const char *word)
{
    char quoted[128];

    snprintf(quoted, sizeof quoted, "`%s`", word);
    if (!strstr(text, quoted)) {
        fail_msg("PROTOCOL.md does not mention %s", quoted);
    }
}

TEST(every_reason_is_listed)
{
    char *text = document();

    for (int i = 0; i < ERR_COUNT; i++) {
        expect_mention(text, err_slug(ERR_BASE - i));
    }
    free(text);
}

static void print_metrics(FILE *out)
{
    static const char *const per[] = {"attention row", "message", "message of `weights`"};

    fputs("| metric | one value per | listed in | unit |\n|---|---|---|---|\n", out);
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        fprintf(out, "| `%s` | %s | `%s` | %s |\n", metric_info[i].name, per[metric_info[i].kind],
                metric_in_spectrum(i) ? "spectrum" : "heads", metric_info[i].unit);
    }
}

TEST(every_metric_is_listed)
{
    docs_expect_table("proto/PROTOCOL.md", "metrics", print_metrics);
}

static void print_sums(FILE *out)
{
    fputs("| sum | |\n|---|---|\n", out);
    for (int i = 0; i < ROW_SUM_COUNT; i++) {
        fprintf(out, "| `%s` | %s%s |\n", row_sum_name((enum row_sum)i),
                row_sum_needed((enum row_sum)i) ? "required; " : "", row_sum_text((enum row_sum)i));
    }
}

TEST(every_sum_of_rows_is_listed)
{
    docs_expect_table("proto/PROTOCOL.md", "sums", print_sums);
}

static bool is_per_row(unsigned metric)
{
    return metric_info[metric].kind == METRIC_KIND_ROW;
}

static bool is_per_message(unsigned metric)
{
    return metric_info[metric].kind == METRIC_KIND_MESSAGE && !metric_in_spectrum(metric);
}

static bool is_share(unsigned metric)
{
    return metric_info[metric].minimum == 0 && metric_info[metric].maximum == 1;
}

static void print_names(FILE *out, const char *begin, bool (*has)(unsigned), const char *end)
{
    fputs(begin, out);
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (has(i)) {
            fprintf(out, "    \"%s\",\n", metric_info[i].name);
        }
    }
    fputs(end, out);
}

static void print_module(FILE *out)
{
    fputs("# SPDX-License-Identifier: MIT\n"
          "\"\"\"metrics: the metrics of proto/metric.def, in its order.\n\n"
          "Written by `ATTND_UPDATE_DOCS=1 meson test -C build protocol`.\n\"\"\"\n",
          out);
    print_names(out, "\n# One value per attention row.\nROW_METRICS = (\n", is_per_row, ")\n");
    print_names(out, "# One value per message, of each head.\nMESSAGE_METRICS = (\n",
                is_per_message, ")\n");
    print_names(out, "# In 0 to 1.\nSHARES = frozenset((\n", is_share, "))\n");
    fputs("# Units other than 1.\nUNITS = {\n", out);
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (strcmp(metric_info[i].unit, "1") != 0) {
            fprintf(out, "    \"%s\": \"%s\",\n", metric_info[i].name, metric_info[i].unit);
        }
    }
    fputs("}\n", out);
}

TEST(the_python_client_has_the_metrics)
{
    docs_expect_file("clients/python/attnd/base/metrics.py", print_module);
}

enum when { PRESENT, PAST, BOTH, OWN };
static const char READ[] = "`read`", PLAN[] = "`plan`", ADMIN[] = "`admin`";

static const struct {
    const char *name, *takes, *role;
    bool of_all;
    enum when when;
    const char *result;
} methods[] = {
#define METHOD(name, function, when, role, of_all, takes, result)                                  \
    {name, takes, role, of_all, when, result},
#include "proto/method.def"
};

static void print_parameters(FILE *out, const char *takes)
{
    const char *comma = "";

    for (int size; (size = (int)strcspn(takes, " ")) > 0; takes += strspn(takes, " ")) {
        bool needed = takes[size - 1] == '!';
        const char *mark = needed ? "**" : "";
        if (strncmp(takes, "...", 3) != 0) {
            fprintf(out, "%s%s`%.*s`%s", comma, mark, size - needed, takes, mark);
            comma = ", ";
        }
        takes += size;
    }
}

static void print_methods(FILE *out, bool of_present)
{
    fputs("| method | parameters | role | result |\n|---|---|---|---|\n", out);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (methods[i].when != OWN && (methods[i].when == PRESENT) == of_present) {
            fprintf(out, "| `%s` | ", methods[i].name);
            print_parameters(out, methods[i].takes);
            fprintf(out, " | %s%s | %s |\n", methods[i].role, methods[i].of_all ? ", all jobs" : "",
                    methods[i].result);
        }
    }
}

static void print_present(FILE *out)
{
    print_methods(out, true);
}

static void print_past(FILE *out)
{
    print_methods(out, false);
}

TEST(every_method_for_clients_is_listed)
{
    docs_expect_table("proto/PROTOCOL.md", "methods", print_present);
    docs_expect_table("proto/PROTOCOL.md", "methods of the past", print_past);
}

TEST(the_byte_examples_are_the_golden_files)
{
    static const char *const names[] = {
        "attention", "qk", "weights", "epoch_end", "log", "epoch_end_reliable", "lane_answer"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];

        snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, names[i]);
        OWNED(bytes_free) struct bytes golden = bytes_file(path);
        docs_expect_bytes("proto/PROTOCOL.md", names[i], golden.data, golden.len);
    }
}
