/* SPDX-License-Identifier: MIT */
/* layers: every array gets its place; sorted by place, the arrays of a layer stand side by side,
 * and so do two with the same name. Values shared by all layers are filled in at the end. */
#include "clients/cli/analyze/input.h"

#include "clients/cli/base/system.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct placed {
    struct place place;
    const struct array *array;
};

/* Names that no place has --------------------------------------------------------------------- */

/* Digits of the first number in a name that can be a layer's; *ret_before is what stands before
 * them. */
static size_t find_number(const char *name, size_t *ret_before)
{
    for (size_t at = 0; name[at]; at++) {
        size_t len = strspn(name + at, "0123456789");
        if (len > 0 && strtoull(name + at, NULL, 10) <= LAYER_MAX) {
            *ret_before = at;
            return len;
        }
        at += len > 0 ? len - 1 : 0;
    }
    *ret_before = strlen(name);
    return 0;
}

/* The possible meanings of an array, by its name and its shape: the end of a target. NULL = nothing
 * we know. */
static const char *guess_role(const struct array *array)
{
    if (!array_type_is_integer(array->type)) {
        return array->rank < 3 ? NULL : "";
    }
    if (strstr(array->name, "mask")) {
        return ".mask";
    }
    return strstr(array->name, "ids") || strstr(array->name, "token") ? ".tokens" : NULL;
}

static void write_hint(const struct array *array, char *ret_hint, size_t size)
{
    const char *name = array->name, *role = guess_role(array);
    size_t before, len = find_number(name, &before);
    char target[PLACE_TEXT_MAX];
    if (!role) {
        snprintf(ret_hint, size, "to leave it out: --ignore '%.100s'", name);
        return;
    }
    /* The target of a hint. Without a number in the name, masks and tokens are of all layers, and
     * those of the other side's text are of cross-attention. */
    bool number = len > 0;
    bool other = strncmp(name, "encoder_", strlen("encoder_")) == 0 && *role;
    const char *site = other || strstr(name, "cross") ? "cross" : "self";
    if (*role && !number && strcmp(site, "self") == 0) {
        snprintf(target, PLACE_TEXT_MAX, "%s", role + 1);
    } else {
        snprintf(target, PLACE_TEXT_MAX, "decoder.%s.%s%s", number ? "{layer}" : "0", site, role);
    }
    snprintf(ret_hint, size, "to map it: --name '%.*s%s%.100s=%s'",
             (int)(before < 100 ? before : 100), name, len > 0 ? "{layer}" : "",
             name + before + len, target);
}

/* Patterns that are about nothing are mistakes. */
static int check_patterns(const struct array_list *list, const struct name_rule *rules,
                          uint32_t count, const char *option, char *reterr)
{
    for (uint32_t r = 0; r < count; r++) {
        int len = (int)(rules[r].pattern_len < 200 ? rules[r].pattern_len : 200);
        bool used = false;
        for (size_t i = 0; i < list->count && !used; i++) {
            uint32_t layer;
            used = name_rule_matches(&rules[r], list->items[i].name, &layer);
        }
        if (!used) {
            return array_fail(reterr, "--%s: %.200s: no array has a name like %.*s", option,
                              rules[r].pattern, len, rules[r].pattern);
        }
    }
    return 0;
}

/* Placing ------------------------------------------------------------------------------------- */

/* The name of a .npy file says where its array belongs only if it is one of ours. A map in such a
 * file, when it is the only one, must be the first layer's weights. */
static bool is_alone(const struct array_list *list, const struct naming *naming, size_t index)
{
    const struct array *array = &list->items[index];
    enum dtype dtype;
    if (!npy_is(array->file->data, array->file->size) || array->rank < 2 ||
        !array_type_dtype(array->type, &dtype)) {
        return false;
    }
    for (size_t i = 0; i < list->count; i++) {
        struct place place;
        enum name_verdict verdict = name_place(naming, list->items[i].name, &place);
        if (i != index && (verdict == NAME_UNKNOWN || (verdict == NAME_PLACED && !place.shared))) {
            return false;
        }
    }
    return true;
}

/* Sets *ret_count to how many are not ignored. */
static int place_all(const struct array_list *list, const struct naming *naming,
                     struct placed *placed, size_t *ret_count, char *reterr)
{
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++) {
        const struct array *array = &list->items[i];
        struct place *place = &placed[count].place;
        enum name_verdict verdict = name_place(naming, array->name, place);
        if (verdict == NAME_UNKNOWN && is_alone(list, naming, i)) {
            *place = (struct place){.id = {naming->stack, 0, SITE_SELF}, .role = TENSOR_WEIGHTS};
            verdict = NAME_PLACED;
        }
        if (verdict == NAME_UNKNOWN && list->count == 1 &&
            npy_is(array->file->data, array->file->size)) {
            return array_fail(reterr,
                              "%.200s: rank %" PRIu32 ", type '%s': no attention map (valid: "
                              "[[batch,] heads,] queries, keys of f32, f64, f16 or bf16), and its "
                              "name is of nothing else (see --help)",
                              array->file->path, array->rank, array->type_name);
        }
        if (verdict == NAME_UNKNOWN) {
            char hint[ARRAY_ERROR_MAX / 2];
            write_hint(array, hint, sizeof hint);
            return array_fail(reterr,
                              "%.200s: cannot place array '%.100s': names are " NAME_FORMS
                              "; %s (see --help)",
                              array->file->path, array->name, hint);
        }
        if (verdict == NAME_IGNORED) {
            continue;
        }
        if (array->type == ARRAY_OTHER) {
            return array_fail(
                reterr,
                "%.200s: %.100s: dtype %s cannot be read (known: f32, f64, f16, bf16, bool "
                "and integers, little-endian)",
                array->file->path, array->name, array->type_name);
        }
        placed[count++].array = array;
    }
    *ret_count = count;
    return 0;
}

/* Shared arrays last. */
static int by_place(const void *a, const void *b)
{
    const struct place *x = &((const struct placed *)a)->place;
    const struct place *y = &((const struct placed *)b)->place;
    if (x->shared != y->shared) {
        return x->shared ? 1 : -1;
    }
    int order = x->shared ? 0 : place_compare(x->id, y->id);
    return order != 0 ? order : (x->role > y->role) - (x->role < y->role);
}

static int check_twice(const struct placed *placed, size_t count, char *reterr)
{
    for (size_t i = 1; i < count; i++) {
        const struct array *a = placed[i - 1].array, *b = placed[i].array;
        if (by_place(&placed[i - 1], &placed[i]) != 0) {
            continue;
        }
        return array_fail(reterr, "%s is there twice: %.100s in %.200s, %.100s in %.200s",
                          place_text(&placed[i].place, (char[PLACE_TEXT_MAX]){""}), a->name,
                          a->file->path, b->name, b->file->path);
    }
    return 0;
}

/* Only self-attention has queries and keys of one length and one text. */
static int fill_shared(const struct placed *placed, size_t count, struct layers *layers,
                       char *reterr)
{
    for (size_t i = 0; i < count; i++) {
        bool taken = !placed[i].place.shared;
        for (size_t l = 0; placed[i].place.shared && l < layers->count; l++) {
            const struct array **array = &layers->items[l].array[placed[i].place.role];
            if (layers->items[l].id.site != SITE_SELF) {
                continue;
            }
            *array = *array ? *array : placed[i].array;
            taken = true;
        }
        if (!taken) {
            return array_fail(reterr, "%.200s: %.100s: there is no self-attention it belongs to",
                              placed[i].array->file->path, placed[i].array->name);
        }
    }
    return 0;
}

int layers_collect(const struct array_list *list, const struct naming *naming,
                   struct layers *ret_layers, char *reterr)
{
    struct layers layers = {0};
    size_t count = 0;
    struct placed *placed = memory_new(list->count, sizeof *placed);
    int rc = check_patterns(list, naming->rules, naming->rule_count, "name", reterr);
    if (rc == 0) {
        rc = check_patterns(list, naming->ignore, naming->ignore_count, "ignore", reterr);
    }
    if (rc == 0) {
        rc = place_all(list, naming, placed, &count, reterr);
    }
    if (rc == 0) {
        qsort(placed, count, sizeof *placed, by_place);
        rc = check_twice(placed, count, reterr);
    }
    if (rc == 0) {
        layers.items = memory_new(count, sizeof *layers.items);
        for (size_t i = 0; i < count && !placed[i].place.shared; i++) {
            const struct place *place = &placed[i].place;
            if (i == 0 || place_compare(placed[i - 1].place.id, place->id) != 0) {
                layers.items[layers.count++] = (struct layer_arrays){.id = place->id};
            }
            layers.items[layers.count - 1].array[place->role] = placed[i].array;
            layers.mixed = layers.mixed || place->id.stack != layers.items[0].id.stack;
        }
        rc = layers.count > 0 ? fill_shared(placed, count, &layers, reterr)
                              : array_fail(reterr, "there is no attention in what was given");
    }
    free(placed);
    if (rc != 0) {
        layers_clear(&layers);
    } else {
        *ret_layers = layers;
    }
    return rc;
}

int layers_keep_maps(struct layers *layers, char *reterr)
{
    size_t kept = 0;
    for (size_t i = 0; i < layers->count; i++) {
        struct layer_arrays *layer = &layers->items[kept];
        *layer = layers->items[i];
        bool weights = layer->array[TENSOR_WEIGHTS] != NULL;
        bool qk = layer->array[TENSOR_Q] || layer->array[TENSOR_K];
        unsigned of_qk =
            1u << TENSOR_Q | 1u << TENSOR_K | 1u << TENSOR_MASK | 1u << TENSOR_DOCUMENTS;
        for (int role = 0; role < TENSOR_ROLE_COUNT; role++) {
            if (((weights ? 1u << TENSOR_WEIGHTS : of_qk) >> role & 1u) == 0) {
                layer->array[role] = NULL;
            }
        }
        kept += weights || qk;
    }
    layers->count = kept;
    return kept > 0 ? 0
                    : array_fail(reterr, "there is neither a map of attention in what was given "
                                         "nor queries and keys: of projections there are no maps");
}

void layers_clear(struct layers *layers)
{
    free(layers->items);
    *layers = (struct layers){0};
}
