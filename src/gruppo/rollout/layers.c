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

#define ROWS 8
#define COLUMNS (2 * LANES)
#define WORTH_PRODUCTS (1 << 18) /* of a call, as WORTH_THREADS */

#if defined(BFLOAT16) && defined(__AVX512BF16__)
#define WIDE 1
#define SIDE 2 /* weights of an output side by side: a processor's product of halves takes two */

/* sums[i][j] = x [rows, inputs] times LANES of packed [inputs / SIDE, COLUMNS, SIDE]. */
INLINE void multiplied(const element *x, const element *packed, int64_t inputs, int rows, int vectors,
                       floats (*sums)[2]) {
    for (int64_t k = 0; k < inputs; k += SIDE)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) {
                int32_t pair;
                __m512bh weights;
                memcpy(&pair, x + i * inputs + k, sizeof pair);
                memcpy(&weights, packed + k * COLUMNS + j * LANES * SIDE, sizeof weights);
                sums[i][j] = (floats)_mm512_dpbf16_ps((__m512)sums[i][j], (__m512bh)_mm512_set1_epi32(pair), weights);
            }
}
#elif !defined(BFLOAT16) && defined(__AVX512F__)
#define WIDE 1
#define SIDE 1
#define DEEP 128 /* products that are summed before they are added to the others: a sum of thousands loses digits */

/* sums[i][j] = x [rows, inputs] times LANES of packed [inputs, COLUMNS]. */
INLINE void multiplied(const element *x, const element *packed, int64_t inputs, int rows, int vectors,
                       floats (*sums)[2]) {
    for (int64_t first = 0; first < inputs; first += DEEP) {
        int64_t end = first + DEEP < inputs ? first + DEEP : inputs;
        floats part[ROWS][2] = {{{0}}};
        for (int64_t k = first; k < end; k++)
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < vectors; j++)
                    part[i][j] += x[i * inputs + k] * read_floats(packed + k * COLUMNS + j * LANES);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++) sums[i][j] += part[i][j];
    }
}
#endif

/* Whether this processor has `linear`. */
int wide(void) {
#ifdef WIDE
    return 1;
#else
    return 0;
#endif
}

#ifdef WIDE
/* `rows` rows of `vectors` * LANES outputs: out [.., outputs] = x [.., inputs] times packed + bias. */
INLINE void tile(const element *x, const element *packed, const element *bias, element *out, int64_t inputs,
                 int64_t outputs, int rows, int vectors) {
    floats sums[ROWS][2] = {{{0}}};
    multiplied(x, packed, inputs, rows, vectors, sums);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) {
            if (bias) sums[i][j] += read_elements(bias + j * LANES);
            write_elements(out + i * outputs + j * LANES, sums[i][j]);
        }
}

/* Those of one row tile after another; the block of the weight stays in the processor's cache. */
INLINE void block(const element *x, const element *packed, const element *bias, element *out, int64_t rows,
                  int64_t inputs, int64_t outputs, int vectors) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, ROWS, vectors);
    for (; row + ROWS / 2 <= rows; row += ROWS / 2)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, ROWS / 2, vectors);
    for (; row < rows; row++)
        tile(x + row * inputs, packed, bias, out + row * outputs, inputs, outputs, 1, vectors);
}

/* out [rows, outputs] = x [rows, inputs] times weight + bias, which may be null. `packed` is the weight by blocks of
   COLUMNS outputs: [blocks, inputs / SIDE, COLUMNS, SIDE], of which the last may be half of use; outputs are a multiple
   of LANES, inputs of SIDE. */
void linear(const element *x, const element *packed, const element *bias, element *out, int64_t rows, int64_t inputs,
            int64_t outputs, int threads) {
    int worth = threads > 1 && rows * inputs * outputs > WORTH_PRODUCTS;
#pragma omp parallel for num_threads(threads) if (worth) schedule(static)
    for (int64_t first = 0; first < outputs; first += COLUMNS) {
        const element *weight = packed + first * inputs, *more = bias ? bias + first : 0;
        if (outputs - first >= COLUMNS) block(x, weight, more, out + first, rows, inputs, outputs, 2);
        else block(x, weight, more, out + first, rows, inputs, outputs, 1);
    }
}

/* packed, as above, from weight [outputs, inputs]. */
void pack(const element *weight, element *packed, int64_t inputs, int64_t outputs, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t first = 0; first < outputs; first += COLUMNS)
        for (int64_t k = 0; k < inputs; k++)
            for (int64_t j = first; j < first + COLUMNS; j++)
                packed[first * inputs + k / SIDE * COLUMNS * SIDE + (j - first) * SIDE + k % SIDE] =
                    j < outputs ? weight[j * inputs + k] : 0;
}
#endif
