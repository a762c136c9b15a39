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
INLINE floats folded_1(floats a, floats b) {
    return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}

INLINE floats folded_2(floats a, floats b) {
    return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

INLINE floats folded_4(floats a, floats b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
}

INLINE floats folded_8(floats a, floats b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

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

/* scores[t] = scaling * query . keys[t], LANES keys at a time; what is written behind the last is of no use. */
INLINE void score(const float *query, const element *keys, int64_t count, int size, float scaling, float *scores) {
    for (int64_t t = 0; t < count; t += LANES) {
        floats products[LANES];
        for (int j = 0; j < LANES; j++) {
            const element *key = keys + (t + j < count ? t + j : count - 1) * size;
            floats sum = read_floats(query) * read_elements(key);
            for (int d = LANES; d < size; d += LANES) sum += read_floats(query + d) * read_elements(key + d);
            products[j] = sum;
        }
        write_floats(scores + t, sums_of(products) * scaling);
    }
}

/* Scores become probabilities, 0 behind the last. */
INLINE void softmax(float *scores, int64_t count) {
    int64_t t, end = (count + LANES - 1) / LANES * LANES;
    for (t = count; t < end; t++) scores[t] = scores[0];
    floats largest = read_floats(scores);
    for (t = LANES; t < end; t += LANES) largest = larger(read_floats(scores + t), largest);
    float most = largest_lane(largest);
    for (t = 0; t < end; t += LANES) write_floats(scores + t, exponential(read_floats(scores + t) - most));
    for (t = count; t < end; t++) scores[t] = 0;
    floats sums = read_floats(scores);
    for (t = LANES; t < end; t += LANES) sums += read_floats(scores + t);
    float share = 1 / sum_of(sums);
    for (t = 0; t < end; t += LANES) write_floats(scores + t, read_floats(scores + t) * share);
}

/* Keys and values of positions one behind the other: [count, size]. */
typedef struct {
    const element *keys, *values;
    int64_t count;
} span;

/* out[g] = sum over t of probs[g][t] values[t], for `queries` g and `vectors` * LANES numbers from `from` on. Each sum
   is kept in `steps` parts, so that enough of them are under way at a time: queries * vectors * steps is 8. */
INLINE void weigh(const float *probs, int64_t room, const span *spans, int from, int size, int queries, int vectors,
                  int steps, element *out) {
    floats sums[8] = {{0}};
    for (int i = 0; i < 2; i++) {
        const element *values = spans[i].values + from;
        int64_t t = 0, count = spans[i].count;
        for (; t + steps <= count; t += steps)
            for (int s = 0; s < steps; s++)
                for (int d = 0; d < vectors; d++) {
                    floats value = read_elements(values + (t + s) * size + d * LANES);
                    for (int g = 0; g < queries; g++)
                        sums[(s * queries + g) * vectors + d] += probs[g * room + t + s] * value;
                }
        for (; t < count; t++)
            for (int d = 0; d < vectors; d++) {
                floats value = read_elements(values + t * size + d * LANES);
                for (int g = 0; g < queries; g++) sums[g * vectors + d] += probs[g * room + t] * value;
            }
        probs += count;
    }
    for (int i = queries * vectors; i < queries * vectors * steps; i++) sums[i % (queries * vectors)] += sums[i];
    for (int g = 0; g < queries; g++)
        for (int d = 0; d < vectors; d++) write_elements(out + g * size + d * LANES, sums[g * vectors + d]);
}

/* All queries of a key head over two spans: out [G, D]; scores has room for G times `room` numbers. */
INLINE void attend(const float *queries, const span *spans, int group, int size, float scaling, float *scores,
                   int64_t room, element *out) {
    for (int g = 0; g < group; g++) {
        float *own = scores + g * room;
        score(queries + g * size, spans[0].keys, spans[0].count, size, scaling, own);
        score(queries + g * size, spans[1].keys, spans[1].count, size, scaling, own + spans[0].count);
        softmax(own, spans[0].count + spans[1].count);
    }
    int vectors = size % (4 * LANES) == 0 ? 4 : size % (2 * LANES) == 0 ? 2 : 1;
    for (int g = 0; g < group; g += 2)
        for (int d = 0; d < size; d += vectors * LANES) {
            const float *probs = scores + g * room;
            element *to = out + g * size + d;
            int two = g + 1 < group;
            if (vectors == 4 && two) weigh(probs, room, spans, d, size, 2, 4, 1, to);
            else if (vectors == 4) weigh(probs, room, spans, d, size, 1, 4, 2, to);
            else if (vectors == 2 && two) weigh(probs, room, spans, d, size, 2, 2, 2, to);
            else if (vectors == 2) weigh(probs, room, spans, d, size, 1, 2, 4, to);
            else if (two) weigh(probs, room, spans, d, size, 2, 1, 4, to);
            else weigh(probs, room, spans, d, size, 1, 1, 8, to);
        }
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

static void attend_row(const call *c, int64_t row, int64_t head, float *scores, float *query, int64_t room) {
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
    for (int64_t d = 0; d < numbers; d += LANES) write_floats(query + d, read_elements(c->queries + at * numbers + d));
#define WITH_SIZE(D) attend(query, spans, c->group, D, c->scaling, scores, room, c->out + at * numbers)
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
        float *scores = malloc((c->group * room + c->group * c->size) * sizeof(float));
        if (!scores) failed = 1;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < c->rows * c->heads; i++)
            if (scores) attend_row(c, i % c->rows, i / c->rows, scores, scores + c->group * room, room);
        free(scores);
    }
    return failed;
}
