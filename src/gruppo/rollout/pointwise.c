/* What a layer computes number by number: rotary embedding of queries and keys, and the product of a gated MLP; with
   their gradients. torch's operators write each step of it as an array of its own. A number's bits depend on nothing
   but what it is made of, wherever it stands.

   Compiled once per kind of element, as `vectors.h` says; arithmetic is in floats, and what comes out rounded once. */

#include "vectors.h"

/* One head, two halves [half] of a and b: a cos - b sin and b cos + a sin, each by its own half of the angles. The
   gradient is the same with the halves of sin exchanged and turned round. */
INLINE void turned(const element *from, const element *cos, const element *sin, element *to, int64_t half, int back) {
    for (int64_t d = 0; d < half; d += LANES) {
        int64_t rest = half - d;
        floats a = read_some(from + d, rest), b = read_some(from + half + d, rest);
        floats first = read_some(sin + d, rest), second = read_some(sin + half + d, rest);
        floats of_a = back ? -second : first, of_b = back ? -first : second;
        write_some(to + d, a * read_some(cos + d, rest) - b * of_a, rest);
        write_some(to + half + d, b * read_some(cos + half + d, rest) + a * of_b, rest);
    }
}

/* Queries [rows, heads, size] and keys [rows, key_heads, size], turned by cos and sin [period, size], which begin anew
   after `period` rows; or, with `back`, the gradients of what was turned. size is even. */
void rotary(const element *queries, const element *keys, const element *cos, const element *sin, element *out_queries,
            element *out_keys, int64_t rows, int64_t period, int64_t heads, int64_t key_heads, int64_t size, int back,
            int threads) {
    int worth = threads > 1 && rows * (heads + key_heads) * size > WORTH_THREADS;
#pragma omp parallel for num_threads(threads) if (worth) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const element *c = cos + row % period * size, *s = sin + row % period * size;
        for (int64_t head = row * heads; head < (row + 1) * heads; head++)
            turned(queries + head * size, c, s, out_queries + head * size, size / 2, back);
        for (int64_t head = row * key_heads; head < (row + 1) * key_heads; head++)
            turned(keys + head * size, c, s, out_keys + head * size, size / 2, back);
    }
}

/* The logistic function of x, s = 1 / (1 + e^-x), and 1 - s = e^-x s, both to their last digits. Below -87: as there,
   where e^-x is still a number. NaN stays NaN. */
INLINE floats logistic(floats x, floats *lack) {
    floats e = exponential(-larger((floats){0} - 87.0f, x)), s = 1 / (1 + e);
    *lack = e * s;
    return s;
}

/* out = gate logistic(gate) up, for `count` numbers. */
void gated(const element *gate, const element *up, element *out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > WORTH_THREADS) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        floats lack, x = read_some(gate + i, count - i);
        write_some(out + i, x * logistic(x, &lack) * read_some(up + i, count - i), count - i);
    }
}

/* The gradients: that of up is grad gate s, and that of gate is grad up (s + gate s (1 - s)), with s = logistic(gate). */
void gated_backward(const element *gate, const element *up, const element *grad, element *grad_gate, element *grad_up,
                    int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && count > WORTH_THREADS) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t rest = count - i;
        floats lack, x = read_some(gate + i, rest), g = read_some(grad + i, rest), s = logistic(x, &lack);
        floats active = x * s;
        write_some(grad_up + i, g * active, rest);
        write_some(grad_gate + i, g * read_some(up + i, rest) * (s + active * lack), rest);
    }
}
