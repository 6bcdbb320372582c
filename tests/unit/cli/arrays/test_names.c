/* SPDX-License-Identifier: MIT */
/* Where attnctl analyze places an array by its name. */
#include "tests/unit/cli/fake.h"

#include "clients/cli/arrays/name.h"

/* "unknown", "ignored", or the place as text. */
static const char *placed(const struct naming *naming, const char *name)
{
    static char text[PLACE_TEXT_MAX];
    struct place place;
    switch (name_place(naming, name, &place)) {
    case NAME_PLACED:
        place_text(&place, text);
        return text;
    case NAME_IGNORED:
        return "ignored";
    default:
        return "unknown";
    }
}

#define ASSERT_PLACED(naming, name, text) assert_string_equal(placed(naming, name), text)

static const struct naming plain = {.stack = STACK_DECODER};

TEST(names_say_stack_layer_site_and_part)
{
    ASSERT_PLACED(&plain, "encoder.0.self", "encoder.0.self");
    ASSERT_PLACED(&plain, "decoder.65535.cross", "decoder.65535.cross");
    ASSERT_PLACED(&plain, "decoder.3.self.weights", "decoder.3.self");
    ASSERT_PLACED(&plain, "decoder.3.self.q", "decoder.3.self.q");
    ASSERT_PLACED(&plain, "decoder.3.cross.mask", "decoder.3.cross.mask");
    ASSERT_PLACED(&plain, "encoder.12.self.documents", "encoder.12.self.documents");
    ASSERT_PLACED(&plain, "weights.4.wo", "decoder.4.self.wo");
    ASSERT_PLACED(&plain, "encoder.4.self.wk", "encoder.4.self.wk");
}

TEST(tuples_are_layers_of_the_stack_asked_for)
{
    struct naming encoder = {.stack = STACK_ENCODER};
    ASSERT_PLACED(&plain, "arr_7", "decoder.7.self");
    ASSERT_PLACED(&plain, "attentions.7", "decoder.7.self");
    ASSERT_PLACED(&encoder, "attentions_7", "encoder.7.self");
    ASSERT_PLACED(&encoder, "decoder_attentions.1", "decoder.1.self");
    ASSERT_PLACED(&plain, "encoder_attentions_1", "encoder.1.self");
    ASSERT_PLACED(&encoder, "cross_attentions.1", "decoder.1.cross");
    ASSERT_PLACED(&plain, "attentions.2.mask", "decoder.2.self.mask");
}

TEST(masks_and_tokens_may_be_of_all_layers)
{
    ASSERT_PLACED(&plain, "mask", "mask");
    ASSERT_PLACED(&plain, "tokens", "tokens");
    ASSERT_PLACED(&plain, "documents", "documents");
    ASSERT_PLACED(&plain, "q", "unknown");
    ASSERT_PLACED(&plain, "grad", "unknown");
}

TEST(hugging_faces_words_for_masks_and_tokens)
{
    ASSERT_PLACED(&plain, "attention_mask", "mask");
    ASSERT_PLACED(&plain, "input_ids", "tokens");
    ASSERT_PLACED(&plain, "decoder.2.cross.attention_mask", "decoder.2.cross.mask");
    ASSERT_PLACED(&plain, "attentions.2.input_ids", "decoder.2.self.tokens");
    ASSERT_PLACED(&plain, "encoder_attention_mask", "unknown");
}

TEST(other_names_have_no_place)
{
    static const char *const names[] = {
        "",
        "x",
        "decoder.self",
        "decoder.0",
        "decoder.0.",
        "decoder.0.selfish",
        "decoder.65536.self",
        "decoder.99999999999999999999.self",
        "decoder.-1.self",
        "decoder.0.self.",
        "decoder.0.self.s",
        "decoder.0.self.q.q",
        "Decoder.0.self",
        "weights.0.q",
        "weights.0",
        "attentions",
        "attentions.",
        "attentions.0x",
        "arr_",
        "hidden_states.0",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ASSERT_PLACED(&plain, names[i], "unknown");
    }
}

/* A naming with one rule. */
static struct naming rule(const char *text)
{
    struct naming naming = {.stack = STACK_DECODER};
    assert_null(naming_add_rule(&naming, text));
    return naming;
}

TEST(rules_map_names)
{
    struct naming naming = rule("h.{layer}.attn=encoder.{layer}.self");
    ASSERT_PLACED(&naming, "h.12.attn", "encoder.12.self");
    ASSERT_PLACED(&naming, "h.12.attn.x", "unknown");
    ASSERT_PLACED(&naming, "xh.12.attn", "unknown");
    ASSERT_PLACED(&naming, "decoder.0.self", "decoder.0.self");
    naming = rule("*.{}.*q_proj*=decoder.{}.self.wq");
    ASSERT_PLACED(&naming, "model.layers.3.self_attn.q_proj.weight", "decoder.3.self.wq");
    ASSERT_PLACED(&naming, "model.2.layers.3.k_proj", "unknown");
    naming = rule("probs=decoder.0.self");
    ASSERT_PLACED(&naming, "probs", "decoder.0.self");
    naming = rule("a=b=decoder.1.self");
    ASSERT_PLACED(&naming, "a=b", "decoder.1.self");
}

TEST(a_number_in_a_rule_is_a_whole_run_of_digits)
{
    struct naming naming = rule("*{layer}*=decoder.{layer}.self");
    ASSERT_PLACED(&naming, "x12y3", "decoder.12.self");
    naming = rule("*.{layer}.p=decoder.{layer}.self");
    ASSERT_PLACED(&naming, "a.1.2.p", "decoder.2.self");
    naming = rule("p{layer}=decoder.{layer}.self");
    ASSERT_PLACED(&naming, "p65536", "unknown");
    ASSERT_PLACED(&naming, "p", "unknown");
}

TEST(patterns_say_which_names_they_are_about)
{
    struct naming naming = rule("h.{layer}.*=decoder.{layer}.self");
    uint32_t layer;
    assert_true(name_rule_matches(&naming.rules[0], "h.12.attn", &layer));
    assert_int_equal(layer, 12);
    assert_false(name_rule_matches(&naming.rules[0], "h.attn", &layer));
}

TEST(rules_that_lead_nowhere_are_refused)
{
    struct naming naming = {.stack = STACK_DECODER};
    assert_string_equal(naming_add_rule(&naming, "probs"),
                        "not PATTERN=TARGET, such as 'h.{layer}.attn=decoder.{layer}.self'");
    assert_non_null(naming_add_rule(&naming, "=decoder.0.self"));
    assert_string_equal(naming_add_rule(&naming, "h.{layer}=decoder.0.self"),
                        "PATTERN and TARGET have one {layer} each, or none");
    assert_non_null(naming_add_rule(&naming, "h=decoder.{layer}.self"));
    assert_non_null(naming_add_rule(&naming, "{layer}.{layer}=decoder.{layer}.self"));
    assert_string_equal(naming_add_rule(&naming, "h=layer 1"),
                        "the name behind = is none of " NAME_FORMS);
}

TEST(rules_come_before_what_is_ignored)
{
    struct naming naming = rule("keep.{layer}=decoder.{layer}.self");
    assert_null(naming_add_ignored(&naming, "*"));
    ASSERT_PLACED(&naming, "keep.1", "decoder.1.self");
    ASSERT_PLACED(&naming, "decoder.0.self", "ignored");
    naming.ignore_count = 0;
    assert_null(naming_add_ignored(&naming, "embed*.weight"));
    assert_null(naming_add_ignored(&naming, "h.{layer}.bias"));
    ASSERT_PLACED(&naming, "embeddings.weight", "ignored");
    ASSERT_PLACED(&naming, "embeddings.bias", "unknown");
    ASSERT_PLACED(&naming, "h.3.bias", "ignored");
    ASSERT_PLACED(&naming, "h.x.bias", "unknown");
}
