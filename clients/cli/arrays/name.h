/* SPDX-License-Identifier: MIT */
/* name: derives the layer and role of an array from its name.
 *
 *     decoder.3.self              attention weights (also decoder.3.self.weights)
 *     decoder.3.self.q            .k .v .dout .wo_r .x_norm .mask .tokens .grad .documents .wq .wk
 *                                 .wv .wo
 *     weights.3.wq                the same as STACK.3.self.wq
 *     attentions.3, attentions_3  STACK.3.self: tuples as Hugging Face's models return them;
 *     arr_3                       the same: np.savez(file, *tuple)
 *     encoder_attentions.3, decoder_attentions.3, cross_attentions.3 (the decoder's)
 *     mask, tokens, documents     of every self-attention that has none of its own
 *     attention_mask, input_ids   the same as mask, tokens
 *
 * STACK is `naming.stack`. Further names are mapped by rules PATTERN=TARGET. Pure; any thread. */
#ifndef CLIENTS_CLI_ARRAYS_NAME_H
#define CLIENTS_CLI_ARRAYS_NAME_H

#include "proto/header.h"

/* Words for roles that others use: decoder.3.self.attention_mask is its mask, input_ids are its
 * tokens; alone they are of every self-attention, as `mask` and `tokens`. */
#define NAME_PADDING_MASK "attention_mask"
#define NAME_INPUT_IDS    "input_ids"

/* The names that can be placed, for messages and help: one line. */
#define NAME_FORMS                                                                                 \
    "<encoder|decoder>.<layer>.<self|cross>[.q|.k|.v|.mask|...], weights.<layer>.wq, "             \
    "attentions.<layer>, arr_<layer>"

/* Encoder before decoder, by layer, self before cross: less than 0, 0, or more. */
int place_compare(struct layer_id a, struct layer_id b);

struct place {
    bool shared; /* of every self-attention; `id` says nothing */
    struct layer_id id;
    enum tensor_role role;
};

/* A PATTERN matches whole names: {layer} or {} is a number, * any text, everything else itself. The
 * number stands for {layer} or {} in TARGET, which is a name as above. Both point into the rule's
 * text. */
struct name_rule {
    const char *pattern, *target; /* target NULL: such names are left out */
    size_t pattern_len;
};

#define NAME_RULES_MAX 64

struct naming {
    enum stack stack;
    struct name_rule rules[NAME_RULES_MAX];
    uint32_t rule_count;
    struct name_rule ignore[NAME_RULES_MAX];
    uint32_t ignore_count;
};

/* The values of --name, --ignore and --stack, for a struct naming; the text is borrowed. Each
 * returns NULL, or what is wrong with it, as option.h wants it. */
const char *naming_add_rule(void *to, const char *text);
const char *naming_add_ignored(void *to, const char *pattern);
const char *naming_set_stack(void *to, const char *text);

enum name_verdict { NAME_PLACED, NAME_IGNORED, NAME_UNKNOWN };

/* The rules come first, in their order, then what is ignored, then the names above. */
enum name_verdict name_place(const struct naming *naming, const char *name,
                             struct place *ret_place);

/* Whether a rule is about this name at all; sets the number in it, 0 without one. */
bool name_rule_matches(const struct name_rule *rule, const char *name, uint32_t *ret_layer);

/* "decoder.3.self", "decoder.3.self.q"; "mask" when shared. */
#define PLACE_TEXT_MAX 64
const char *place_text(const struct place *place, char ret_text[PLACE_TEXT_MAX]);
/* "decoder.3.self" in memory that is good as long as the block that the macro stands in. */
#define PLACE_LAYER(id) layer_name(id, (char[LAYER_NAME_MAX]){""})

#endif
