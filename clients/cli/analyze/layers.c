/* SPDX-License-Identifier: MIT */
/* layers: every array gets its place; sorted by place, the arrays of a layer stand side by side,
 * and so do two with the same name. What is shared by all layers is filled in at the end. */
#include "layers.h"

#include "reader.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct placed {
    struct place place;
    const struct array *array;
};

void layers_text(struct layer_id id, char ret_text[PLACE_TEXT_MAX])
{
    place_text(&(struct place){.id = id, .role = TENSOR_WEIGHTS}, ret_text);
}

static int fail_unknown(const struct array *array, char *reterr)
{
    const char *name = array->name;
    size_t before = strcspn(name, "0123456789"), behind = before;
    while (isdigit((unsigned char)name[behind]))
        behind++;
    const char *hole = behind > before ? "{layer}" : "", *number = behind > before ? hole : "0";
    return array_fail(reterr,
                      "%.200s: cannot place array '%.100s': names are " NAME_FORMS
                      "; to map it: --name '%.*s%s%.100s=decoder.%s.self' (see --help)",
                      array->file->path, name, (int)before, name, hole, name + behind, number);
}

static int fail_type(const struct array *array, char *reterr)
{
    return array_fail(reterr,
                      "%.200s: %.100s: dtype %s cannot be read (known: f32, f64, f16, bf16, bool "
                      "and integers, little-endian)",
                      array->file->path, array->name, array->type_name);
}

static int check_contents(const struct array *array, char *reterr)
{
    char shape[ARRAY_SHAPE_TEXT_MAX];
    array_shape_text(array, shape);
    if (array->type == ARRAY_OTHER)
        return fail_type(array, reterr);
    for (uint32_t i = 0; i < array->rank; i++)
        if (array->shape[i] == 0)
            return array_fail(reterr, "%.200s: %.100s: an axis of %s is empty", array->file->path,
                              array->name, shape);
    return 0;
}

/* Sets *ret_count to how many are not ignored. */
static int place_all(const struct array_list *list, const struct naming *naming,
                     struct placed *placed, size_t *ret_count, char *reterr)
{
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++) {
        const struct array *array = &list->items[i];
        enum name_verdict verdict = name_place(naming, array->name, &placed[count].place);
        if (verdict == NAME_UNKNOWN)
            return fail_unknown(array, reterr);
        if (verdict == NAME_IGNORED)
            continue;
        if (check_contents(array, reterr) != 0)
            return -1;
        placed[count++].array = array;
    }
    *ret_count = count;
    return 0;
}

static int compare_u32(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int compare_ids(struct layer_id a, struct layer_id b)
{
    int order = compare_u32(a.stack, b.stack);
    if (order == 0)
        order = compare_u32(a.layer, b.layer);
    return order != 0 ? order : compare_u32(a.site, b.site);
}

/* Shared arrays last. */
static int by_place(const void *a, const void *b)
{
    const struct place *x = &((const struct placed *)a)->place;
    const struct place *y = &((const struct placed *)b)->place;
    if (x->shared != y->shared)
        return x->shared ? 1 : -1;
    int order = x->shared ? 0 : compare_ids(x->id, y->id);
    return order != 0 ? order : compare_u32(x->role, y->role);
}

static int check_twice(const struct placed *placed, size_t count, char *reterr)
{
    for (size_t i = 1; i < count; i++) {
        const struct array *a = placed[i - 1].array, *b = placed[i].array;
        char text[PLACE_TEXT_MAX];
        if (by_place(&placed[i - 1], &placed[i]) != 0)
            continue;
        place_text(&placed[i].place, text);
        return array_fail(reterr, "%s is there twice: %.100s in %.200s, %.100s in %.200s", text,
                          a->name, a->file->path, b->name, b->file->path);
    }
    return 0;
}

/* items has room for all. */
static void fill_items(const struct placed *placed, size_t count, struct layers *layers)
{
    for (size_t i = 0; i < count && !placed[i].place.shared; i++) {
        const struct place *place = &placed[i].place;
        if (i == 0 || compare_ids(placed[i - 1].place.id, place->id) != 0)
            layers->items[layers->count++] = (struct layer_arrays){.id = place->id};
        layers->items[layers->count - 1].array[place->role] = placed[i].array;
        layers->mixed = layers->mixed || place->id.stack != layers->items[0].id.stack;
    }
}

/* Only self-attention has queries and keys of one length and one text. */
static int fill_shared(const struct placed *placed, size_t count, struct layers *layers,
                       char *reterr)
{
    for (size_t i = 0; i < count; i++) {
        bool taken = !placed[i].place.shared;
        for (size_t l = 0; placed[i].place.shared && l < layers->count; l++) {
            const struct array **array = &layers->items[l].array[placed[i].place.role];
            if (layers->items[l].id.site != SITE_SELF)
                continue;
            *array = *array ? *array : placed[i].array;
            taken = true;
        }
        if (!taken)
            return array_fail(reterr, "%.200s: %.100s: there is no self-attention it belongs to",
                              placed[i].array->file->path, placed[i].array->name);
    }
    return 0;
}

int layers_collect(const struct array_list *list, const struct naming *naming,
                   struct layers *ret_layers, char *reterr)
{
    struct layers layers = {0};
    size_t count = 0;
    struct placed *placed = calloc(list->count + 1, sizeof(*placed));
    int rc = placed ? place_all(list, naming, placed, &count, reterr)
                    : array_fail(reterr, "out of memory");
    if (rc == 0) {
        qsort(placed, count, sizeof(*placed), by_place);
        rc = check_twice(placed, count, reterr);
    }
    if (rc == 0 && !(layers.items = calloc(count + 1, sizeof(*layers.items))))
        rc = array_fail(reterr, "out of memory");
    if (rc == 0) {
        fill_items(placed, count, &layers);
        rc = layers.count > 0 ? fill_shared(placed, count, &layers, reterr)
                              : array_fail(reterr, "there is no attention in what was given");
    }
    free(placed);
    if (rc != 0)
        layers_clear(&layers);
    else
        *ret_layers = layers;
    return rc;
}

void layers_clear(struct layers *layers)
{
    free(layers->items);
    *layers = (struct layers){0};
}
