# SPDX-License-Identifier: MIT
"""kernel: the sums of rows in one pass over the keys, in Triton. launch.py calls it; importing it needs triton.

As in flash attention a program has a block of queries and takes the keys block by block, keeps the largest logit so
far, and shrinks its sums when a block has a larger one; no product with the values follows. Numbers of single keys
travel as logits, which need no shrinking. All elementwise arithmetic is in f32; f16 and bf16 enter the product as they
are, f32 with "ieee", since TF32 has 10 bits. WIDEN makes them f32 before: the interpreter of triton 3.9 multiplies the
bits of bf16 as integers. Logits are in units of ln 2 until they are stored, as 2^x is what the hardware has.

Blocks whose keys all rows see, before the diagonal, are taken first and without a look at what hides keys: these cost half
of the others. Where -inf or a key without length turns up there, the program begins anew and takes every block with care. A
NaN or +inf makes the sum of e NaN, which says that the row has no numbers.

The 8 largest of a row, and the keys near it, take a pass of their own: with the sums of the other one their registers
would not do. Each of the KEYS lanes keeps its 4 largest. Where a lane's fourth is above the eighth that comes of these, the
lane may have had more: the rows of such a program (of 64 rows and lanes one in 60, where keys are in no order) are gone
through again for the next 4 of each lane, and, where that does not do, largest value by largest value.

Nothing is autotuned: triton.autotune asks for a driver even under TRITON_INTERPRET=1.
"""
import triton
import triton.language as tl

# Compiled once for all of them: they differ from slice to slice, or from batch to batch.
_VARYING = ["first_head", "queries", "keys", "q_offset", "window", "out_stride"]


_LN_2 = tl.constexpr(0.6931471805599453)
_PER_LN_2 = tl.constexpr(1.4426950408889634)


@triton.jit
def key_piece(k, j, channel, keys, width, k_t, k_d, INSIDE: tl.constexpr, NARROW: tl.constexpr, WIDEN: tl.constexpr):
    """These channels of a block of keys, [channels, keys]. INSIDE: no key is beyond the last; NARROW: some channels are
    beyond `width`."""
    at = k + j.to(tl.int64)[:, None] * k_t + channel[None, :] * k_d
    if INSIDE and not NARROW:
        tile = tl.load(at)
    elif INSIDE:
        tile = tl.load(at, mask=channel[None, :] < width, other=0.0)
    else:
        tile = tl.load(at, mask=(j[:, None] < keys) & (channel[None, :] < width), other=0.0)
    if WIDEN:
        tile = tile.to(tl.float32)
    return tl.trans(tile)


@triton.jit
def query_pieces(q, q_d, seen, width, WIDEN: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """The queries at `q` in two pieces, of WIDTH and of REST channels, and which channels these are. REST = 0: the second
    is the first."""
    channel = tl.arange(0, WIDTH)
    piece = tl.load(q[:, None] + channel[None, :] * q_d, mask=seen[:, None] & (channel[None, :] < width), other=0.0)
    if WIDEN:
        piece = piece.to(tl.float32)
    others, other = channel, piece
    if REST:
        others = WIDTH + tl.arange(0, REST)
        other = tl.load(q[:, None] + others[None, :] * q_d, mask=seen[:, None] & (others[None, :] < width), other=0.0)
        if WIDEN:
            other = other.to(tl.float32)
    return piece, other, channel, others


@triton.jit
def block_product(vectors, j, INSIDE: tl.constexpr, NARROW: tl.constexpr, WIDEN: tl.constexpr, REST: tl.constexpr):
    """q K^T of a block of keys, of `vectors` as block_of_rows() has them. INSIDE: none is beyond the last."""
    piece, other, channel, others, k, keys, width, k_t, k_d = vectors
    if REST:
        product = tl.dot(piece, key_piece(k, j, channel, keys, width, k_t, k_d, INSIDE, False, WIDEN), input_precision="ieee")
        product = tl.dot(other, key_piece(k, j, others, keys, width, k_t, k_d, INSIDE, NARROW, WIDEN), product,
                         input_precision="ieee")
    else:
        product = tl.dot(piece, key_piece(k, j, channel, keys, width, k_t, k_d, INSIDE, NARROW, WIDEN), input_precision="ieee")
    return product


@triton.jit
def logits_of(product, scale, softcap, SOFTCAP: tl.constexpr):
    """The logits without bias, in units of ln 2."""
    if SOFTCAP:
        s = product * scale
        s = (softcap * _PER_LN_2) * (2.0 * tl.sigmoid(2.0 * s / softcap) - 1.0)
    else:
        s = product * (scale * _PER_LN_2)
    return s


@triton.jit
def block_logits(vectors, places, j, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
                 DOCUMENTS: tl.constexpr, NARROW: tl.constexpr, WIDEN: tl.constexpr, REST: tl.constexpr):
    """Logits of the queries `at`, which stand at p, with their bias, which has them as `row`, at keys j, -inf where a query
    does not see the key; q K^T; and which keys are seen. `places` as block_of_rows() has them. BIAS: 1, added, where what is at or
    below `hides_at` hides its key; 2, bool; 3, what takes the place of the logits."""
    bias, documents, own, row, at, p, rows_end, keys_end, keys, bias_q, bias_k, doc_k, scale, softcap, window, hides_at = places
    product = block_product(vectors, j, False, NARROW, WIDEN, REST)
    s = logits_of(product, scale, softcap, SOFTCAP)
    seen = (j[None, :] < keys_end) & (at[:, None] < rows_end)
    if CAUSAL:
        seen &= j[None, :] <= p[:, None]
    if WINDOW:
        seen &= j[None, :] > p[:, None] - window
    if DOCUMENTS:
        theirs = tl.load(documents + j.to(tl.int64) * doc_k, mask=j < keys, other=0)
        seen &= (own[:, None] == theirs[None, :]) & (p[:, None] < keys)
    if BIAS != 0:
        added = tl.load(bias + row.to(tl.int64)[:, None] * bias_q + j.to(tl.int64)[None, :] * bias_k, mask=j[None, :] < keys, other=0)
        if BIAS == 2:
            seen &= added != 0
        else:
            added = added.to(tl.float32)
            least = -9000.0
            if BIAS == 1:
                least = tl.load(hides_at)
            seen &= (added <= least) == 0
            s = added * _PER_LN_2 if BIAS == 3 else s + added * _PER_LN_2
    return tl.where(seen, s, float("-inf")), product, seen


@triton.jit
def places_of(i, rows, queries, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr):
    """Where the i-th rows are in the bias and among the queries; for i behind the last one a row of the bias that there is."""
    row, at = tl.minimum(i, queries - 1), i
    if SAMPLED:
        at = tl.load(rows + row).to(tl.int32)
        if BIAS_OF_ALL:
            row = at
    return row, at


@triton.jit
def block_of_rows(tensors, numbers, strides, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr,
                  SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr,
                  WIDEN: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """The rows of this program: what block_product() and block_logits() read of them; their numbers among the results and
    their places among the keys; which key head they read, counted over all samples; the lowest and highest place; and the keys
    that some of them may see by causal bound, window and length."""
    q, k, bias, documents, q_len, k_len, rows, hides_at = tensors
    first_head, heads, group, queries, keys, width, q_offset, q_stride, scale, softcap, window = numbers
    q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k = strides
    block = tl.program_id(0)
    sample, head = (first_head + tl.program_id(1)) // heads, (first_head + tl.program_id(1)) % heads
    sample_64, head_64 = sample.to(tl.int64), head.to(tl.int64)
    i = block * ROWS + tl.arange(0, ROWS)
    row, at = places_of(i, rows, queries, SAMPLED, BIAS_OF_ALL)
    first, last = block * ROWS, tl.minimum(block * ROWS + ROWS, queries) - 1
    rows_end = queries
    if SAMPLED:
        first, last = tl.load(rows + first).to(tl.int32), tl.load(rows + last).to(tl.int32)
        rows_end = last + 1
    if Q_LEN:
        rows_end = tl.minimum(rows_end, tl.load(q_len + sample).to(tl.int32))
    p = q_offset + at * q_stride
    of_rows = query_pieces(q + sample_64 * q_b + head_64 * q_h + at.to(tl.int64) * q_t, q_d, i < queries, width,
                           WIDEN, WIDTH, REST)
    k += sample_64 * k_b + (head // group).to(tl.int64) * k_h
    bias += sample_64 * bias_b + head_64 * bias_h
    keys_end = keys
    if K_LEN:
        keys_end = tl.load(k_len + sample).to(tl.int32)
    own = p
    if DOCUMENTS:
        documents += sample_64 * doc_b
        own = tl.load(documents + tl.minimum(p, keys - 1).to(tl.int64) * doc_k)
    lowest, highest = q_offset + first * q_stride, q_offset + last * q_stride
    begin, end = 0, keys_end
    if CAUSAL:
        end = tl.minimum(end, highest + 1)
    if WINDOW:
        begin = tl.maximum(0, lowest - window + 1) // KEYS * KEYS
    vectors = (of_rows[0], of_rows[1], of_rows[2], of_rows[3], k, keys, width, k_t, k_d)
    places = (bias, documents, own, row, at, p, rows_end, keys_end, keys, bias_q, bias_k, doc_k, scale, softcap, window, hides_at)
    return vectors, places, i, p, sample_64 * (heads // group) + head // group, lowest, highest, begin, end


@triton.jit
def apart(aside, seen, j, FIRST: tl.constexpr):
    """The key of each row that stands apart, with this block of keys: the first that it sees; without FIRST key 0."""
    return tl.minimum(aside, tl.min(tl.where(seen, j[None, :], 1 << 30), 1)) if FIRST else aside


@triton.jit
def put_aside(s, seen, is_first, first, with_first, lost):
    """The logit of the key of each row that stands apart, whether it is seen, and whether it is NaN or +inf, with this block."""
    return (tl.maximum(first, tl.max(tl.where(is_first, s, float("-inf")), 1)),
            tl.maximum(with_first, tl.max((seen & is_first).to(tl.float32), 1)),
            tl.maximum(lost, tl.max((is_first & ((s < float("inf")) == 0)).to(tl.float32), 1)))


@triton.jit
def of_nothing(ROWS: tl.constexpr):
    """The sums of no logits, in the order of fold()."""
    none, zero = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    return none, zero, zero, zero, zero, zero, zero, zero, -none, zero, zero, none, zero, zero, zero, zero, zero, zero


@triton.jit
def fold(s, others, product, inverse, gap, sums, INSIDE: tl.constexpr, POWERS: tl.constexpr, KEYS: tl.constexpr):
    """The sums with those of a block of logits s, of which `others` are those of all keys but the first. `gap`: how far the first
    key is before the rows. INSIDE: none is -inf, all keys have a length, and are before each row, or behind it."""
    (largest, total, weighted, distances, finite, shift, logits, squares, smallest, cosines, cosine_count, cosine_max,
     power_2, power_3, power_4, power_5, power_6, power_7) = sums
    grown = tl.maximum(largest, tl.max(others, 1))
    center = tl.max(s, 1)
    shift = tl.where((finite == 0.0) & (center > float("-inf")), center, shift)
    smallest = tl.minimum(smallest, tl.min(s if INSIDE else tl.where(s > float("-inf"), s, float("inf")), 1))
    known = s - shift[:, None]
    cosine = product * inverse[None, :]
    highest = cosine
    if INSIDE:
        base = grown
        x = others - base[:, None]
        finite += KEYS
        cosine_count += KEYS
    else:
        base = tl.where(grown == float("-inf"), 0.0, grown)
        x = tl.where(others == float("-inf"), -1e30, others - base[:, None])
        here = s > float("-inf")
        finite += tl.sum(here.to(tl.float32), 1)
        known = tl.where(here, known, 0.0)
        here &= inverse[None, :] > 0.0
        cosine_count += tl.sum(here.to(tl.float32), 1)
        cosine, highest = tl.where(here, cosine, 0.0), tl.where(here, cosine, float("-inf"))
    logits += tl.sum(known, 1)
    squares += tl.sum(known * known, 1)
    cosines += tl.sum(cosine, 1)
    cosine_max = tl.maximum(cosine_max, tl.max(highest, 1))

    some = largest > float("-inf")
    fall = tl.where(some, largest - base, 0.0)
    shrink = tl.where(some, tl.exp2(fall), 0.0)
    e = tl.exp2(x)
    weighted = shrink * (weighted + total * fall) + tl.sum(e * x, 1)
    total_here, places = tl.sum(e, 1), tl.arange(0, KEYS).to(tl.float32)[None, :]
    total = shrink * total + total_here
    if INSIDE:
        distances = shrink * distances + tl.abs(gap * total_here - tl.sum(e * places, 1))
    else:
        distances = shrink * distances + tl.sum(e * tl.abs(gap[:, None] - places), 1)
    e_2, shrink_2 = e * e, shrink * shrink
    power_2 = shrink_2 * power_2 + tl.sum(e_2, 1)
    if POWERS:
        power_3 = shrink_2 * shrink * power_3 + tl.sum(e_2 * e, 1)
        e_4, shrink_4 = e_2 * e_2, shrink_2 * shrink_2
        power_4 = shrink_4 * power_4 + tl.sum(e_4, 1)
        power_5 = shrink_4 * shrink * power_5 + tl.sum(e_4 * e, 1)
        power_6 = shrink_4 * shrink_2 * power_6 + tl.sum(e_4 * e_2, 1)
        power_7 = shrink_4 * shrink_2 * shrink * power_7 + tl.sum(e_4 * e_2 * e, 1)
    return (grown, total, weighted, distances, finite, shift, logits, squares, smallest, cosines, cosine_count, cosine_max,
            power_2, power_3, power_4, power_5, power_6, power_7)


@triton.jit
def stored(out, stride, there, numbers, COUNT: tl.constexpr):
    """Writes the first COUNT of these numbers of rows, one field after another."""
    for n in tl.static_range(COUNT):
        tl.store(out + n * stride, numbers[n], mask=there)


@triton.jit(do_not_specialize=_VARYING)
def row_sums(q, k, bias, documents, q_len, k_len, rows, hides_at, inverse_k, out, out_stride, first_head,
             heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window,
             q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k,
             CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
             DOCUMENTS: tl.constexpr, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr,
             WIDEN: tl.constexpr, NARROW: tl.constexpr, POWERS: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr,
             KEYS: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """Writes the sums of ROWS queries of one head to out[field, n, query], f32, in the order below.

    Grid: (blocks of queries, heads of all samples, counted from first_head = sample * heads + head as n = 0). Strides
    are of elements. A query beyond q_len has no visible key. SAMPLED: the queries are those with the numbers `rows`, i64 in
    rising order; `bias` has them alone, or BIAS_OF_ALL. inverse_k: 1 / |k| of every key, [B, Hk, Tk] f32, NaN where there is none.
    With POWERS there are the last fields. FIRST: the first key that a row sees stands apart, and its number is written, or, where an
    earlier one is of the same document, -1 - that; else key 0 does, and whether it is seen is written.
    """
    vectors, places, i, p, key_head, lowest, highest, begin, end = block_of_rows(
        (q, k, bias, documents, q_len, k_len, rows, hides_at),
        (first_head, heads, group, queries, keys, width, q_offset, q_stride, scale, softcap, window),
        (q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k),
        CAUSAL, WINDOW, DOCUMENTS, SAMPLED, BIAS_OF_ALL, Q_LEN, K_LEN, WIDEN, ROWS, KEYS, WIDTH, REST)
    inverse_k += key_head * keys
    out += tl.program_id(1).to(tl.int64) * queries
    wide = vectors[0].to(tl.float32)
    square = tl.sum(wide * wide, 1)
    if REST:
        wide = vectors[1].to(tl.float32)
        square += tl.sum(wide * wide, 1)
    tl.store(out + 16 * out_stride + i, tl.sqrt(square), mask=i < queries)
    sums = of_nothing(ROWS)

    # Blocks from `inner` to `near`, before the diagonal, and from `far` to `outer`, behind it, are inside.
    inner, near, far, outer = begin, begin, end, end
    if BIAS == 0 and not DOCUMENTS:
        if (tl.program_id(0) + 1) * ROWS <= queries and tl.max(places[4], 0) < places[6]:
            from_key = KEYS
            if WINDOW:
                from_key = tl.maximum(KEYS, highest - window + 1)
            from_key = (from_key + KEYS - 1) // KEYS * KEYS
            to_key = tl.minimum(lowest + 1, end) // KEYS * KEYS
            if to_key > from_key:
                inner, near = from_key, to_key
            if not CAUSAL:
                from_key = tl.maximum(from_key, (highest + KEYS) // KEYS * KEYS)
                to_key = end // KEYS * KEYS
                if to_key > from_key:
                    far, outer = from_key, to_key
    before = (near - inner) // KEYS
    for n in range(0, before + (outer - far) // KEYS):
        start = tl.where(n < before, inner + n * KEYS, far + (n - before) * KEYS)
        j = start + tl.arange(0, KEYS)
        product = block_product(vectors, j, True, NARROW, WIDEN, REST)
        s = logits_of(product, scale, softcap, SOFTCAP)
        sums = fold(s, s, product, tl.load(inverse_k + j), (p - start).to(tl.float32), sums, True, POWERS, KEYS)

    if tl.min(tl.where(sums[9] == sums[9], sums[8], float("-inf")), 0) == float("-inf"):
        inner, near, far, outer = begin, begin, end, end
        sums = of_nothing(ROWS)
    aside = tl.full((ROWS,), 1 << 30 if FIRST else 0, tl.int32)
    zero = tl.zeros((ROWS,), tl.float32)
    first, with_first, count, farthest, lost = zero - float("inf"), zero, zero, zero, zero
    EDGE: tl.constexpr = KEYS // 2
    before = (inner - begin + EDGE - 1) // EDGE
    between = before + (far - near + EDGE - 1) // EDGE
    for n in range(0, between + (end - outer + EDGE - 1) // EDGE):
        start = tl.where(n < before, begin + n * EDGE,
                         tl.where(n < between, near + (n - before) * EDGE, outer + (n - between) * EDGE))
        j = start + tl.arange(0, EDGE)
        s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
        aside = apart(aside, seen, j, FIRST)
        is_first = j[None, :] == aside[:, None]
        others = tl.where(is_first, float("-inf"), s)
        inverse = tl.load(inverse_k + j, mask=j < keys, other=0.0)
        sums = fold(s, others, product, inverse, (p - start).to(tl.float32), sums, False, POWERS, EDGE)
        if BIAS != 0 or DOCUMENTS:
            count += tl.sum(seen.to(tl.float32), 1)
            farthest = tl.maximum(farthest, tl.max(tl.where(seen, tl.abs(p[:, None] - j[None, :]), 0), 1).to(tl.float32))
        if FIRST:
            first, with_first, lost = put_aside(s, seen, is_first, first, with_first, lost)
        elif start == 0:
            first, with_first, lost = put_aside(s, seen, is_first, first, with_first, lost)
    first = tl.where(lost > 0.0, float("nan"), first)

    (largest, total, weighted, distances, finite, shift, logits, squares, smallest, cosines, cosine_count, cosine_max,
     power_2, power_3, power_4, power_5, power_6, power_7) = sums
    largest = tl.where((total != total) | (first != first), float("nan"), largest)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    out, there = out + i, i < queries
    stored(out, out_stride, there, (largest * _LN_2, total, weighted * _LN_2, distances, first * _LN_2), 5)
    if FIRST:
        with_first = tl.minimum(aside, keys).to(tl.float32)
        if DOCUMENTS and WINDOW:
            earlier = zero
            for start in range(0, tl.minimum(tl.max(aside, 0), keys), KEYS):
                j = start + tl.arange(0, KEYS)
                theirs = tl.load(places[1] + j.to(tl.int64) * places[11], mask=j < keys, other=0)
                same = (theirs[None, :] == places[2][:, None]) & (j[None, :] < aside[:, None])
                earlier = tl.maximum(earlier, tl.max(same.to(tl.float32), 1))
            with_first = tl.where(earlier > 0.0, -1.0 - with_first, with_first)
    if BIAS != 0 or DOCUMENTS:
        stored(out + 5 * out_stride, out_stride, there, (with_first, count, farthest), 3)
    stored(out + 8 * out_stride, out_stride, there, (finite, shift * _LN_2, logits * _LN_2, squares * (_LN_2 * _LN_2),
                                                     smallest * _LN_2, cosines, cosine_count, cosine_max), 8)
    powers = (power_2, power_3, power_4, power_5, power_6, power_7)
    stored(out + 17 * out_stride, out_stride, there, powers, 6 if POWERS else 1)


@triton.jit
def inserted(s, kept):
    """The 4 largest of each lane, when it has s as well."""
    one, two, three, four = kept
    rest = tl.minimum(one, s)
    left = tl.minimum(two, rest)
    return tl.maximum(one, s), tl.maximum(two, rest), tl.maximum(three, left), tl.maximum(four, tl.minimum(three, left))


@triton.jit
def taken_once_more(value, count, base, taken):
    """All that was taken of a row, with the next largest number, of which there are `count`: sum of e, how many, the last."""
    total, number, last = taken
    take = tl.where(value == float("-inf"), 0.0, tl.minimum(count, 8.0 - number))
    return total + take * tl.exp2(value - base), number + take, tl.where(take > 0.0, value, last)


@triton.jit
def eight_largest(base, kept, COUNT: tl.constexpr):
    """The sum of e of the 8 largest of a row and the eighth of them, -inf when there are fewer, of what the lanes have kept:
    COUNT numbers each."""
    none, zero = tl.full(base.shape, float("-inf"), tl.float32), tl.zeros(base.shape, tl.float32)
    taken, bound = (zero, zero, none), -none
    for _ in range(8):
        here = tl.where(kept[0] < bound[:, None], kept[0], float("-inf"))
        for n in tl.static_range(1, COUNT):
            here = tl.maximum(here, tl.where(kept[n] < bound[:, None], kept[n], float("-inf")))
        bound = tl.max(here, 1)
        equal = (kept[0] == bound[:, None]).to(tl.float32)
        for n in tl.static_range(1, COUNT):
            equal += (kept[n] == bound[:, None]).to(tl.float32)
        taken = taken_once_more(bound, tl.sum(equal, 1), base, taken)
    return taken[0], tl.where(taken[1] < 8.0, float("-inf"), taken[2])


@triton.jit(do_not_specialize=_VARYING)
def few_keys(q, k, bias, documents, q_len, k_len, rows, hides_at, out, out_stride, first_head,
             heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window, local_window,
             q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k,
             CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
             DOCUMENTS: tl.constexpr, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr,
             WIDEN: tl.constexpr, NARROW: tl.constexpr, FIRST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
             WIDTH: tl.constexpr, REST: tl.constexpr):
    """Writes to out[field, n, query] the sum of the 8 largest e of a row, one key apart, and the eighth, 0 when there are
    fewer; the sum of e of keys that are at most `local_window` away; and the logits of the keys before, at and after p.
    Arguments as for row_sums."""
    vectors, places, i, p, key_head, lowest, highest, begin, end = block_of_rows(
        (q, k, bias, documents, q_len, k_len, rows, hides_at),
        (first_head, heads, group, queries, keys, width, q_offset, q_stride, scale, softcap, window),
        (q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k),
        CAUSAL, WINDOW, DOCUMENTS, SAMPLED, BIAS_OF_ALL, Q_LEN, K_LEN, WIDEN, ROWS, KEYS, WIDTH, REST)
    aside = tl.full((ROWS,), 1 << 30 if FIRST else 0, tl.int32)
    nothing = tl.full((ROWS, KEYS), float("-inf"), tl.float32)
    kept = (nothing, nothing, nothing, nothing)
    for start in range(begin, end, KEYS):
        j = start + tl.arange(0, KEYS)
        s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
        aside = apart(aside, seen, j, FIRST)
        kept = inserted(tl.where(j[None, :] == aside[:, None], float("-inf"), s), kept)

    none, zero = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    one, two, three, four = kept
    largest = tl.max(one, 1)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    total, eighth = eight_largest(base, kept, 4)
    if tl.max((tl.max(four, 1) > eighth).to(tl.int32), 0) > 0:
        more = (nothing, nothing, nothing, nothing)
        for start in range(begin, end, KEYS):
            j = start + tl.arange(0, KEYS)
            s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
            more = inserted(tl.where((j[None, :] == aside[:, None]) | (s > four), float("-inf"), s), more)
        one = tl.where(one > four, one, float("-inf"))  # what equals the fourth is found once more
        two = tl.where(two > four, two, float("-inf"))
        three = tl.where(three > four, three, float("-inf"))
        total, eighth = eight_largest(base, (one, two, three, more[0], more[1], more[2], more[3]), 7)
        if tl.max((tl.max(more[3], 1) > eighth).to(tl.int32), 0) > 0:
            taken, bound = (zero, zero, none), -none
            for _ in range(8):
                value, count = none, zero
                for start in range(begin, end, KEYS):
                    j = start + tl.arange(0, KEYS)
                    s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
                    s = tl.where((j[None, :] == aside[:, None]) | (s >= bound[:, None]), float("-inf"), s)
                    here = tl.max(s, 1)
                    found = tl.sum((s == here[:, None]).to(tl.float32), 1)
                    count = tl.where(here > value, found, tl.where(here == value, count + found, count))
                    value = tl.maximum(value, here)
                taken, bound = taken_once_more(value, count, base, taken), value
            total, eighth = taken[0], tl.where(taken[1] < 8.0, float("-inf"), taken[2])

    local, previous, same, following = zero, none, none, none
    reach = tl.maximum(local_window, 1)
    from_key = tl.maximum(begin, tl.maximum(lowest - reach, 0) // KEYS * KEYS)
    for start in range(from_key, tl.minimum(end, highest + reach + 1), KEYS):
        j = start + tl.arange(0, KEYS)
        s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
        s = tl.where(j[None, :] == aside[:, None], float("-inf"), s)
        gap = p[:, None] - j[None, :]
        local += tl.sum(tl.where((tl.abs(gap) <= local_window) & (s > float("-inf")), tl.exp2(s - base[:, None]), 0.0), 1)
        previous = tl.maximum(previous, tl.max(tl.where(gap == 1, s, float("-inf")), 1))
        same = tl.maximum(same, tl.max(tl.where(gap == 0, s, float("-inf")), 1))
        following = tl.maximum(following, tl.max(tl.where(gap == -1, s, float("-inf")), 1))

    out += tl.program_id(1).to(tl.int64) * queries + i.to(tl.int64)
    stored(out, out_stride, i < queries, (total, tl.exp2(eighth - base), local,
                                          previous * _LN_2, same * _LN_2, following * _LN_2), 6)


@triton.jit(do_not_specialize=_VARYING)
def token_keys(q, k, bias, documents, q_len, k_len, rows, hides_at, tokens, sums, out, out_stride, first_head,
               heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window,
               q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k, token_b, token_k,
               CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
               DOCUMENTS: tl.constexpr, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr,
               WIDEN: tl.constexpr, NARROW: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
               REST: tl.constexpr):
    """Writes to out[field, n, query] the sum of e of the keys before p that have the query's token, and of the keys that follow one
    of these; key 0 is in neither. `tokens` are integers [B, Tk]; `sums` what row_sums has written. The rest as for row_sums."""
    vectors, places, i, p, key_head, lowest, highest, begin, end = block_of_rows(
        (q, k, bias, documents, q_len, k_len, rows, hides_at),
        (first_head, heads, group, queries, keys, width, q_offset, q_stride, scale, softcap, window),
        (q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k),
        CAUSAL, WINDOW, DOCUMENTS, SAMPLED, BIAS_OF_ALL, Q_LEN, K_LEN, WIDEN, ROWS, KEYS, WIDTH, REST)
    at, there = tl.program_id(1).to(tl.int64) * queries + i, i < queries
    largest = tl.load(sums + at, mask=there, other=0.0) * _PER_LN_2
    base = tl.where(largest == float("-inf"), 0.0, largest)
    tokens += ((first_head + tl.program_id(1)) // heads).to(tl.int64) * token_b
    own = tl.load(tokens + tl.minimum(p, keys - 1).to(tl.int64) * token_k)
    same = tl.zeros((ROWS,), tl.float32)
    behind = same
    for start in range(begin, tl.minimum(end, highest + 1), KEYS):
        j = start + tl.arange(0, KEYS)
        s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
        e = tl.where((s > float("-inf")) & (j > 0)[None, :], tl.exp2(s - base[:, None]), 0.0)
        token = tl.load(tokens + j.to(tl.int64) * token_k, mask=j < keys, other=0)
        before = tl.load(tokens + (j - 1).to(tl.int64) * token_k, mask=(j > 0) & (j <= keys), other=0)
        same += tl.sum(tl.where((own[:, None] == token[None, :]) & (j[None, :] < p[:, None]), e, 0.0), 1)
        behind += tl.sum(tl.where((own[:, None] == before[None, :]) & (j[None, :] <= p[:, None]), e, 0.0), 1)
    stored(out + at, out_stride, there, (same, behind), 2)


@triton.jit(do_not_specialize=_VARYING)
def key_lengths(k, out, inverse, heads, keys, width, k_b, k_h, k_t, k_d, KEYS: tl.constexpr, WIDTH: tl.constexpr):
    """Writes |k| to `out`, and 1 / |k|, NaN where there is none, to `inverse`. Grid: (blocks of keys, key heads of all samples)."""
    j, channel = tl.program_id(0) * KEYS + tl.arange(0, KEYS), tl.arange(0, WIDTH)
    sample, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    tile = tl.load(k + sample * k_b + head * k_h + j.to(tl.int64)[:, None] * k_t + channel[None, :] * k_d,
                   mask=(j[:, None] < keys) & (channel[None, :] < width), other=0.0).to(tl.float32)
    length, at = tl.sqrt(tl.sum(tile * tile, 1)), tl.program_id(1).to(tl.int64) * keys + j
    tl.store(out + at, length, mask=j < keys)
    over = 1.0 / length
    tl.store(inverse + at, tl.where((over > 0.0) & (over < float("inf")), over, float("nan")), mask=j < keys)


@triton.jit(do_not_specialize=_VARYING)
def seen_keys(bias, rows, hides_at, out, heads, queries, keys, q_offset, window, bias_b, bias_h, bias_q, bias_k, CAUSAL: tl.constexpr,
              WINDOW: tl.constexpr, BIAS: tl.constexpr, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, ROWS: tl.constexpr,
              KEYS: tl.constexpr):
    """Finds what visible.looked_at() does, of a bias with this number of heads. Grid: (blocks of queries, samples). The last numbers
    of `out` have to be 0."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, at = places_of(i, rows, queries, SAMPLED, BIAS_OF_ALL)
    p, sample = q_offset + at, tl.program_id(1).to(tl.int64)
    out += sample * (3 * queries + keys)
    count = tl.zeros((ROWS,), tl.int32)
    lowest, highest = count + keys, count - 1
    least = -9000.0
    if BIAS == 1:
        least = tl.load(hides_at)
    for turn in range(2):
        for start in range(0, keys, KEYS):
            j = start + tl.arange(0, KEYS)
            seen = tl.zeros((ROWS, KEYS), tl.int1)
            for head in range(heads):
                added = tl.load(bias + sample * bias_b + head * bias_h + row.to(tl.int64)[:, None] * bias_q
                                + j.to(tl.int64)[None, :] * bias_k, mask=j[None, :] < keys, other=0)
                seen |= added != 0 if BIAS == 2 else (added.to(tl.float32) <= least) == 0
            seen &= (j[None, :] < keys) & (i[:, None] < queries)
            if CAUSAL:
                seen &= j[None, :] <= p[:, None]
            if WINDOW:
                seen &= j[None, :] > p[:, None] - window
            if turn == 0:
                count += tl.sum(seen.to(tl.int32), 1)
                lowest = tl.minimum(lowest, tl.min(tl.where(seen, j[None, :], keys), 1))
                highest = tl.maximum(highest, tl.max(tl.where(seen, j[None, :], -1), 1))
            else:
                some = tl.max((seen & (count < keys)[:, None]).to(tl.float32), 0)
                tl.atomic_add(out + 3 * queries + j, some, mask=some > 0.0)
    tl.store(out + i, count.to(tl.float32), mask=i < queries)
    tl.store(out + queries + i, lowest.to(tl.float32), mask=i < queries)
    tl.store(out + 2 * queries + i, highest.to(tl.float32), mask=i < queries)


@triton.jit(do_not_specialize=_VARYING)
def mark_values(bias, rows, marks, heads, queries, keys, bias_b, bias_h, bias_q, bias_k, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr,
                LOWEST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Marks which values there are in a bias of numbers, each rounded down and counted from LOWEST on; what is not above that has no
    mark. Grid: (blocks of queries, samples * heads)."""
    i, head = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    row, at = places_of(i, rows, queries, SAMPLED, BIAS_OF_ALL)
    bias += (head // heads).to(tl.int64) * bias_b + (head % heads).to(tl.int64) * bias_h
    for start in range(0, keys, KEYS):
        j = start + tl.arange(0, KEYS)
        value = tl.load(bias + row.to(tl.int64)[:, None] * bias_q + j.to(tl.int64)[None, :] * bias_k, mask=j[None, :] < keys,
                        other=float("-inf")).to(tl.float32)
        there = (value > LOWEST) & (value < float("inf"))
        mark = tl.floor(tl.minimum(tl.where(there, value, 0.0), -LOWEST / 2 - 1.0) - LOWEST).to(tl.int32)
        tl.store(marks + mark, tl.full((ROWS, KEYS), 1, tl.uint8), mask=there)


@triton.jit
def step_of_values(marks, out, LOWEST: tl.constexpr, STEP: tl.constexpr, STEPS_MAX: tl.constexpr, GAP: tl.constexpr, COUNT: tl.constexpr):
    """Writes what base/hidden.py finds of the values that are marked, of COUNT. Grid: (1, 1)."""
    n = tl.arange(0, COUNT)
    there = tl.load(marks + n) != 0
    beside = tl.zeros((COUNT,), tl.int1)
    for gap in range(1, GAP):
        beside |= tl.load(marks + n - gap, mask=n >= gap, other=0) != 0
    low = tl.where(there & (beside == 0), n, -1)  # the lowest of those that are together
    high, up = tl.max(tl.where(there, n, -1), 0), tl.max(low, 0)
    down, under = tl.max(tl.where(there & (n < up), n, -1), 0), tl.max(tl.where(low < up, low, -1), 0)
    steps = tl.sum((low >= 0).to(tl.int32), 0) - 1
    is_step = (steps >= 1) & (steps <= STEPS_MAX) & (tl.maximum(high - down, up - under) >= STEP)
    found = tl.where(is_step, (up + down).to(tl.float32) * 0.5 + LOWEST, LOWEST)
    is_one = (tl.sum(there.to(tl.int32), 0) == 1) & (high <= -LOWEST - STEP)
    tl.store(out, tl.where(is_one, high + 1.0 + LOWEST, found))


@triton.jit(do_not_specialize=[*_VARYING, "row_cells", "column_cells"])
def map_cells(q, k, bias, documents, hides_at, sums, sinks, shown, extent, out, row_cells, column_cells, out_stride, first_head,
              heads, group, queries, keys, width, scale, softcap, q_offset, q_stride, window,
              q_b, q_h, q_t, q_d, k_b, k_h, k_t, k_d, bias_b, bias_h, bias_q, bias_k, doc_b, doc_k,
              CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
              DOCUMENTS: tl.constexpr, SAMPLED: tl.constexpr, BIAS_OF_ALL: tl.constexpr, Q_LEN: tl.constexpr, K_LEN: tl.constexpr,
              WIDEN: tl.constexpr, NARROW: tl.constexpr, SINKS: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr,
              KEYS: tl.constexpr, WIDTH: tl.constexpr, REST: tl.constexpr):
    """Writes the mean weight of the queries and keys of a cell to out[head, cell], f16, of sample 0, all of whose rows row_sums has
    left their `sums` of. PART: pooled.Shown says by `shown` and `extent` which part of the sample has the cells. Grid: (row_cells *
    column_cells, heads). The other arguments as for row_sums."""
    head, cell = tl.program_id(1).to(tl.int64), tl.program_id(0)
    first, count, first_key, key_count = 0, queries, 0, keys
    if PART:
        first, count = tl.load(extent).to(tl.int32), tl.load(extent + 1).to(tl.int32)
        first_key, key_count = tl.load(extent + 2).to(tl.int32), tl.load(extent + 3).to(tl.int32)
    row_cell, column_cell = cell // column_cells, cell % column_cells
    rows_there, columns_there = tl.minimum(row_cells, count), tl.minimum(column_cells, key_count)
    begin, end = first + row_cell * count // rows_there, tl.minimum(first + (row_cell + 1) * count // rows_there, first + count)
    from_key = first_key + column_cell * key_count // columns_there
    to_key = tl.minimum(first_key + (column_cell + 1) * key_count // columns_there, first_key + key_count)
    q += head * q_h
    k += head // group * k_h
    bias += head * bias_h
    sums += head * queries
    weight, counted = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(begin, end, ROWS):
        i = start + tl.arange(0, ROWS)
        at = tl.minimum(i, queries - 1)
        p = q_offset + at * q_stride
        of_rows = query_pieces(q + at.to(tl.int64) * q_t, q_d, at >= 0, width, WIDEN, WIDTH, REST)
        largest, total, at_first = tl.load(sums + at), tl.load(sums + out_stride + at), tl.load(sums + 4 * out_stride + at)
        base = tl.maximum(largest, at_first)
        counts = (i < end) & (largest == largest) & (base > float("-inf")) & (base < float("inf"))
        if PART:
            counts &= tl.load(shown + at) != 0
        base = tl.where(counts, base, 0.0)
        if SINKS:
            base = tl.maximum(base, tl.load(sinks + head))
        z = tl.exp(at_first - base) + tl.where(total > 0.0, total * tl.exp(largest - base), 0.0)
        if SINKS:
            z += tl.exp(tl.load(sinks + head) - base)
        level = base * _PER_LN_2 + tl.log2(z)
        own = p
        if DOCUMENTS:
            own = tl.load(documents + tl.minimum(p, keys - 1).to(tl.int64) * doc_k)
        keys_end = to_key
        if CAUSAL:
            keys_end = tl.minimum(to_key, q_offset + (tl.minimum(start + ROWS, end) - 1) * q_stride + 1)
        vectors = (of_rows[0], of_rows[1], of_rows[2], of_rows[3], k, keys, width, k_t, k_d)
        places = (bias, documents, own, at, at, p, queries, to_key, keys, bias_q, bias_k, doc_k, scale, softcap, window, hides_at)
        for from_here in range(from_key, keys_end, KEYS):
            j = from_here + tl.arange(0, KEYS)
            s, product, seen = block_logits(vectors, places, j, CAUSAL, WINDOW, SOFTCAP, BIAS, DOCUMENTS, NARROW, WIDEN, REST)
            weight += tl.sum(tl.where(counts[:, None] & (s > float("-inf")), tl.exp2(s - level[:, None]), 0.0), 1)
        counted += counts.to(tl.float32)
    entries = tl.sum(counted, 0) * (to_key - from_key)
    mean = tl.where(entries > 0.0, tl.sum(weight, 0) / entries, float("nan"))
    tl.store(out + head * row_cells * column_cells + cell, mean.to(tl.float16))
