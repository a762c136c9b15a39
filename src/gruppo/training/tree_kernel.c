/* Attention by trees on a CPU, forward and backward: each token over its prompt and over its own segment up to itself.

   A segment is a prompt or a branch. torch's kernel takes a call for the segments and one for their prompts, pads both,
   and multiplies blocks of any size by a general product, which costs more than the product itself where segments are
   short or heads small. Here a block of queries meets its prompt's keys and its own in one softmax.

   Arithmetic is in float32 whatever the elements are. A task is a key head of a tree, or a part of its segments where
   there are more threads than that; the gradients of a prompt are summed over the parts in order, so the same threads
   give the same bits.

   Legend: L tokens of a row, K key heads, G queries of a key head, D head size, a multiple of 16; n keys of a
   segment, R rows of a block: its tokens times G.
   Compiled once per kind of element: float, or, with BFLOAT16 defined, the upper halves of floats. */

#include "vectors.h"

#include <math.h>
#include <stdlib.h>

/* A tile of a product: so many sums are kept in registers, of which AVX-512 has 32 and AVX2 16. */
#if defined(__AVX512F__)
#define ROWS 8
#define VECTORS 2
#elif defined(__AVX__)
#define ROWS 4
#define VECTORS 2
#else
#define ROWS 4
#define VECTORS 4
#endif
#define WIDTH (VECTORS * LANES)
#define BLOCK 32 /* rows of a block, unless a single token has more */
#define MASKED -1e30f

/* c[r][j] = (add ? c[r][j] : 0) + sum over i < depth of a[r * a_row + i * a_step] b[i * b_row + j], for ROWS rows r and
   `vectors` times LANES columns j. What is there is added last: long sums in parts lose fewer digits. */
INLINE void tile(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, int64_t depth, int vectors,
                 float *c, int64_t c_row, int add) {
    floats sums[ROWS][VECTORS] = {0};
    for (int64_t i = 0; i < depth; i++) {
        floats x[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[v] = read_floats(b + i * b_row + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[r][v] += a[r * a_row + i * a_step] * x[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = c + r * c_row + v * LANES;
            write_floats(to, add ? read_floats(to) + sums[r][v] : sums[r][v]);
        }
}

/* A matrix [rows, depth] by its steps: a row, or, turned, a column, lies in one piece. */
typedef struct {
    const float *at;
    int64_t row, step;
} left;

/* A matrix [depth, columns]: numbers from a row to the next, and from WIDTH columns to the next. */
typedef struct {
    const float *at;
    int64_t row, step;
} right;

/* c [rows, columns] = a b, or c + a b; rows a multiple of ROWS, columns one of LANES. */
static void product(left a, right b, int64_t rows, int64_t depth, int64_t columns, float *c, int64_t c_row, int add) {
    for (int64_t j = 0; j < columns; j += WIDTH)
        for (int64_t r = 0; r < rows; r += ROWS) {
            const float *from = a.at + r * a.row, *with = b.at + j / WIDTH * b.step;
            float *to = c + r * c_row + j;
            if (columns - j >= WIDTH) tile(from, a.row, a.step, with, b.row, depth, VECTORS, to, c_row, add);
            else
                for (int64_t more = 0; more < columns - j; more += LANES)
                    tile(from, a.row, a.step, with + more, b.row, depth, 1, to + more, c_row, add);
        }
}

/* One call. Numbers of queries, keys, values and gradients lie `token` from a token to the next, `head` from a head to
   the next, and side by side within a head; results are [L, heads, D] in one piece. */
typedef struct {
    const element *at;
    int64_t token, head;
} given;

typedef struct {
    given queries, keys, values, grad; /* [L, K G, D] [L, K, D] [L, K, D] [L, K G, D] */
    const int64_t (*segments)[4];      /* of each: where its prompt begins, the prompt's tokens; where it begins itself,
                                          its tokens; a prompt is one that begins where its prompt begins */
    const int64_t *ends;               /* [trees] behind each tree's last segment */
    int64_t trees, heads, group, size, longest_prompt, longest;
    int64_t window; /* a token sees so many, itself counted; 0: all */
    float scaling;
    element *out; /* [L, K G, D] */
    float *lse;   /* [L, K G] */
    element *grad_queries, *grad_keys, *grad_values;
} call;

INLINE int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* A segment's keys and values of one head, as products want them. */
typedef struct {
    float *keys_turned, *values, *values_turned, *keys; /* [n / WIDTH, D, WIDTH] [n, D]; the last two for backward */
    float *grad_keys, *grad_values;                     /* [n, D] */
    int64_t count, width;                               /* n, and n filled up to LANES */
} segment;

/* What a thread works with. */
typedef struct {
    segment prompt, own;
    float *grads;                    /* [2, longest, D]: those of a branch's keys and values */
    float *queries, *grad, *results; /* [R, D] each */
    float *scores, *others;          /* [R, row] each */
    float *delta;                    /* [R] */
    int64_t row;
} workshop;

/* numbers[n, D] of a head as floats. */
static void copied(given x, int64_t head, int64_t start, int64_t count, int64_t size, float *to) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < size; d += LANES)
            write_floats(to + t * size + d, read_elements(x.at + (start + t) * x.token + head * x.head + d));
}

/* The same turned: WIDTH tokens side by side; what is filled up is 0. */
static void turned(const float *from, int64_t count, int64_t size, float *to) {
    for (int64_t first = 0; first < count; first += WIDTH, to += size * WIDTH) {
        int64_t here = count - first < WIDTH ? count - first : WIDTH;
        if (here < WIDTH) memset(to, 0, size * WIDTH * sizeof(float));
        for (int64_t j = 0; j < here; j++)
            for (int64_t d = 0; d < size; d++) to[d * WIDTH + j] = from[(first + j) * size + d];
    }
}

static void unpack(const call *c, int64_t head, int64_t start, int64_t count, int backward, segment *s) {
    int64_t size = c->size;
    s->count = count;
    s->width = padded(count, LANES);
    copied(c->keys, head, start, count, size, s->keys);
    turned(s->keys, count, size, s->keys_turned);
    copied(c->values, head, start, count, size, s->values);
    if (backward) turned(s->values, count, size, s->values_turned);
}

/* A block: the queries of `tokens` tokens of the own segment from `first` on, a token's G side by side. */
typedef struct {
    int64_t start, first, tokens, rows; /* where the segment begins in L; rows: R filled up to ROWS */
    int64_t own;                        /* own keys that any of them sees, filled up to LANES */
} block;

/* rows[R, D] of the block's heads times a factor; filled up with 0. */
static void gathered(const call *c, given x, int64_t head, const block *b, float factor, float *to) {
    int64_t size = c->size, group = c->group;
    for (int64_t t = 0; t < b->tokens; t++)
        for (int64_t g = 0; g < group; g++) {
            const element *from = x.at + (b->start + b->first + t) * x.token + (head * group + g) * x.head;
            for (int64_t d = 0; d < size; d += LANES)
                write_floats(to + (t * group + g) * size + d, read_elements(from + d) * factor);
        }
    memset(to + b->tokens * group * size, 0, (b->rows - b->tokens * group) * size * sizeof(float));
}

static void scattered(const call *c, int64_t head, const block *b, const float *from, float factor, element *to) {
    int64_t size = c->size, group = c->group, heads = c->heads * group;
    for (int64_t t = 0; t < b->tokens; t++)
        for (int64_t g = 0; g < group; g++)
            for (int64_t d = 0; d < size; d += LANES)
                write_elements(to + ((b->start + b->first + t) * heads + head * group + g) * size + d,
                               read_floats(from + (t * group + g) * size + d) * factor);
}

/* [R, prompt and own keys] = rows times what is turned, of the prompt and of the segment. */
INLINE void against(const workshop *w, const block *b, const float *rows, const float *prompt, const float *own,
                    int64_t size, float *to) {
    left a = {rows, size, 1};
    product(a, (right){prompt, WIDTH, size * WIDTH}, b->rows, size, w->prompt.width, to, w->row, 0);
    product(a, (right){own, WIDTH, size * WIDTH}, b->rows, size, b->own, to + w->prompt.width, w->row, 0);
}

/* [R, D] = shares times rows of the prompt and of the segment. */
INLINE void summed(const workshop *w, const block *b, const float *shares, const float *prompt, const float *own,
                   int64_t size, float *to) {
    left a = {shares, w->row, 1};
    product(a, (right){prompt, size, WIDTH}, b->rows, w->prompt.count, size, to, size, 0);
    a.at += w->prompt.width;
    product(a, (right){own, size, WIDTH}, b->rows, b->first + b->tokens, size, to, size, 1);
}

/* The keys' gradients + shares, turned, times the queries' rows. */
INLINE void returned(const workshop *w, const block *b, const float *shares, const float *rows, int64_t size,
                     float *prompt, float *own) {
    left a = {shares, 1, w->row};
    right x = {rows, size, WIDTH};
    product(a, x, w->prompt.width, b->rows, size, prompt, size, 1);
    a.at += w->prompt.width;
    product(a, x, b->own, b->rows, size, own, size, 1);
}

INLINE void fill(float *row, int64_t from, int64_t to, float with) {
    for (int64_t j = from; j < to; j++) row[j] = with;
}

/* What the token at place i of its segment doesn't see. */
INLINE void mask(const call *c, const workshop *w, const block *b, int64_t i, float *row) {
    int64_t before = w->prompt.count, width = w->prompt.width;
    fill(row, before, width, MASKED);
    fill(row, width + i + 1, width + b->own, MASKED);
    int64_t unseen = c->window ? before + i + 1 - c->window : 0; /* the first so many of its way */
    if (unseen > 0) fill(row, 0, unseen < before ? unseen : before, MASKED);
    if (unseen > before) fill(row, width, width + unseen - before, MASKED);
}

/* Scores become exponentials, those of what is masked 0; gives their sum and the largest score. */
INLINE float exponentials(const call *c, const workshop *w, const block *b, int64_t i, float *row, float *largest) {
    int64_t end = w->prompt.width + b->own;
    mask(c, w, b, i, row);
    floats most = read_floats(row), sums = {0};
    for (int64_t j = LANES; j < end; j += LANES) most = larger(most, read_floats(row + j));
    *largest = largest_lane(most);
    for (int64_t j = 0; j < end; j += LANES) {
        floats x = power(read_floats(row + j) - *largest);
        sums += x;
        write_floats(row + j, x);
    }
    return sum_of(sums);
}

static void forward_block(const call *c, int64_t head, const workshop *w, const block *b) {
    int64_t size = c->size, heads = c->heads * c->group;
    gathered(c, c->queries, head, b, c->scaling, w->queries);
    against(w, b, w->queries, w->prompt.keys_turned, w->own.keys_turned, size, w->scores);
    for (int64_t r = 0; r < b->tokens * c->group; r++) {
        float largest, sum = exponentials(c, w, b, b->first + r / c->group, w->scores + r * w->row, &largest);
        w->delta[r] = 1 / sum;
        int64_t token = b->start + b->first + r / c->group;
        c->lse[token * heads + head * c->group + r % c->group] = largest + logf(sum);
    }
    summed(w, b, w->scores, w->prompt.values, w->own.values, size, w->results);
    for (int64_t r = 0; r < b->tokens * c->group; r++)
        for (int64_t d = 0; d < size; d += LANES)
            write_floats(w->results + r * size + d, read_floats(w->results + r * size + d) * w->delta[r]);
    scattered(c, head, b, w->results, 1, c->out);
}

/* delta [R]: the sum over D of a query's result times its gradient. */
static void deltas(const call *c, int64_t head, const workshop *w, const block *b) {
    int64_t size = c->size, heads = c->heads * c->group;
    given out = {c->out, heads * size, size};
    gathered(c, out, head, b, 1, w->results);
    for (int64_t r = 0; r < b->rows; r++) {
        floats sums = {0};
        for (int64_t d = 0; d < size; d += LANES)
            sums += read_floats(w->results + r * size + d) * read_floats(w->grad + r * size + d);
        w->delta[r] = sum_of(sums);
    }
}

/* With P the probabilities and E = dO V', dS = P (E - delta): dQ = dS K, dK += dS' Q, dV += P' dO. */
static void backward_block(const call *c, int64_t head, const workshop *w, const block *b) {
    int64_t size = c->size, heads = c->heads * c->group, end = w->prompt.width + b->own;
    gathered(c, c->queries, head, b, c->scaling, w->queries);
    gathered(c, c->grad, head, b, 1, w->grad);
    deltas(c, head, w, b);
    against(w, b, w->queries, w->prompt.keys_turned, w->own.keys_turned, size, w->scores);
    against(w, b, w->grad, w->prompt.values_turned, w->own.values_turned, size, w->others);
    for (int64_t r = 0; r < b->tokens * c->group; r++) {
        float *probs = w->scores + r * w->row, *grads = w->others + r * w->row;
        int64_t i = b->first + r / c->group;
        float lse = c->lse[(b->start + i) * heads + head * c->group + r % c->group];
        mask(c, w, b, i, probs);
        for (int64_t j = 0; j < end; j += LANES) {
            floats p = power(read_floats(probs + j) - lse);
            write_floats(probs + j, p);
            write_floats(grads + j, p * (read_floats(grads + j) - w->delta[r]));
        }
    }
    summed(w, b, w->others, w->prompt.keys, w->own.keys, size, w->results);
    scattered(c, head, b, w->results, c->scaling, c->grad_queries);
    returned(w, b, w->others, w->queries, size, w->prompt.grad_keys, w->own.grad_keys);
    returned(w, b, w->scores, w->grad, size, w->prompt.grad_values, w->own.grad_values);
}

static void stored(const call *c, int64_t head, int64_t start, int64_t count, const float *from, element *to) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < c->size; d += LANES)
            write_elements(to + ((start + t) * c->heads + head) * c->size + d, read_floats(from + t * c->size + d));
}

/* All queries of a segment; the prompt is unpacked already. */
static void through(const call *c, int64_t head, const workshop *w, int64_t start, int64_t count, int backward) {
    int64_t tokens = c->group < BLOCK ? BLOCK / c->group : 1;
    for (int64_t first = 0; first < count; first += tokens) {
        int64_t here = count - first < tokens ? count - first : tokens;
        block b = {start, first, here, padded(here * c->group, ROWS), padded(first + here, LANES)};
        if (backward) backward_block(c, head, w, &b);
        else forward_block(c, head, w, &b);
    }
}

/* Part `part` of `parts` of a tree's segments, for a key head. `share` [2, longest prompt, D]: what the part adds to the
   gradients of the prompt's keys and values; none in the forward pass. */
static void task(const call *c, int64_t tree, int64_t head, int64_t part, int64_t parts, workshop *w, float *share) {
    int64_t begin = tree ? c->ends[tree - 1] : 0, count = c->ends[tree] - begin, unpacked = -1;
    int64_t prompt_room = padded(c->longest_prompt, WIDTH) * c->size, room = padded(c->longest, WIDTH) * c->size;
    w->prompt.grad_keys = share;
    w->prompt.grad_values = share ? share + prompt_room : NULL;
    if (share) memset(share, 0, 2 * prompt_room * sizeof(float));
    for (int64_t s = begin + count * part / parts; s < begin + count * (part + 1) / parts; s++) {
        const int64_t *at = c->segments[s];
        int is_prompt = at[0] == at[2];
        int64_t before = is_prompt ? 0 : at[1];
        if (before != unpacked) unpack(c, head, at[0], unpacked = before, share != NULL, &w->prompt);
        unpack(c, head, at[2], at[3], share != NULL, &w->own);
        w->own.grad_keys = is_prompt ? w->prompt.grad_keys : w->grads;
        w->own.grad_values = is_prompt ? w->prompt.grad_values : w->grads + room;
        if (share && !is_prompt) memset(w->grads, 0, 2 * room * sizeof(float));
        through(c, head, w, at[2], at[3], share != NULL);
        if (share && !is_prompt) {
            stored(c, head, at[2], at[3], w->own.grad_keys, c->grad_keys);
            stored(c, head, at[2], at[3], w->own.grad_values, c->grad_values);
        }
    }
}

/* The parts' shares of the gradients of a prompt, summed. */
static void joined(const call *c, int64_t tree, int64_t head, int64_t parts, float *shares) {
    const int64_t *first = c->segments[tree ? c->ends[tree - 1] : 0];
    int64_t room = padded(c->longest_prompt, WIDTH) * c->size;
    if (first[0] != first[2]) return;
    for (int64_t part = 1; part < parts; part++)
        for (int64_t i = 0; i < 2 * room; i += LANES)
            write_floats(shares + i, read_floats(shares + i) + read_floats(shares + part * 2 * room + i));
    stored(c, head, first[0], first[1], shares, c->grad_keys);
    stored(c, head, first[0], first[1], shares + room, c->grad_values);
}

/* The rooms of a workshop, one behind the other in `memory`; gives how many numbers that are. */
static int64_t furnish(const call *c, float *memory, workshop *w) {
    int64_t size = c->size, prompt = padded(c->longest_prompt, WIDTH), own = padded(c->longest, WIDTH), used = 0;
    int64_t rows = padded(c->group < BLOCK ? BLOCK : c->group, ROWS);
    w->row = prompt + own + LANES; /* an odd number of vectors: a column's numbers lie in different sets of a cache */
    struct {
        float **room;
        int64_t numbers;
    } rooms[] = {
        {&w->prompt.keys_turned, prompt * size}, {&w->prompt.values, prompt * size},
        {&w->prompt.values_turned, prompt * size}, {&w->prompt.keys, prompt * size},
        {&w->own.keys_turned, own * size}, {&w->own.values, own * size},
        {&w->own.values_turned, own * size}, {&w->own.keys, own * size},
        {&w->grads, 2 * own * size}, {&w->queries, rows * size}, {&w->grad, rows * size},
        {&w->results, rows * size}, {&w->scores, rows * w->row}, {&w->others, rows * w->row},
        {&w->delta, padded(rows, LANES)},
    };
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        if (memory) *rooms[i].room = memory + used;
        used += rooms[i].numbers;
    }
    return used;
}

/* Forward, or, with `backward`, the gradients. Gives 0, or 1 where there was no memory. */
int tree_attention(const call *c, int backward, int64_t parts, int threads) {
    int64_t heads = c->heads, room = 2 * padded(c->longest_prompt, WIDTH) * c->size;
    int failed = 0;
    float *shares = backward ? malloc((c->trees * heads * parts * room + 1) * sizeof(float)) : NULL;
    if (backward && !shares) return 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        workshop w = {0};
        float *memory = aligned_alloc(64, padded(furnish(c, NULL, &w) * sizeof(float), 64));
        if (!memory) failed = 1;
        else furnish(c, memory, &w);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < c->trees * heads * parts; i++)
            if (memory)
                task(c, i / parts / heads, i / parts % heads, i % parts, parts, &w, backward ? shares + i * room : NULL);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < c->trees * heads; i++)
            if (backward && memory) joined(c, i / heads, i % heads, parts, shares + i * parts * room);
        free(memory);
    }
    free(shares);
    return failed;
}
