/* Log-probs of targets and entropies from logits on a CPU, and the gradient of the log-probs, written over the logits.

   torch's operators write the exponentials, their products and the gradient as arrays of their own. Here the forward
   pass only reads, a row that lies in the processor's cache twice; the backward pass computes the exponentials anew.

   Legend: N tokens, V vocabulary; z = logit / temperature.
   Compiled once per kind of element: float, or, with BFLOAT16 defined, the upper halves of floats. */

#include "vectors.h"

#include <math.h>

#define BLOCK 1024 /* numbers that are summed before their sum is added to that of the row */
#define LEAST -1e30f

typedef struct {
    element *logits;        /* [N, V] */
    const int64_t *targets; /* [N] */
    int64_t tokens, vocabulary;
    float temperature;
    float *logprobs, *entropies, *normalisers; /* [N]; log of the sum of the exponentials of z */
    const float *grad;                         /* [N], of the log-probs */
} call;

/* z of LANES tokens from j on; behind the vocabulary's end, and where a token is impossible, LEAST. */
INLINE floats scaled(const call *c, const element *row, int64_t j) {
    int64_t rest = c->vocabulary - j;
    floats x = read_some(row + j, rest);
    for (int lane = (int)rest; lane < LANES; lane++) x[lane] = LEAST;
    if (c->temperature != 1) x /= c->temperature;
    return larger((floats){0} + LEAST, x);
}

static void forward_row(const call *c, int64_t token) {
    const element *row = c->logits + token * c->vocabulary;
    floats most = scaled(c, row, 0);
    for (int64_t j = LANES; j < c->vocabulary; j += LANES) most = larger(most, scaled(c, row, j));
    float largest = largest_lane(most), sum = 0, weighed = 0;
    for (int64_t j = 0; j < c->vocabulary; j += LANES) {
        floats sums = {0}, products = {0};
        int64_t end = j + BLOCK < c->vocabulary ? j + BLOCK : c->vocabulary;
        for (; j < end; j += LANES) {
            floats x = scaled(c, row, j) - largest, y = power(x);
            sums += y;
            products += x * y;
        }
        j -= LANES;
        sum += sum_of(sums);
        weighed += sum_of(products);
    }
    int64_t target = c->targets[token];
    float shift = logf(sum), chosen = scaled(c, row, target / LANES * LANES)[target % LANES];
    c->normalisers[token] = largest + shift;
    c->logprobs[token] = chosen <= LEAST ? -INFINITY : chosen - largest - shift;
    c->entropies[token] = shift - weighed / sum;
}

/* grad / temperature times (1 for the target - probability). */
static void backward_row(const call *c, int64_t token) {
    element *row = c->logits + token * c->vocabulary;
    float factor = c->grad[token] / c->temperature, normaliser = c->normalisers[token];
    int64_t target = c->targets[token];
    for (int64_t j = 0; j < c->vocabulary; j += LANES) {
        floats x = power(scaled(c, row, j) - normaliser) * -factor;
        if (target >= j && target < j + LANES) x[target - j] += factor;
        write_some(row + j, x, c->vocabulary - j);
    }
}

void token_logprobs(const call *c, int backward, int threads) {
    int worth = threads > 1 && c->tokens * c->vocabulary > WORTH_THREADS;
#pragma omp parallel for num_threads(threads) if (worth) schedule(static)
    for (int64_t token = 0; token < c->tokens; token++)
        if (backward) backward_row(c, token);
        else forward_row(c, token);
}
