/* The attention of decode steps on a CPU: for each row, one token's queries over its prompt, where that is kept beside
   the slots, and over its slot.

   torch's kernel is made for many queries. With one token a row it multiplies by a general product for every row and
   head, and looks at as many positions as the longest row has. Here each row looks at its own, in full vectors, and
   what is read is read once. A row's numbers depend on nothing but the row.

   Legend: n rows, K key heads, G queries of a key head, T positions of a slot, P tokens of a prompt, D head size, a
   multiple of LANES.
   Compiled once per kind of element: float, or, with BFLOAT16 defined, the upper halves of floats. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

INLINE floats read_floats(const float *from) {
    floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void write_floats(float *to, floats x) { memcpy(to, &x, sizeof x); }

#ifdef BFLOAT16
typedef uint16_t element;
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

INLINE floats read_elements(const element *from) {
    halves upper;
    memcpy(&upper, from, sizeof upper);
    return (floats)(__builtin_convertvector(upper, words) << 16);
}

/* To the nearest, ties to even, as torch rounds; what is not a number stays one. */
INLINE void write_elements(element *to, floats x) {
    words bits = (words)x;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words quiet = (words)(x != x);
    halves upper = __builtin_convertvector((rounded & ~quiet) | (0x7fc0 & quiet), halves);
    memcpy(to, &upper, sizeof upper);
}
#else
typedef float element;
#define read_elements read_floats
#define write_elements write_floats
#endif

INLINE floats choose(ints where, floats yes, floats no) {
    return (floats)(((ints)yes & where) | ((ints)no & ~where));
}

/* e to the power of x <= 0, within 2 units in the last place, by x = n log 2 + r and a polynomial in r. The constant
   2^23 + 2^22 rounds to a whole number, which then stands in the lowest bits. Below -87: as at -87. NaN stays NaN. */
INLINE floats exponential(floats x) {
    x = choose(x < -87.0f, x * 0 - 87.0f, x);
    floats shifted = x * 1.44269504f + 12582912.0f;
    floats n = shifted - 12582912.0f;
    floats r = x - n * 0.693145752f - n * 1.42860677e-6f;
    floats p = r * 1.98756915e-4f + 1.39819995e-3f;
    p = p * r + 8.33345191e-3f;
    p = p * r + 4.16657956e-2f;
    p = p * r + 1.66666665e-1f;
    p = p * r + 5.00000012e-1f;
    p = p * r * r + r + 1.0f;
    return p * (floats)(((ints)shifted << 23) + 0x3f800000);
}

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
    for (t = LANES; t < end; t += LANES) {
        floats x = read_floats(scores + t);
        largest = choose(x > largest, x, largest);
    }
    float most = largest[0];
    for (int j = 1; j < LANES; j++) most = largest[j] > most ? largest[j] : most;
    for (t = 0; t < end; t += LANES) write_floats(scores + t, exponential(read_floats(scores + t) - most));
    for (t = count; t < end; t++) scores[t] = 0;
    floats sums = read_floats(scores);
    for (t = LANES; t < end; t += LANES) sums += read_floats(scores + t);
    float sum = 0;
    for (int j = 0; j < LANES; j++) sum += sums[j];
    float share = 1 / sum;
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

/* Rows of one call. A row without a prompt has prompt_lengths 0. */
typedef struct {
    const element *queries, *keys, *values; /* [n, K, G, D] [n, K, T, D] [n, K, T, D] */
    const int64_t *lengths;                 /* [n] positions of the slot before the token's own */
    const element *const *prompt_keys, *const *prompt_values; /* [n] of [K, P, D] */
    const int64_t *prompt_lengths;          /* [n] P */
    int64_t rows, heads, group, size, positions, longest_prompt;
    int64_t window; /* the last positions of the slot that are looked at; 0: all */
    float scaling;
    element *out; /* [n, K, G, D] */
} call;

static void attend_row(const call *c, int64_t row, int64_t head, float *scores, float *query, int64_t room) {
    int64_t at = row * c->heads + head, size = c->size, numbers = c->group * size;
    int64_t end = c->lengths[row] + 1, first = c->window && end > c->window ? end - c->window : 0;
    int64_t before = c->prompt_lengths[row], slot = (at * c->positions + first) * size;
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
    int64_t room = c->longest_prompt + c->positions + LANES;
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
