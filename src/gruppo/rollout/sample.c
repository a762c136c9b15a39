/* Draws a token of each row of logits by inversion of its softmax, and gives the token's log-prob.

   A row is read twice: for its largest logit, and for the sums of its weights by parts of the vocabulary. Weights are
   not kept: those of the part where the random number falls are computed again. Sums of parts are added in double, so
   the borders between tokens are where they should be. A row's numbers depend on nothing but the row.

   Legend: N rows, V vocabulary.
   Compiled once per kind of element, as `vectors.h` says. */

#include <math.h>

#include "vectors.h"

#define PARTS 64 /* at most, of a multiple of BLOCK * LANES tokens each */
#define BLOCK 4  /* vectors whose weights are computed side by side */

typedef struct {
    const element *logits; /* row i begins `stride` * i elements behind */
    const float *uniform;  /* [N] in [0, 1) */
    int64_t rows, vocabulary, stride;
    double temperature;
    int64_t *tokens; /* [N] */
    float *logprobs; /* [N] */
} call;

INLINE float read_one(const element *from) {
    element upper[LANES] = {*from};
    return read_elements(upper)[0];
}

/* LANES logits from place t on; minus infinity behind the last. */
INLINE floats read_logits(const element *row, int64_t t, int64_t vocabulary) {
    if (t + LANES <= vocabulary) return read_elements(row + t);
    floats x;
    for (int j = 0; j < LANES; j++) x[j] = t + j < vocabulary ? read_one(row + t + j) : -INFINITY;
    return x;
}

/* e to the power of (logit - largest) / temperature. */
INLINE floats weights(floats logits, float largest, float inverse) { return power((logits - largest) * inverse); }

/* What is not a number is passed over here; it comes out in the sums. */
INLINE float largest_of(const element *row, int64_t vocabulary) {
    floats most[4];
    int64_t t = 0;
    for (int i = 0; i < 4; i++) most[i] = (floats){0} - INFINITY;
    for (; t + 4 * LANES <= vocabulary; t += 4 * LANES)
        for (int i = 0; i < 4; i++) most[i] = larger(read_elements(row + t + i * LANES), most[i]);
    for (; t < vocabulary; t += LANES) most[0] = larger(read_logits(row, t, vocabulary), most[0]);
    for (int i = 1; i < 4; i++) most[0] = larger(most[i], most[0]);
    return largest_lane(most[0]);
}

/* The sum of the weights of tokens `start` to `end`, BLOCK at a time as long as they last. */
INLINE float sum_of_part(const element *row, int64_t start, int64_t end, int64_t vocabulary, float largest,
                         float inverse) {
    floats sums[BLOCK] = {{0}};
    int64_t t = start;
    for (; t + BLOCK * LANES <= end; t += BLOCK * LANES)
        for (int i = 0; i < BLOCK; i++) sums[i] += weights(read_elements(row + t + i * LANES), largest, inverse);
    for (; t < end; t += LANES) sums[0] += weights(read_logits(row, t, vocabulary), largest, inverse);
    for (int i = 1; i < BLOCK; i++) sums[0] += sums[i];
    return sum_of(sums[0]);
}

static void sample_row(const call *c, int64_t row) {
    const element *logits = c->logits + row * c->stride;
    int64_t vocabulary = c->vocabulary, part = ((vocabulary - 1) / (PARTS * BLOCK * LANES) + 1) * BLOCK * LANES;
    int64_t parts = (vocabulary - 1) / part + 1;
    float largest = largest_of(logits, vocabulary), inverse = (float)(1 / c->temperature);
    double sums[PARTS], total = 0, before = 0;
    for (int64_t p = 0; p < parts; p++) {
        int64_t start = p * part, end = start + part < vocabulary ? start + part : vocabulary;
        total += sums[p] = sum_of_part(logits, start, end, vocabulary, largest, inverse);
    }
    double target = c->uniform[row] * total;
    int64_t p = 0, last = 0, chosen = -1;
    for (; p < parts - 1 && before + sums[p] <= target; p++) before += sums[p];
    /* Rounding may push the target over the sum of the part's tokens: the last one with weight is meant then. */
    for (int64_t t = p * part; t < (p + 1) * part && t < vocabulary && chosen < 0; t += LANES) {
        floats weight = weights(read_logits(logits, t, vocabulary), largest, inverse);
        for (int j = 0; j < LANES && chosen < 0; j++) {
            if (weight[j] > 0) last = t + j;
            before += weight[j];
            if (before > target) chosen = t + j;
        }
    }
    if (chosen < 0) chosen = last;
    c->tokens[row] = chosen;
    c->logprobs[row] = (float)(((double)read_one(logits + chosen) - largest) / c->temperature - log(total));
}

void sample(const call *c, int threads) {
    int worth = threads > 1 && c->rows * c->vocabulary > WORTH_THREADS;
#pragma omp parallel for num_threads(threads) if (worth) schedule(static)
    for (int64_t row = 0; row < c->rows; row++) sample_row(c, row);
}
