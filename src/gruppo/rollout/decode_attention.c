/* The attention of decode steps on a CPU: for each row, one token's queries over its prompt, where that is kept beside
   the slots, and over its slot.

   torch's kernel is made for many queries. With one token a row it multiplies by a general product for every row and
   head, and looks at as many positions as the longest row has. Here each row looks at its own, in full vectors, and
   what is read is read once. A row's numbers depend on nothing but the row.

   Legend: n rows, K key heads, G queries of a key head, T positions of a slot, P tokens of a prompt, D head size, a
   multiple of 16.
   Compiled once per kind of element: float, or, with BFLOAT16 defined, the upper halves of floats. */

#include <stdlib.h>

#include "vectors.h"

#if LANES == 16
/* folded_n: sums of neighbouring blocks of n lanes, one of a and one of b in turn. */
#define FOLDED(n, mask, turned)                                                                               \
    INLINE floats folded_##n(floats a, floats b) {                                                            \
        __m512 own = _mm512_mask_blend_ps(mask, (__m512)a, (__m512)b);                                        \
        __m512 x = _mm512_mask_blend_ps(mask, (__m512)b, (__m512)a);                                          \
        return (floats)_mm512_add_ps(own, turned);                                                            \
    }
FOLDED(1, 0xaaaa, _mm512_permute_ps(x, 0xb1))
FOLDED(2, 0xcccc, _mm512_permute_ps(x, 0x4e))
FOLDED(4, 0xf0f0, _mm512_shuffle_f32x4(x, x, 0xb1))
FOLDED(8, 0xff00, _mm512_shuffle_f32x4(x, x, 0x4e))

/* Lane j: the sum of the lanes of x[j]. */
INLINE floats sums_of(floats *x) {
    for (int j = 0; j < 8; j++) x[j] = folded_1(x[2 * j], x[2 * j + 1]);
    for (int j = 0; j < 4; j++) x[j] = folded_2(x[2 * j], x[2 * j + 1]);
    for (int j = 0; j < 2; j++) x[j] = folded_4(x[2 * j], x[2 * j + 1]);
    return folded_8(x[0], x[1]);
}
#else
INLINE floats sums_of(const floats *x) {
    floats sums;
    for (int j = 0; j < LANES; j++) sums[j] = sum_of(x[j]);
    return sums;
}
#endif

/* A vector whose lanes sum to a . b. */
INLINE floats products(const element *a, const element *b, int size) {
#if defined(BFLOAT16) && defined(__AVX512BF16__)
    __m512 sum = _mm512_setzero_ps();
    int d = 0;
    for (; d + 32 <= size; d += 32)
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a + d), (__m512bh)_mm512_loadu_si512(b + d));
    for (; d < size; d += 16) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(a + d)), y = _mm256_loadu_si256((const __m256i *)(b + d));
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_zextsi256_si512(x), (__m512bh)_mm512_zextsi256_si512(y));
    }
    return (floats)sum;
#else
    floats sum = read_elements(a) * read_elements(b);
    for (int d = LANES; d < size; d += LANES) sum += read_elements(a + d) * read_elements(b + d);
    return sum;
#endif
}

#define AHEAD 16 /* positions */

/* Read soon, in bfloat16, whose products are quicker than the reading: the processor's own reading ahead ends with each
   page. Floats gain nothing. */
INLINE void fetch(const element *from, int numbers) {
#ifdef BFLOAT16
    for (int d = 0; d < numbers; d += 64 / sizeof(element)) __builtin_prefetch(from + d);
#endif
}

/* scores[g][t] = scaling * queries[g] . keys[t] for `queries` g, LANES keys at a time; what is written behind the last
   is of no use. `most` becomes, lane by lane, the largest. */
INLINE void score(const element *query, int queries, const element *keys, int64_t count, int size, float scaling,
                  float *scores, int64_t room, floats *most) {
    for (int64_t t = 0; t < count; t += LANES) {
        for (int j = 0; j < LANES; j++) fetch(keys + (t + AHEAD + j) * size, size);
        for (int g = 0; g < queries; g++) {
            floats found[LANES];
            for (int j = 0; j < LANES; j++)
                found[j] = products(query + g * size, keys + (t + j < count ? t + j : count - 1) * size, size);
            floats sums = sums_of(found) * scaling;
            write_floats(scores + g * room + t, sums);
            most[g] = larger(sums, most[g]);
        }
    }
}

/* Scores become their powers of e, 0 behind the last; gives 1 over their sum. */
INLINE float exponentials(float *scores, int64_t count, floats most) {
    float largest = largest_lane(most);
    floats sums = {0};
    int64_t t = 0;
    for (; t + LANES <= count; t += LANES) {
        floats each = exponential(read_floats(scores + t) - largest);
        write_floats(scores + t, each);
        sums += each;
    }
    if (t < count) {
        floats last = {0};
        memcpy(&last, scores + t, (count - t) * sizeof(float));
        floats each = exponential(last - largest);
        for (int64_t j = 0; j < LANES; j++) each[j] = j < count - t ? each[j] : 0;
        write_floats(scores + t, each);
        sums += each;
    }
    return 1 / sum_of(sums);
}

/* Keys and values of positions one behind the other: [count, size]. */
typedef struct {
    const element *keys, *values;
    int64_t count;
} span;

/* out[g] = shares[g] times the sum over t of weights[g][t] values[t], for `queries` g and `vectors` * LANES numbers from
   `from` on. Each sum is kept in `steps` parts, so that enough of them are under way at a time: queries * vectors *
   steps is 8 or 16. */
INLINE void weigh(const float *weights, int64_t room, const float *shares, const span *spans, int from, int size,
                  int queries, int vectors, int steps, element *out) {
    floats sums[16] = {{0}};
    for (int i = 0; i < 2; i++) {
        const element *values = spans[i].values + from;
        int64_t t = 0, count = spans[i].count;
        for (; t + steps <= count; t += steps)
            for (int s = 0; s < steps; s++) {
                fetch(values + (t + s + AHEAD) * size, vectors * LANES);
                for (int d = 0; d < vectors; d++) {
                    floats value = read_elements(values + (t + s) * size + d * LANES);
                    for (int g = 0; g < queries; g++)
                        sums[(s * queries + g) * vectors + d] += weights[g * room + t + s] * value;
                }
            }
        for (; t < count; t++)
            for (int d = 0; d < vectors; d++) {
                floats value = read_elements(values + t * size + d * LANES);
                for (int g = 0; g < queries; g++) sums[g * vectors + d] += weights[g * room + t] * value;
            }
        weights += count;
    }
    for (int i = queries * vectors; i < queries * vectors * steps; i++) sums[i % (queries * vectors)] += sums[i];
    for (int g = 0; g < queries; g++)
        for (int d = 0; d < vectors; d++)
            write_elements(out + g * size + d * LANES, sums[g * vectors + d] * shares[g]);
}

/* 1, 2 or 4 queries of a key head over two spans: out [queries, size]; scores has room for each times `room`. A value
   that is read serves all of them, and one computes while the other waits for its result. */
INLINE void attend(const element *query, int queries, const span *spans, int size, float scaling, float *scores,
                   int64_t room, element *out) {
    floats most[4];
    float shares[4];
    for (int g = 0; g < queries; g++) most[g] = (floats){0} - 3.4e38f;
    score(query, queries, spans[0].keys, spans[0].count, size, scaling, scores, room, most);
    score(query, queries, spans[1].keys, spans[1].count, size, scaling, scores + spans[0].count, room, most);
    for (int g = 0; g < queries; g++)
        shares[g] = exponentials(scores + g * room, spans[0].count + spans[1].count, most[g]);
    int vectors = size % (4 * LANES) == 0 ? 4 : size % (2 * LANES) == 0 ? 2 : 1;
    for (int d = 0; d < size; d += vectors * LANES)
        if (vectors == 4) weigh(scores, room, shares, spans, d, size, queries, 4, queries > 1 ? 1 : 2, out + d);
        else if (vectors == 2) weigh(scores, room, shares, spans, d, size, queries, 2, 4 / queries, out + d);
        else weigh(scores, room, shares, spans, d, size, queries, 1, 8 / queries, out + d);
}

/* Rows of one call. A row without a prompt has prompt_lengths 0; without any, these are null. */
typedef struct {
    const element *queries;                   /* [n, K, G, D] */
    const element *token_keys, *token_values; /* [n, K, D] the token's own, which go to its slot first; or null */
    element *keys, *values;                   /* [n, K, T, D] */
    const int64_t *lengths;                   /* [n] positions of the slot before the token's own */
    const element *const *prompt_keys, *const *prompt_values; /* [n] of [K, P, D] */
    const int64_t *prompt_lengths;            /* [n] P */
    int64_t rows, heads, group, size, positions;
    int64_t window; /* the last positions of the slot that are looked at; 0: all */
    float scaling;
    element *out; /* [n, K, G, D] */
} call;

static void attend_row(const call *c, int64_t row, int64_t head, float *scores, int64_t room) {
    int64_t at = row * c->heads + head, size = c->size, numbers = c->group * size;
    int64_t end = c->lengths[row] + 1, first = c->window && end > c->window ? end - c->window : 0;
    int64_t before = c->prompt_lengths ? c->prompt_lengths[row] : 0, slot = (at * c->positions + first) * size;
    if (c->token_keys) {
        int64_t own = (at * c->positions + end - 1) * size, bytes = size * sizeof(element);
        memcpy(c->keys + own, c->token_keys + at * size, bytes);
        memcpy(c->values + own, c->token_values + at * size, bytes);
    }
    span spans[2] = {{0}, {c->keys + slot, c->values + slot, end - first}};
    if (before) {
        int64_t place = head * before * size;
        spans[0] = (span){c->prompt_keys[row] + place, c->prompt_values[row] + place, before};
    }
    const element *queries = c->queries + at * numbers;
    element *out = c->out + at * numbers;
#define WITH(D, QUERIES) \
    for (; group - g >= QUERIES; g += QUERIES) \
        attend(queries + g * D, QUERIES, spans, D, c->scaling, scores, room, out + g * D)
#define WITH_SIZE(D) WITH(D, 4); WITH(D, 2); WITH(D, 1)
    int64_t g = 0, group = c->group;
    switch (size) { /* loops of a known length are unrolled */
        case 16: WITH_SIZE(16); break;
        case 32: WITH_SIZE(32); break;
        case 64: WITH_SIZE(64); break;
        case 128: WITH_SIZE(128); break;
        default: WITH_SIZE(size);
    }
}

/* Gives 0, or 1 where there was no memory. A head's rows follow each other: those of a group read the same prompt. */
int decode_attention(const call *c, int threads) {
    int64_t longest = 0;
    for (int64_t row = 0; c->prompt_lengths && row < c->rows; row++)
        if (c->prompt_lengths[row] > longest) longest = c->prompt_lengths[row];
    int64_t room = longest + c->positions + LANES;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *scores = malloc(4 * room * sizeof(float));
        if (!scores) failed = 1;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < c->rows * c->heads; i++)
            if (scores) attend_row(c, i % c->rows, i / c->rows, scores, room);
        free(scores);
    }
    return failed;
}
