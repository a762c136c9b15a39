/* Layers of a decode step: linear layers on packed weights, and root mean square norms. torch's operators spend more
   time on the way than such small work takes. A row's numbers depend on nothing but the row.

   Compiled once per kind of element, as `vectors.h` says; the linear layers are made for floats. */

#include "vectors.h"

/* out = weight * (x / root of the mean of x^2 + epsilon), for rows of `size` numbers, a multiple of 16. Rounded once
   before the weight and once after, as transformers' models do. `shares` [rows], if wanted: 1 over each row's root. */
void rms_norm(const element *x, const element *weight, element *out, float *shares, int64_t rows, int64_t size,
              float epsilon, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * size > WORTH_THREADS) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const element *from = x + row * size;
        element *to = out + row * size;
        floats sums[2] = {{0}};
        for (int64_t d = 0; d < size; d += LANES) {
            floats part = read_elements(from + d);
            sums[d / LANES % 2] += part * part;
        }
        float share = 1 / __builtin_sqrtf(sum_of(sums[0] + sums[1]) / size + epsilon);
        if (shares) shares[row] = share;
        for (int64_t d = 0; d < size; d += LANES) {
            write_elements(to + d, read_elements(from + d) * share);
            write_elements(to + d, read_elements(to + d) * read_elements(weight + d));
        }
    }
}

#define PART 64 /* rows whose share of a weight's gradient is summed in one: long sums lose digits */

/* The gradients: with h = x * share and a = grad * weight, that of x is share (a - h mean(a h)); that of the weight is
   the sum of grad * h over the rows, here by parts of PART rows: [parts, size], or null where it is not wanted. */
void rms_norm_backward(const element *x, const element *weight, const element *grad, const float *shares,
                       element *grad_x, float *grad_weight, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * size > WORTH_THREADS) schedule(static)
    for (int64_t first = 0; first < rows; first += PART) {
        float *sums = grad_weight ? grad_weight + first / PART * size : 0;
        if (sums) memset(sums, 0, size * sizeof(float));
        for (int64_t row = first; row < rows && row < first + PART; row++) {
            const element *from = x + row * size, *with = grad + row * size;
            floats products = {0};
            for (int64_t d = 0; d < size; d += LANES) {
                floats h = read_elements(from + d) * shares[row], g = read_elements(with + d);
                products += g * read_elements(weight + d) * h;
                if (sums) write_floats(sums + d, read_floats(sums + d) + g * h);
            }
            float mean = sum_of(products) / size;
            for (int64_t d = 0; d < size; d += LANES) {
                floats h = read_elements(from + d) * shares[row], a = read_elements(with + d) * read_elements(weight + d);
                write_elements(grad_x + row * size + d, (a - h * mean) * shares[row]);
            }
        }
    }
}

/* Whether this processor has registers enough for `linear`. */
int wide(void) {
#ifdef __AVX512F__
    return 1;
#else
    return 0;
#endif
}

#ifndef BFLOAT16
#define ROWS 8
#define COLUMNS (2 * LANES)
#define DEEP 128
#define WORTH_PRODUCTS (1 << 18) /* of a call, as WORTH_THREADS */

/* `rows` rows of `vectors` * LANES outputs: out [.., outputs] = x [.., inputs] times packed [inputs, COLUMNS] + bias.
   DEEP products at a time are added to what is there: a sum of thousands loses digits. */
INLINE void tile(const float *x, const float *packed, const float *bias, float *out, int64_t inputs, int64_t outputs,
                 int rows, int vectors) {
    for (int64_t first = 0; first < inputs; first += DEEP) {
        int64_t end = first + DEEP < inputs ? first + DEEP : inputs;
        floats sums[ROWS][2];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) sums[i][j] = (floats){0};
        for (int64_t k = first; k < end; k++)
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < vectors; j++)
                    sums[i][j] += x[i * inputs + k] * read_floats(packed + k * COLUMNS + j * LANES);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) {
                float *to = out + i * outputs + j * LANES;
                if (first) sums[i][j] += read_floats(to);
                else if (bias) sums[i][j] += read_floats(bias + j * LANES);
                write_floats(to, sums[i][j]);
            }
    }
}

/* Those of one row tile after another; the block of the weight stays in the processor's cache. */
INLINE void block(const float *x, const float *packed, const float *bias, float *out, int64_t rows, int64_t inputs,
                  int64_t outputs, int vectors) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, ROWS, vectors);
    for (; row + ROWS / 2 <= rows; row += ROWS / 2)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, ROWS / 2, vectors);
    for (; row < rows; row++)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, 1, vectors);
}

/* out [rows, outputs] = x [rows, inputs] times weight + bias, which may be null. `packed` is the weight by blocks of
   COLUMNS outputs: [blocks, inputs, COLUMNS], of which the last may be half of use; outputs are a multiple of LANES. */
void linear(const float *x, const float *packed, const float *bias, float *out, int64_t rows, int64_t inputs,
            int64_t outputs, int threads) {
    int worth = threads > 1 && rows * inputs * outputs > WORTH_PRODUCTS;
#pragma omp parallel for num_threads(threads) if (worth) schedule(static)
    for (int64_t first = 0; first < outputs; first += COLUMNS) {
        const float *weight = packed + first * inputs, *more = bias ? bias + first : 0;
        if (outputs - first >= COLUMNS) block(x, weight, more, out + first, rows, inputs, outputs, 2);
        else block(x, weight, more, out + first, rows, inputs, outputs, 1);
    }
}

/* packed [blocks, inputs, COLUMNS] from weight [outputs, inputs]. */
void pack(const float *weight, float *packed, int64_t inputs, int64_t outputs, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t first = 0; first < outputs; first += COLUMNS)
        for (int64_t k = 0; k < inputs; k++)
            for (int64_t j = first; j < first + COLUMNS; j++)
                packed[first * inputs + k * COLUMNS + j - first] = j < outputs ? weight[j * inputs + k] : 0;
}
#endif
