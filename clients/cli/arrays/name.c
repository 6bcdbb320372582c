/* SPDX-License-Identifier: MIT */
/* name: a name is read from left to right by small takers, each of which moves on only when it
 * found what it wanted. A pattern with a number in it is two patterns, before and behind; each run
 * of digits in the name is tried in turn. */
#include "clients/cli/arrays/name.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest target with its number put in. */
#define TARGET_MAX 128
#define DIGITS     "0123456789"

/* Takers -------------------------------------------------------------------------------------- */

static bool name_take(const char **name, const char *word)
{
    size_t len = strlen(word);
    if (strncmp(*name, word, len) != 0) {
        return false;
    }
    *name += len;
    return true;
}

static bool take_layer(const char **name, uint32_t *ret_layer)
{
    size_t len = strspn(*name, DIGITS);
    unsigned long long layer = strtoull(*name, NULL, 10); /* of too many digits the most there is */
    if (len == 0 || layer > LAYER_MAX) {
        return false;
    }
    *name += len;
    *ret_layer = (uint32_t)layer;
    return true;
}

/* One of the two names of an enum. */
static bool take_either(const char **name, const char *first, const char *second, int *ret_which)
{
    *ret_which = name_take(name, first) ? 0 : 1;
    return *ret_which == 0 || name_take(name, second);
}

static bool parse_role(const char *word, enum tensor_role *ret_role)
{
    if (strcmp(word, NAME_PADDING_MASK) == 0) {
        *ret_role = TENSOR_MASK;
    } else if (strcmp(word, NAME_INPUT_IDS) == 0) {
        *ret_role = TENSOR_TOKENS;
    } else {
        return tensor_role_parse(word, strlen(word), ret_role) == 0;
    }
    return true;
}

/* The rest of the name: nothing, or ".q" and the like. */
static bool take_role(const char *rest, enum tensor_role *ret_role)
{
    *ret_role = TENSOR_WEIGHTS;
    if (*rest == '\0') {
        return true;
    }
    return *rest == '.' && parse_role(rest + 1, ret_role);
}

/* The forms a name can have ------------------------------------------------------------------- */

static bool place_full(const char *name, struct place *place)
{
    int stack, site = 0;
    bool good = take_either(&name, stack_name(0), stack_name(1), &stack) && name_take(&name, ".") &&
                take_layer(&name, &place->id.layer) && name_take(&name, ".") &&
                take_either(&name, site_name(0), site_name(1), &site) &&
                take_role(name, &place->role);
    place->id.stack = (enum stack)stack;
    place->id.site = (enum site)site;
    return good;
}

static bool place_projection(const char *name, struct place *place)
{
    return name_take(&name, "weights.") && take_layer(&name, &place->id.layer) &&
           take_role(name, &place->role) && place->role >= TENSOR_WQ && place->role <= TENSOR_WO;
}

/* A tuple of Hugging Face's, or of numpy's. */
static bool place_tuple(const char *name, struct place *place)
{
    static const struct {
        const char *word;
        int stack; /* -1 = as the caller says */
        enum site site;
    } tuples[] = {
        {"attentions", -1, SITE_SELF},
        {"encoder_attentions", STACK_ENCODER, SITE_SELF},
        {"decoder_attentions", STACK_DECODER, SITE_SELF},
        {"cross_attentions", STACK_DECODER, SITE_CROSS},
        {"arr", -1, SITE_SELF},
    };
    for (size_t i = 0; i < sizeof tuples / sizeof tuples[0]; i++) {
        const char *rest = name;
        if (!name_take(&rest, tuples[i].word) ||
            !(name_take(&rest, ".") || name_take(&rest, "_")) ||
            !take_layer(&rest, &place->id.layer) || !take_role(rest, &place->role)) {
            continue;
        }
        if (tuples[i].stack >= 0) {
            place->id.stack = (enum stack)tuples[i].stack;
        }
        place->id.site = tuples[i].site;
        return true;
    }
    return false;
}

static bool place_shared(const char *name, struct place *place)
{
    if (!parse_role(name, &place->role)) {
        return false;
    }
    place->shared = place->role == TENSOR_MASK || place->role == TENSOR_TOKENS ||
                    place->role == TENSOR_DOCUMENTS;
    return place->shared;
}

static bool place_known(enum stack stack, const char *name, struct place *ret_place)
{
    static bool (*const forms[])(const char *name, struct place *place) = {
        place_full, place_projection, place_tuple, place_shared};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct place place = {.id = {.stack = stack, .site = SITE_SELF}};
        if (forms[i](name, &place)) {
            *ret_place = place;
            return true;
        }
    }
    return false;
}

int place_compare(struct layer_id a, struct layer_id b)
{
    if (a.stack != b.stack) {
        return a.stack < b.stack ? -1 : 1;
    }
    if (a.layer != b.layer) {
        return a.layer < b.layer ? -1 : 1;
    }
    return (a.site > b.site) - (a.site < b.site);
}

const char *place_text(const struct place *place, char ret_text[PLACE_TEXT_MAX])
{
    const char *role = tensor_role_name(place->role);
    if (place->shared) {
        snprintf(ret_text, PLACE_TEXT_MAX, "%s", role);
    } else {
        bool weights = place->role == TENSOR_WEIGHTS;
        snprintf(ret_text, PLACE_TEXT_MAX, "%s%s%s", PLACE_LAYER(place->id), weights ? "" : ".",
                 weights ? "" : role);
    }
    return ret_text;
}

/* Patterns ------------------------------------------------------------------------------------ */

/* Whether a whole text matches a pattern whose only special sign is *. A star first takes nothing;
 * on a mismatch the last one takes one character more. */
static bool name_matches(const char *pattern, size_t pattern_len, const char *text, size_t len)
{
    size_t p = 0, t = 0, star = SIZE_MAX, taken = 0;
    while (t < len) {
        if (p < pattern_len && pattern[p] == '*') {
            star = p++;
            taken = t;
        } else if (p < pattern_len && pattern[p] == text[t]) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++taken;
        } else {
            return false;
        }
    }
    while (p < pattern_len && pattern[p] == '*') {
        p++;
    }
    return p == pattern_len;
}

/* Finds {layer} or {}; returns where, and how long it is, or NULL. */
static const char *find_hole(const char *text, size_t len, size_t *ret_hole)
{
    static const char *const holes[] = {"{layer}", "{}"};
    for (int i = 0; i < 2; i++) {
        const char *at = memmem(text, len, holes[i], strlen(holes[i]));
        *ret_hole = strlen(holes[i]);
        if (at) {
            return at;
        }
    }
    return NULL;
}

static size_t count_holes(const char *text, size_t len)
{
    size_t count = 0, hole;
    const char *at;
    while ((at = find_hole(text, len, &hole)) != NULL) {
        len -= (size_t)(at - text) + hole;
        text = at + hole;
        count++;
    }
    return count;
}

bool name_rule_matches(const struct name_rule *rule, const char *name, uint32_t *ret_layer)
{
    size_t hole, len = strlen(name);
    const char *at = find_hole(rule->pattern, rule->pattern_len, &hole);
    *ret_layer = 0;
    if (!at) {
        return name_matches(rule->pattern, rule->pattern_len, name, len);
    }
    size_t before = (size_t)(at - rule->pattern), behind = rule->pattern_len - before - hole;
    for (const char *run = name; *run; run += strspn(run, DIGITS) ? strspn(run, DIGITS) : 1) {
        const char *rest = run;
        if (take_layer(&rest, ret_layer) &&
            name_matches(rule->pattern, before, name, (size_t)(run - name)) &&
            name_matches(at + hole, behind, rest, strlen(rest))) {
            return true;
        }
    }
    return false;
}

/* The target with the number put in; false when that is too long. */
static bool fill_target(const struct name_rule *rule, uint32_t layer, char ret_name[TARGET_MAX])
{
    size_t hole, len = strlen(rule->target);
    const char *at = find_hole(rule->target, len, &hole);
    int used = at ? snprintf(ret_name, TARGET_MAX, "%.*s%" PRIu32 "%s", (int)(at - rule->target),
                             rule->target, layer, at + hole)
                  : snprintf(ret_name, TARGET_MAX, "%s", rule->target);
    return used < TARGET_MAX;
}

static const char too_many[] = "too many of these (at most 64)";

const char *naming_add_rule(void *to, const char *text)
{
    struct naming *naming = to;
    const char *equals = strrchr(text, '=');
    char name[TARGET_MAX];
    struct place place;
    if (naming->rule_count == NAME_RULES_MAX) {
        return too_many;
    }
    if (!equals || equals == text) {
        return "not PATTERN=TARGET, such as 'h.{layer}.attn=decoder.{layer}.self'";
    }
    struct name_rule rule = {text, equals + 1, (size_t)(equals - text)};
    size_t holes = count_holes(rule.pattern, rule.pattern_len);
    if (holes > 1 || count_holes(rule.target, strlen(rule.target)) != holes) {
        return "PATTERN and TARGET have one {layer} each, or none";
    }
    if (!fill_target(&rule, 0, name) || !place_known(STACK_DECODER, name, &place)) {
        return "the name behind = is none of " NAME_FORMS;
    }
    naming->rules[naming->rule_count++] = rule;
    return NULL;
}

const char *naming_add_ignored(void *to, const char *pattern)
{
    struct naming *naming = to;
    if (naming->ignore_count == NAME_RULES_MAX) {
        return too_many;
    }
    if (*pattern == '\0') {
        return "not a pattern, such as 'embed*'";
    }
    naming->ignore[naming->ignore_count++] = (struct name_rule){pattern, NULL, strlen(pattern)};
    return NULL;
}

const char *naming_set_stack(void *to, const char *text)
{
    struct naming *naming = to;
    int stack;
    bool good = take_either(&text, stack_name(0), stack_name(1), &stack) && *text == '\0';
    naming->stack = good ? (enum stack)stack : naming->stack;
    return good ? NULL : "valid: encoder, decoder";
}

enum name_verdict name_place(const struct naming *naming, const char *name, struct place *ret_place)
{
    char target[TARGET_MAX];
    uint32_t layer;
    for (uint32_t i = 0; i < naming->rule_count; i++) {
        if (name_rule_matches(&naming->rules[i], name, &layer)) {
            return fill_target(&naming->rules[i], layer, target) &&
                           place_known(naming->stack, target, ret_place)
                       ? NAME_PLACED
                       : NAME_UNKNOWN;
        }
    }
    for (uint32_t i = 0; i < naming->ignore_count; i++) {
        if (name_rule_matches(&naming->ignore[i], name, &layer)) {
            return NAME_IGNORED;
        }
    }
    return place_known(naming->stack, name, ret_place) ? NAME_PLACED : NAME_UNKNOWN;
}
