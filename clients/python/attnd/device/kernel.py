# SPDX-License-Identifier: MIT
"""kernel: the sums of rows in one pass over the keys, in Triton. launch.py calls it; importing it needs triton.

As in flash attention a program has a block of queries and takes the keys block by block, keeps the largest logit so
far, and shrinks its sums when a block has a larger one; no product with the values follows. Numbers of single keys
travel as logits, which need no shrinking. All elementwise arithmetic is in f32; f16 and bf16 enter the product as they
are, f32 with "ieee", since TF32 has 10 bits. WIDEN makes them f32 before: the interpreter of triton 3.9 multiplies the
bits of bf16 as integers.

The 8 largest of a row take a pass of their own: with the sums of the other one their registers would not do. Each of
the KEYS lanes keeps its 3 largest. Where a lane's third is above the eighth that comes of these, the lane may have had
more; the rows of such a program are gone through again, largest value by largest value.

Nothing is autotuned: triton.autotune asks for a driver even under TRITON_INTERPRET=1.
"""
import triton
import triton.language as tl

# Compiled once for all of them: they differ from slice to slice, or from batch to batch.
_VARYING = ["first_head", "queries", "keys", "q_offset", "window", "out_stride"]


@triton.jit
def block_logits(q_tile, k, bias, documents, own, i, p, j, channel, queries, keys, width, rows_end, keys_end, scale, softcap,
                 window, k_t, k_d, bias_q, bias_k, doc_k,
                 CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
                 DOCUMENTS: tl.constexpr, WIDEN: tl.constexpr):
    """Logits of queries i at keys j, -inf where a query does not see the key or the logit is NaN or +inf; q K^T; which
    keys are seen; 1 for rows with such a logit. The pointers are those of the sample and the head."""
    k_tile = tl.load(k + j.to(tl.int64)[:, None] * k_t + channel[None, :] * k_d,
                     mask=(j[:, None] < keys) & (channel[None, :] < width), other=0.0)
    if WIDEN:
        k_tile = k_tile.to(tl.float32)
    product = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
    s = product * scale
    if SOFTCAP:
        s = softcap * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
    seen = (j[None, :] < keys_end) & (i[:, None] < rows_end)
    if CAUSAL:
        seen &= j[None, :] <= p[:, None]
    if WINDOW:
        seen &= j[None, :] > p[:, None] - window
    if DOCUMENTS:
        theirs = tl.load(documents + j.to(tl.int64) * doc_k, mask=j < keys, other=0)
        seen &= (own[:, None] == theirs[None, :]) & (p[:, None] < keys)
    if BIAS != 0:
        at = bias + i.to(tl.int64)[:, None] * bias_q + j.to(tl.int64)[None, :] * bias_k
        added = tl.load(at, mask=(i[:, None] < queries) & (j[None, :] < keys), other=0)
        if BIAS == 1:
            added = added.to(tl.float32)
            seen &= (added <= -9000.0) == 0
            s += added
        else:
            seen &= added != 0
    wrong = (s != s) | (s == float("inf"))
    broken = tl.max((seen & wrong).to(tl.float32), 1)
    return tl.where(seen & (wrong == 0), s, float("-inf")), product, seen, broken


@triton.jit
def block_of_rows(q, k, bias, documents, q_len, k_len, first_head, heads, group, queries, keys, width, q_offset, q_stride,
                  window, q_b, q_h, q_t, q_d, k_b, k_h, bias_b, bias_h, doc_b, doc_k,
                  CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, Q_LEN: tl.constexpr,
                  K_LEN: tl.constexpr, WIDEN: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr):
    """The rows of this program: queries i, which stand at p, and their vectors; the pointers of their sample and head; the
    documents that they are of; which key head they read, counted over all samples; where queries and keys of the sample end;
    the lowest and highest p; and the keys that some of them may see by causal bound, window and length."""
    block = tl.program_id(0)
    sample, head = (first_head + tl.program_id(1)) // heads, (first_head + tl.program_id(1)) % heads
    sample_64, head_64 = sample.to(tl.int64), head.to(tl.int64)
    i = block * ROWS + tl.arange(0, ROWS)
    p = q_offset + i * q_stride
    channel = tl.arange(0, WIDTH)
    q_tile = tl.load(q + sample_64 * q_b + head_64 * q_h + i.to(tl.int64)[:, None] * q_t + channel[None, :] * q_d,
                     mask=(i[:, None] < queries) & (channel[None, :] < width), other=0.0)
    if WIDEN:
        q_tile = q_tile.to(tl.float32)
    k += sample_64 * k_b + (head // group).to(tl.int64) * k_h
    bias += sample_64 * bias_b + head_64 * bias_h
    key_head = sample_64 * (heads // group) + head // group
    rows_end = queries
    if Q_LEN:
        rows_end = tl.load(q_len + sample).to(tl.int32)
    keys_end = keys
    if K_LEN:
        keys_end = tl.load(k_len + sample).to(tl.int32)
    own = p
    if DOCUMENTS:
        documents += sample_64 * doc_b
        own = tl.load(documents + tl.minimum(p, keys - 1).to(tl.int64) * doc_k)
    lowest = q_offset + block * ROWS * q_stride
    highest = lowest + (ROWS - 1) * q_stride
    begin, end = 0, keys_end
    if CAUSAL:
        end = tl.minimum(end, highest + 1)
    if WINDOW:
        begin = tl.maximum(0, lowest - window + 1) // KEYS * KEYS
    return i, p, channel, q_tile, k, bias, documents, own, key_head, rows_end, keys_end, lowest, highest, begin, end


@triton.jit(do_not_specialize=_VARYING)
def row_sums(q, k, bias, documents, q_len, k_len, inverse_k, out, out_stride, first_head,
             heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window, local_window,
             q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k,
             CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
             DOCUMENTS: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr, WIDEN: tl.constexpr,
             ENTRIES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr):
    """Writes the sums of ROWS queries of one head to out[field, n, query], f32, in the order below.

    Grid: (blocks of queries, heads of all samples, counted from first_head = sample * heads + head as n = 0). Strides
    are of elements. A query beyond q_len has no visible key. inverse_k: 1 / |k| of every key, [B, Hk, Tk] f32, 0 where
    there is none; with ENTRIES only, which asks for the sums from field 13 on.
    """
    (i, p, channel, q_tile, k, bias, documents, own, key_head, rows_end, keys_end, lowest, highest,
     begin, end) = block_of_rows(q, k, bias, documents, q_len, k_len, first_head, heads, group, queries, keys, width, q_offset,
                                 q_stride, window, q_b, q_h, q_t, q_d, k_b, k_h, bias_b, bias_h, doc_b, doc_k,
                                 CAUSAL, WINDOW, DOCUMENTS, Q_LEN, K_LEN, WIDEN, ROWS, KEYS, WIDTH)
    if ENTRIES:
        inverse_k += key_head * keys
    reach = tl.maximum(local_window, 1)

    none = tl.full((ROWS,), float("-inf"), tl.float32)
    zero = tl.zeros((ROWS,), tl.float32)
    largest, first, previous, same, following = none, none, none, none, none
    total, weighted, distances, local = zero, zero, zero, zero
    with_first, count, farthest, broken = zero, zero, zero, zero
    finite, shift, logits, squares, cosines, cosine_count = zero, zero, zero, zero, zero, zero
    smallest, cosine_max = -none, none
    power_2, power_3, power_4, power_5, power_6, power_7 = zero, zero, zero, zero, zero, zero
    for start in range(begin, end, KEYS):
        j = start + tl.arange(0, KEYS)
        s, product, seen, wrong = block_logits(q_tile, k, bias, documents, own, i, p, j, channel, queries, keys, width,
                                               rows_end, keys_end, scale, softcap, window, k_t, k_d, bias_q, bias_k, doc_k,
                                               CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, WIDEN)
        broken = tl.maximum(broken, wrong)
        if ENTRIES:
            here = s > float("-inf")
            some_here = tl.sum(here.to(tl.float32), 1)
            center = tl.sum(tl.where(here, s, 0.0), 1) / tl.maximum(some_here, 1.0)
            shift = tl.where(finite == 0.0, center, shift)  # the mean of the first block that has any
            finite += some_here
            known = tl.where(here, s - shift[:, None], 0.0)
            logits += tl.sum(known, 1)
            squares += tl.sum(known * known, 1)
            smallest = tl.minimum(smallest, tl.min(tl.where(here, s, float("inf")), 1))
            inverse = tl.load(inverse_k + j, mask=j < keys, other=0.0)
            cosine = product * inverse[None, :]
            here &= inverse[None, :] > 0.0
            cosines += tl.sum(tl.where(here, cosine, 0.0), 1)
            cosine_count += tl.sum(here.to(tl.float32), 1)
            cosine_max = tl.maximum(cosine_max, tl.max(tl.where(here, cosine, float("-inf")), 1))
        gap = (p[:, None] - j[None, :]).to(tl.float32)
        distance = tl.abs(gap)
        if BIAS != 0 or DOCUMENTS:
            count += tl.sum(seen.to(tl.float32), 1)
            farthest = tl.maximum(farthest, tl.max(tl.where(seen, distance, 0.0), 1))
        if start == 0:
            first = tl.max(tl.where(j[None, :] == 0, s, float("-inf")), 1)
            with_first = tl.max((seen & (j[None, :] == 0)).to(tl.float32), 1)
            s = tl.where(j[None, :] == 0, float("-inf"), s)

        grown = tl.maximum(largest, tl.max(s, 1))
        base = tl.where(grown == float("-inf"), 0.0, grown)
        some = largest > float("-inf")
        fall = tl.where(some, largest - base, 0.0)
        shrink = tl.where(some, tl.exp(fall), 0.0)
        x = tl.where(s > float("-inf"), s - base[:, None], 0.0)
        e = tl.where(s > float("-inf"), tl.exp(x), 0.0)
        weighted = shrink * (weighted + tl.where(some, total * fall, 0.0)) + tl.sum(e * x, 1)
        total = shrink * total + tl.sum(e, 1)
        if ENTRIES:
            e_2, shrink_2 = e * e, shrink * shrink
            power_2 = shrink_2 * power_2 + tl.sum(e_2, 1)
            power_3 = shrink_2 * shrink * power_3 + tl.sum(e_2 * e, 1)
            e_4, shrink_4 = e_2 * e_2, shrink_2 * shrink_2
            power_4 = shrink_4 * power_4 + tl.sum(e_4, 1)
            power_5 = shrink_4 * shrink * power_5 + tl.sum(e_4 * e, 1)
            power_6 = shrink_4 * shrink_2 * power_6 + tl.sum(e_4 * e_2, 1)
            power_7 = shrink_4 * shrink_2 * shrink * power_7 + tl.sum(e_4 * e_2 * e, 1)
        distances = shrink * distances + tl.sum(e * distance, 1)
        local = shrink * local
        if (start <= highest + reach) & (start + KEYS > lowest - reach):
            local += tl.sum(tl.where(distance <= local_window, e, 0.0), 1)
            previous = tl.maximum(previous, tl.max(tl.where(gap == 1.0, s, float("-inf")), 1))
            same = tl.maximum(same, tl.max(tl.where(gap == 0.0, s, float("-inf")), 1))
            following = tl.maximum(following, tl.max(tl.where(gap == -1.0, s, float("-inf")), 1))
        largest = grown

    out += tl.program_id(1).to(tl.int64) * queries + i.to(tl.int64)
    there = i < queries
    tl.store(out, largest, mask=there)
    tl.store(out + out_stride, total, mask=there)
    tl.store(out + 2 * out_stride, weighted, mask=there)
    tl.store(out + 3 * out_stride, distances, mask=there)
    tl.store(out + 4 * out_stride, local, mask=there)
    tl.store(out + 5 * out_stride, previous, mask=there)
    tl.store(out + 6 * out_stride, same, mask=there)
    tl.store(out + 7 * out_stride, following, mask=there)
    tl.store(out + 8 * out_stride, first, mask=there)
    tl.store(out + 9 * out_stride, with_first, mask=there)
    tl.store(out + 10 * out_stride, broken, mask=there)
    if BIAS != 0 or DOCUMENTS:
        tl.store(out + 11 * out_stride, count, mask=there)
        tl.store(out + 12 * out_stride, farthest, mask=there)
    if ENTRIES:
        tl.store(out + 13 * out_stride, finite, mask=there)
        tl.store(out + 14 * out_stride, shift, mask=there)
        tl.store(out + 15 * out_stride, logits, mask=there)
        tl.store(out + 16 * out_stride, squares, mask=there)
        tl.store(out + 17 * out_stride, smallest, mask=there)
        tl.store(out + 18 * out_stride, cosines, mask=there)
        tl.store(out + 19 * out_stride, cosine_count, mask=there)
        tl.store(out + 20 * out_stride, cosine_max, mask=there)
        tl.store(out + 21 * out_stride, power_2, mask=there)
        tl.store(out + 22 * out_stride, power_3, mask=there)
        tl.store(out + 23 * out_stride, power_4, mask=there)
        tl.store(out + 24 * out_stride, power_5, mask=there)
        tl.store(out + 25 * out_stride, power_6, mask=there)
        tl.store(out + 26 * out_stride, power_7, mask=there)


@triton.jit(do_not_specialize=_VARYING)
def top_sums(q, k, bias, documents, q_len, k_len, out, out_stride, first_head,
             heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window,
             q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k,
             CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
             DOCUMENTS: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr, WIDEN: tl.constexpr,
             ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr):
    """Writes the sum of the 8 largest e of a row, key 0 apart, to out[0, n, query], and the eighth, 0 when there are
    fewer, to out[1, n, query]. Arguments as for row_sums."""
    (i, p, channel, q_tile, k, bias, documents, own, key_head, rows_end, keys_end, lowest, highest,
     begin, end) = block_of_rows(q, k, bias, documents, q_len, k_len, first_head, heads, group, queries, keys, width, q_offset,
                                 q_stride, window, q_b, q_h, q_t, q_d, k_b, k_h, bias_b, bias_h, doc_b, doc_k,
                                 CAUSAL, WINDOW, DOCUMENTS, Q_LEN, K_LEN, WIDEN, ROWS, KEYS, WIDTH)

    one = tl.full((ROWS, KEYS), float("-inf"), tl.float32)
    two, three = one, one
    for start in range(begin, end, KEYS):
        j = start + tl.arange(0, KEYS)
        s, product, seen, wrong = block_logits(q_tile, k, bias, documents, own, i, p, j, channel, queries, keys, width,
                                               rows_end, keys_end, scale, softcap, window, k_t, k_d, bias_q, bias_k, doc_k,
                                               CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, WIDEN)
        s = tl.where(j[None, :] == 0, float("-inf"), s)
        rest = tl.minimum(one, s)
        one = tl.maximum(one, s)
        three = tl.maximum(three, tl.minimum(two, rest))
        two = tl.maximum(two, rest)

    none = tl.full((ROWS,), float("-inf"), tl.float32)
    zero = tl.zeros((ROWS,), tl.float32)
    third = tl.max(three, 1)
    largest = tl.max(one, 1)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    total, taken, eighth = zero, zero, none
    for _ in range(8):
        value = tl.maximum(tl.max(one, 1), tl.maximum(tl.max(two, 1), tl.max(three, 1)))
        equal_1, equal_2, equal_3 = one == value[:, None], two == value[:, None], three == value[:, None]
        count = tl.sum(equal_1.to(tl.float32) + equal_2.to(tl.float32) + equal_3.to(tl.float32), 1)
        take = tl.where(value == float("-inf"), 0.0, tl.minimum(count, 8.0 - taken))
        total += take * tl.exp(value - base)
        taken += take
        eighth = tl.where(take > 0.0, value, eighth)
        one = tl.where(equal_1, float("-inf"), one)
        two = tl.where(equal_2, float("-inf"), two)
        three = tl.where(equal_3, float("-inf"), three)
    eighth = tl.where(taken < 8.0, float("-inf"), eighth)

    if tl.max((third > eighth).to(tl.int32), 0) > 0:
        total, taken, eighth = zero, zero, none
        bound = -none
        for _ in range(8):
            value, count = none, zero
            for start in range(begin, end, KEYS):
                j = start + tl.arange(0, KEYS)
                s, product, seen, wrong = block_logits(q_tile, k, bias, documents, own, i, p, j, channel, queries, keys, width,
                                                       rows_end, keys_end, scale, softcap, window, k_t, k_d, bias_q, bias_k,
                                                       doc_k, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, WIDEN)
                s = tl.where((j[None, :] == 0) | (s >= bound[:, None]), float("-inf"), s)
                here = tl.max(s, 1)
                found = tl.sum((s == here[:, None]).to(tl.float32), 1)
                count = tl.where(here > value, found, tl.where(here == value, count + found, count))
                value = tl.maximum(value, here)
            take = tl.where(value == float("-inf"), 0.0, tl.minimum(count, 8.0 - taken))
            total += take * tl.exp(value - base)
            taken += take
            eighth = tl.where(take > 0.0, value, eighth)
            bound = value
        eighth = tl.where(taken < 8.0, float("-inf"), eighth)

    out += tl.program_id(1).to(tl.int64) * queries + i.to(tl.int64)
    tl.store(out, total, mask=i < queries)
    tl.store(out + out_stride, tl.exp(eighth - base), mask=i < queries)
