/* SPDX-License-Identifier: MIT */
/* Rows of all heads come one after the other. The sum of each row is checked, and the weights of
 * two candidates for the query are kept: the contents of the first decide which of them is shown. A
 * head's own rows go straight into the picture; the mean over heads is added up first, and is the
 * only map that is ever in memory. */
#include "clients/cli/show/internal.h"

#include "clients/cli/base/system.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* From here on a row has one key only. */
#define ALONE    0.9995f
#define ROW_NONE UINT32_MAX

struct measure_pass {
    const struct source_layer *layer;
    const struct show_request *request;
    struct findings *findings;
    uint32_t head; /* current */
    uint32_t
        candidates[2];    /* rows that the query may be; the second is ROW_NONE if there is none */
    float *kept[2];       /* [heads][columns] of each */
    float *mean;          /* [rows][columns], the sum until all are there; NULL = one head */
    uint32_t *count;      /* [picture_columns] numbers in the current row of the picture */
    double *sum;          /* [picture_columns] */
    uint32_t picture_row; /* current */
};

/* Returns whether the row attends to anything. */
static bool check_sum(struct measure_pass *pass, uint32_t row, const float *weights)
{
    struct row_sums *sums = &pass->findings->sums;
    /* A cell counts as often as it has keys in it. */
    const struct source_layer *layer = pass->layer;
    double sum = 0;
    unsigned any = 0;
    for (uint32_t c = 0; c < layer->columns; c++) {
        uint32_t begin = source_edge(c, layer->keys, layer->columns);
        sum += (double)weights[c] * (source_edge(c + 1, layer->keys, layer->columns) - begin);
        any |= weights[c] != 0;
    }
    sums->rows++;
    if (!isfinite(sum)) {
        sums->missing++;
        return false;
    }
    if (!any) {
        sums->zero++;
        return false;
    }
    sums->min = fmin(sums->min, sum);
    sums->max = fmax(sums->max, sum);
    sums->deviation += fabs(sum - 1);
    if (fabs(sum - 1) <= layer->tolerance) {
        sums->sound++;
    } else if (sums->other++ == 0) {
        sums->other_head = pass->head;
        sums->other_row = row;
        sums->other_sum = sum;
    }
    return true;
}

/* The map ------------------------------------------------------------------------------------- */

/* Whether a goes before b: larger, else of an earlier query, else of an earlier key. */
static bool is_before(const struct entry *a, const struct entry *b)
{
    if (a->weight != b->weight) {
        return a->weight > b->weight;
    }
    return a->row != b->row ? a->row < b->row : a->column < b->column;
}

/* Puts an entry at its place among the `most` first. */
static void measure_insert(struct entry *entries, uint32_t *count, uint32_t most,
                           struct entry entry)
{
    if (*count == most && (most == 0 || !is_before(&entry, &entries[most - 1]))) {
        return;
    }
    uint32_t at = *count < most ? (*count)++ : most - 1;
    for (; at > 0 && is_before(&entry, &entries[at - 1]); at--) {
        entries[at] = entries[at - 1];
    }
    entries[at] = entry;
}

static void measure_take_row(struct measure_pass *pass, uint32_t row, const float *weights)
{
    struct findings *f = pass->findings;
    uint32_t most = pass->request->pairs;
    for (uint32_t c = 0; c < pass->layer->columns; c++) {
        f->finite += isfinite(weights[c]) != 0;
        if (weights[c] > 0 &&
            (f->pair_count < most || (most > 0 && weights[c] > f->pairs[most - 1].weight))) {
            measure_insert(f->pairs, &f->pair_count, most, (struct entry){row, c, weights[c]});
        }
    }
    uint32_t columns = pass->layer->columns;
    for (uint32_t c = 0, j = 0; c < f->picture_columns; c++) {
        uint32_t end = source_edge(c + 1, columns, f->picture_columns);
        for (; j < end; j++) {
            if (isfinite(weights[j])) {
                pass->sum[c] += (double)weights[j];
                pass->count[c]++;
            }
        }
    }
    if (row + 1 == source_edge(pass->picture_row + 1, pass->layer->rows, f->picture_rows)) {
        double *cells = f->picture + (size_t)pass->picture_row * f->picture_columns;
        for (uint32_t c = 0; c < f->picture_columns; c++) {
            cells[c] = pass->count[c] > 0 ? pass->sum[c] / pass->count[c] : NAN;
            pass->sum[c] = 0;
            pass->count[c] = 0;
        }
        pass->picture_row++;
    }
}

/* The pass ------------------------------------------------------------------------------------ */

static void measure_visit(void *data, uint32_t row, const float *weights)
{
    struct measure_pass *pass = data;
    uint32_t columns = pass->layer->columns;
    if (check_sum(pass, row, weights) && pass->head == 0) {
        pass->candidates[1] = row; /* in the end the last one: padding is behind it */
    }
    for (int i = 0; i < 2; i++) {
        if (row == pass->candidates[i]) {
            memcpy(pass->kept[i] + (size_t)pass->head * columns, weights,
                   columns * sizeof *weights);
        }
    }
    if (pass->mean) {
        float *sum = pass->mean + (size_t)row * columns;
        for (uint32_t c = 0; c < columns; c++) {
            sum[c] += weights[c];
        }
    } else if (pass->head == pass->request->head) {
        measure_take_row(pass, row, weights);
    }
}

static int run_pass(struct source *source, struct measure_pass *pass, char *reterr)
{
    int code = CLI_OK;
    for (pass->head = 0; pass->head < pass->layer->heads && code == CLI_OK; pass->head++) {
        code = source_rows(source, pass->request->layer, pass->request->sample, pass->head,
                           measure_visit, pass, reterr);
    }
    if (code == CLI_OK && pass->mean) {
        const struct source_layer *l = pass->layer;
        for (uint32_t r = 0; r < l->rows; r++) {
            float *row = pass->mean + (size_t)r * l->columns;
            for (uint32_t c = 0; c < l->columns; c++) {
                row[c] /= (float)l->heads;
            }
            measure_take_row(pass, r, row);
        }
    }
    uint64_t counted = pass->findings->sums.sound + pass->findings->sums.other;
    pass->findings->sums.deviation =
        counted > 0 ? pass->findings->sums.deviation / (double)counted : NAN;
    return code;
}

/* The query ----------------------------------------------------------------------------------- */

uint32_t measure_top(const float *weights, uint32_t columns, uint32_t most,
                     struct entry *ret_entries)
{
    uint32_t count = 0;
    for (uint32_t c = 0; c < columns; c++) {
        if (isfinite(weights[c])) {
            measure_insert(ret_entries, &count, most, (struct entry){0, c, weights[c]});
        }
    }
    return count;
}

/* The query's weights in the map: one head's, or the mean of all. */
static void choose_query(const struct measure_pass *pass, const float *kept, float *ret_query)
{
    const struct source_layer *l = pass->layer;
    for (uint32_t c = 0; c < l->columns; c++) {
        double sum = 0;
        for (uint32_t h = 0; h < l->heads; h++) {
            sum += (double)kept[(size_t)h * l->columns + c];
        }
        ret_query[c] = pass->request->head == HEAD_MEAN
                           ? (float)(sum / l->heads)
                           : kept[(size_t)pass->request->head * l->columns + c];
    }
}

/* One key only, or none at all. */
static bool says_little(const float *weights, uint32_t columns)
{
    bool any = false;
    for (uint32_t c = 0; c < columns; c++) {
        if (weights[c] >= ALONE) {
            return true;
        }
        any = any || weights[c] != 0;
    }
    return !any;
}

int measure_map(struct source *source, const struct show_request *request,
                struct findings *ret_findings, char *reterr)
{
    const struct source_layer *layer = &source->layers[request->layer];
    struct findings findings = {.sums = {.min = INFINITY, .max = -INFINITY}}, *f = &findings;
    size_t columns = layer->columns, cells = layer->heads * columns;
    uint32_t query = request->query == TOKEN_AUTO ? 0 : request->query;
    f->picture_rows = layer->rows < request->picture_rows ? layer->rows : request->picture_rows;
    f->picture_columns =
        layer->columns < request->picture_columns ? layer->columns : request->picture_columns;
    f->top_count = layer->columns < TOP_KEYS ? layer->columns : TOP_KEYS;
    f->query = memory_new(columns, sizeof *f->query);
    f->tops = memory_new((size_t)layer->heads * f->top_count, sizeof *f->tops);
    f->picture = memory_new((size_t)f->picture_rows * f->picture_columns, sizeof *f->picture);
    struct measure_pass pass = {
        .layer = layer,
        .request = request,
        .findings = f,
        .candidates = {source_cell(query, layer->queries, layer->rows), ROW_NONE},
        .kept = {memory_new(cells, sizeof(float)), memory_new(cells, sizeof(float))},
        .mean =
            request->head == HEAD_MEAN ? memory_new(layer->rows * columns, sizeof(float)) : NULL,
        .count = memory_new(f->picture_columns, sizeof(uint32_t)),
        .sum = memory_new(f->picture_columns, sizeof(double)),
    };
    int code = run_pass(source, &pass, reterr);
    if (code == CLI_OK) {
        int chosen = 0;
        choose_query(&pass, pass.kept[0], f->query);
        bool other = pass.candidates[1] != ROW_NONE && pass.candidates[1] != pass.candidates[0];
        if (pass.request->query == TOKEN_AUTO && other && says_little(f->query, layer->columns)) {
            chosen = 1;
            f->moved = true;
            choose_query(&pass, pass.kept[1], f->query);
        }
        f->row = pass.candidates[chosen];
        for (uint32_t h = 0; h < layer->heads; h++) {
            struct entry *tops = f->tops + (size_t)h * f->top_count;
            uint32_t found = measure_top(pass.kept[chosen] + (size_t)h * layer->columns,
                                         layer->columns, f->top_count, tops);
            for (; found < f->top_count; found++) {
                tops[found] = (struct entry){.weight = NAN};
            }
        }
    }
    free(pass.kept[0]);
    free(pass.kept[1]);
    free(pass.mean);
    free(pass.count);
    free(pass.sum);
    if (code == CLI_OK) {
        *ret_findings = findings;
    } else {
        findings_clear(&findings);
    }
    return code;
}

void findings_clear(struct findings *findings)
{
    free(findings->query);
    free(findings->tops);
    free(findings->picture);
    *findings = (struct findings){0};
}
