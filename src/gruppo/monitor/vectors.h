/* Vectors of floats, for the package's C sources: reading and writing elements, and the exponential.

   A vector is as long as the processor's registers: what is longer, a compiler takes through memory, number by number.
   An element is a float, or, with BFLOAT16 defined, the upper half of one. */

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define WORTH_THREADS (1 << 15) /* numbers that a call reads; for fewer, to start threads costs more than it gains */
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

/* As __builtin_convertvector, for which a compiler takes up to four instructions. */
INLINE words widened(halves upper) {
#ifdef __AVX512F__
    return (words)_mm512_cvtepu16_epi32((__m256i)upper);
#else
    return __builtin_convertvector(upper, words);
#endif
}

INLINE halves narrowed(words lower) {
#ifdef __AVX512F__
    return (halves)_mm512_cvtepi32_epi16((__m512i)lower);
#else
    return __builtin_convertvector(lower, halves);
#endif
}

INLINE floats read_elements(const element *from) {
    halves upper;
    memcpy(&upper, from, sizeof upper);
    return (floats)(widened(upper) << 16);
}

/* To the nearest, ties to even, as torch rounds; what is not a number stays one. */
INLINE void write_elements(element *to, floats x) {
    words bits = (words)x;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words quiet = (words)(x != x);
    halves upper = narrowed((rounded & ~quiet) | (0x7fc0 & quiet));
    memcpy(to, &upper, sizeof upper);
}
#else
typedef float element;
#define read_elements read_floats
#define write_elements write_floats
#endif

/* `rest` elements, LANES at most, and zeros behind them: the end of an array goes through the arithmetic of the others. */
INLINE floats read_some(const element *from, int64_t rest) {
    if (rest >= LANES) return read_elements(from);
#if defined(__AVX512F__) && !defined(BFLOAT16)
    return (floats)_mm512_maskz_loadu_ps((1 << rest) - 1, from);
#elif defined(__AVX512BW__) && defined(__AVX512VL__)
    return (floats)(widened((halves)_mm256_maskz_loadu_epi16((1 << rest) - 1, from)) << 16);
#else
    element last[LANES] = {0};
    memcpy(last, from, rest * sizeof(element));
    return read_elements(last);
#endif
}

INLINE void write_some(element *to, floats x, int64_t rest) {
    if (rest >= LANES) {
        write_elements(to, x);
        return;
    }
#if defined(__AVX512F__) && !defined(BFLOAT16)
    _mm512_mask_storeu_ps(to, (1 << rest) - 1, (__m512)x);
#else
    element last[LANES];
    write_elements(last, x);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_mask_storeu_epi16(to, (1 << rest) - 1, _mm256_loadu_si256((__m256i *)last));
#else
    memcpy(to, last, rest * sizeof(element));
#endif
#endif
}

INLINE floats choose(ints where, floats yes, floats no) {
    return (floats)(((ints)yes & where) | ((ints)no & ~where));
}

/* The lanes of a where they are larger, and else those of b: what is not a number in a is passed over, in b kept. */
INLINE floats larger(floats a, floats b) {
#ifdef __AVX512F__
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

#if LANES == 16
/* Lanes of x and its halves, quarters, .. exchanged: after each, `combine` leaves the same in both. */
#define FOLD(x, combine)                                                                            \
    combine(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)); \
    combine(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)); \
    combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)); \
    combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#define ADD(x, y) x += y
#define LARGER(x, y) x = larger(y, x)
#else
#define FOLD(x, combine) \
    for (int lane = 1; lane < LANES; lane++) combine(x[0], x[lane])
#define ADD(x, y) x += y
#define LARGER(x, y) x = y > x ? y : x
#endif

INLINE float sum_of(floats x) {
    FOLD(x, ADD);
    return x[0];
}

INLINE float largest_lane(floats x) {
    FOLD(x, LARGER);
    return x[0];
}

/* e to the power of x <= 87, within 2 units in the last place, by x = n log 2 + r and a polynomial in r. The constant
   2^23 + 2^22 rounds to a whole number, which then stands in the lowest bits. Below -87: as at -87. NaN stays NaN. */
INLINE floats exponential(floats x) {
    x = larger((floats){0} - 87.0f, x);
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

/* The same, and 0 below -87. */
INLINE floats power(floats x) { return (floats)((ints)exponential(x) & ~(x < -87.0f)); }
