/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"
#include "workers/rows/first_key.h"

#define T 12

/* The texts of a packed sample. */
static const int32_t packed[T] = {7, 7, 7, 7, 7, 3, 3, 3, 3, 5, 5, 5};
static const uint32_t packed_first[T] = {0, 0, 0, 0, 0, 5, 5, 5, 5, 9, 9, 9};

static struct attention first_key_self(void)
{
    return (struct attention){.self = true, .batch = 1, .heads = 1, .queries = T, .keys = T};
}

static void expect_first(const struct attention *a, const uint32_t *want)
{
    OWNED(scratch_clear) struct scratch scratch = {0};
    uint32_t first[2 * T];
    assert_true(first_key_differs(a));
    assert_int_equal(first_key_find(a, &scratch, first), 0);
    for (uint32_t i = 0; i < a->batch * a->queries; i++) {
        assert_int_equal(first[i], want[i]);
    }
}

/* Rows see keys of their text from `padding` on, up to `back` positions before and `ahead` after.
 */
static void fill_mask(uint8_t mask[T][T], const int32_t *text, int padding, int back, int ahead)
{
    for (int i = 0; i < T; i++) {
        for (int j = 0; j < T; j++) {
            bool same = !text || text[i] == text[j];
            mask[i][j] = same && j >= padding && i >= padding && i - j <= back && j - i <= ahead;
        }
    }
}

TEST(a_document_begins_at_its_first_key)
{
    struct attention a = first_key_self();
    a.documents = packed;
    expect_first(&a, packed_first);
    const int32_t apart[T] = {1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 1, 1}; /* and come again */
    a.documents = apart;
    expect_first(&a, (const uint32_t[T]){0, 0, 2, 2, 0, 0, 2, 2, 8, 8, 0, 0});
}

TEST(blocks_of_a_mask_are_documents)
{
    uint8_t mask[T][T];
    struct attention a = first_key_self();
    a.mask = mask[0];
    for (int causal = 0; causal < 2; causal++) {
        fill_mask(mask, packed, 0, T, causal ? 0 : T);
        expect_first(&a, packed_first);
        a.causal = true; /* says no more */
        expect_first(&a, packed_first);
        a.causal = false;
    }
}

TEST(padding_on_the_left_is_left_out)
{
    uint8_t mask[2][T][T];
    struct attention a = first_key_self();
    a.batch = 2;
    a.mask = mask[0][0];
    fill_mask(mask[0], NULL, 4, T, 0);
    fill_mask(mask[1], NULL, 0, T, T);
    uint32_t want[2 * T] = {0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4};
    expect_first(&a, want);
    for (int i = 0; i < 4; i++) { /* rows of padding that see the keys behind it */
        memset(mask[0][i] + 4, 1, T - 4);
        want[i] = 4;
    }
    expect_first(&a, want);
}

TEST(the_edge_of_a_band_begins_nothing)
{
    uint8_t mask[T][T];
    struct attention a = first_key_self();
    a.mask = mask[0];
    fill_mask(mask, NULL, 0, 2, 0);
    expect_first(&a, (const uint32_t[T]){0});
    fill_mask(mask, NULL, 0, 2, 2);
    expect_first(&a, (const uint32_t[T]){0});
    fill_mask(mask, NULL, 3, 2, 0);
    expect_first(&a, (const uint32_t[T]){0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3, 3});
    fill_mask(mask, packed, 0, 2, 0);
    expect_first(&a, packed_first);
}

/* Rows 0, 4 and 8 of bands, whose keys do not overlap; and of texts. */
TEST(nor_in_a_sample_of_rows)
{
    uint8_t mask[T][T], some[3][T];
    struct attention a = first_key_self();
    a.mask = some[0];
    a.queries = 3;
    a.q_stride = 4;
    const struct {
        const int32_t *text;
        int padding, back, ahead;
        uint32_t want[3];
    } cases[] = {{NULL, 0, 1, 0, {0}},
                 {NULL, 0, 1, 1, {0}},
                 {NULL, 3, T, 0, {0, 3, 3}},
                 {packed, 0, T, 0, {0, 0, 5}},
                 {packed, 0, T, T, {0, 0, 5}}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        fill_mask(mask, cases[c].text, cases[c].padding, cases[c].back, cases[c].ahead);
        for (int i = 0; i < 3; i++) {
            memcpy(some[i], mask[4 * i], T);
        }
        expect_first(&a, cases[c].want);
    }
}

TEST(keys_that_all_texts_see_join_them)
{
    uint8_t mask[T][T];
    struct attention a = first_key_self();
    a.mask = mask[0];
    fill_mask(mask, packed, 0, T, 0);
    for (int i = 0; i < T; i++) {
        mask[i][0] = 1; /* as a prefix is */
    }
    expect_first(&a, (const uint32_t[T]){0});
}

TEST(a_document_whose_first_keys_are_padding_begins_behind_them)
{
    uint8_t mask[T][T];
    struct attention a = first_key_self();
    a.documents = packed;
    a.mask = mask[0];
    fill_mask(mask, NULL, 2, T, 0);
    expect_first(&a, (const uint32_t[T]){2, 2, 2, 2, 2, 5, 5, 5, 5, 9, 9, 9});
    memset(mask, 1, sizeof mask);
    a.queries = 1;
    a.q_offset = 7; /* the last query of a text, and a cache of the keys before it */
    expect_first(&a, (const uint32_t[]){5});
}

TEST(queries_behind_the_last_one_and_cross_attention_have_no_say)
{
    uint8_t mask[T][T];
    struct attention a = first_key_self();
    a.mask = mask[0];
    fill_mask(mask, packed, 0, T, 0);
    memset(mask[9], 1, 3 * T); /* rows of padding that see all */
    const int32_t length = 9;
    a.q_len = a.k_len = &length;
    expect_first(&a, (const uint32_t[T]){0, 0, 0, 0, 0, 5, 5, 5, 5});
    a.self = false;
    assert_false(first_key_differs(&a));
}
