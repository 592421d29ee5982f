/* Log-probs and entropies of next tokens from hidden states, and their gradients: the logits are never in memory.

A float32 number is a bfloat16 and the bfloat16 of what that leaves; of the four products of such sums three are taken,
which keeps 16 bits of a number where bfloat16 has 8, at the matrix unit's speed. The vocabulary passes by in blocks: a running
maximum, sums of exponentials and of what they expect (Milakov and Gimelshein 2018). Rows are independent of each other
and of the number of threads. */

#include "amx.h"
#include <omp.h>

enum { ROWS = 1024, BLOCK = 256, SPAN = 288 };
/* ROWS of hidden states pass over BLOCKs of the vocabulary, which stay in the second cache. SPAN: inputs that are multiplied
   at a time; both halves of 32 rows of them stay in the first one. */

static long least(long a, long b) { return a < b ? a : b; }

static __mmask16 first(long count) { return count >= 16 ? 0xffff : (__mmask16)((1u << (count < 0 ? 0 : count)) - 1); }

/* `rows` rows of float32 [width] as two planes of bfloat16 [padded rows][step widths], zeros beyond. */
static void split_rows(const float *from, long rows, long padded_rows, long width, long padded, bf16 *high, bf16 *low) {
    for (long r = 0; r < padded_rows; r++)
        for (long d = 0; d < padded; d += 16) {
            __mmask16 here = r < rows ? first(width - d) : 0;
            __m512 x = _mm512_maskz_loadu_ps(here, from + r * width + d);
            __m256i top = (__m256i)_mm512_cvtneps_pbh(x);
            __m512 rest = _mm512_sub_ps(x, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(top), 16));
            _mm256_storeu_si256((void *)(high + r * padded + d), top);
            _mm256_storeu_si256((void *)(low + r * padded + d), (__m256i)_mm512_cvtneps_pbh(rest));
        }
}

static inline void store_tiles(float *out, long stride) {
    _tile_stored(0, out, stride * 4);
    _tile_stored(1, out + SIDE, stride * 4);
    _tile_stored(2, out + SIDE * stride, stride * 4);
    _tile_stored(3, out + SIDE * stride + SIDE, stride * 4);
}

static inline void load_tiles(const float *from, long stride) {
    _tile_loadd(0, from, stride * 4);
    _tile_loadd(1, from + SIDE, stride * 4);
    _tile_loadd(2, from + SIDE * stride, stride * 4);
    _tile_loadd(3, from + SIDE * stride + SIDE, stride * 4);
}

/* Adds 32 rows by 32 columns of products to tiles 0 … 3: A rows high and low, times B tiles high and low. B passes by once and
   must not drive A out of the cache. */
static inline void multiply(const bf16 *a_high, const bf16 *a_low, long stride, long steps, const uint32_t *b_high,
                            const uint32_t *b_low) {
    for (long step = 0; step < steps; step++) {
        const uint32_t *high = b_high + step * 512, *low = b_low + step * 512;
        _tile_loadd(4, a_high + step * 32, stride * 2);
        _tile_stream_loadd(6, high, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, high + 256, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a_high + SIDE * stride + step * 32, stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_stream_loadd(6, low, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        _tile_stream_loadd(7, low + 256, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, a_low + step * 32, stride * 2);
        _tile_stream_loadd(6, high, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a_low + SIDE * stride + step * 32, stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_stream_loadd(7, high + 256, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* out[32][columns of stride] = 32 rows of float32 times `columns` others [columns][padded]: A rows and B tiles across. */
static void products(const bf16 *a_high, const bf16 *a_low, const uint32_t *b_high, const uint32_t *b_low, long padded,
                     long columns, float *out, long stride) {
    for (long from = 0; from < padded; from += SPAN)
        for (long c = 0; c < columns; c += 32) {
            if (from == 0) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            } else {
                load_tiles(out + c, stride);
            }
            long packed = c * padded / 2 + from * SIDE;
            multiply(a_high + from, a_low + from, padded, least(SPAN, padded - from) / 32, b_high + packed, b_low + packed);
            store_tiles(out + c, stride);
        }
}

/* out[32][32 of stride] += A rows [32][32 steps] times B tiles whose rows are `b_stride` words apart. */
static inline void add_product(const bf16 *a, long a_stride, long steps, const uint32_t *b, long b_stride, float *out,
                               long stride) {
    load_tiles(out, stride);
    for (long step = 0; step < steps; step++) {
        _tile_loadd(4, a + step * 32, a_stride * 2);
        _tile_stream_loadd(6, b + step * 16 * b_stride, b_stride * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, b + step * 16 * b_stride + SIDE, b_stride * 4);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + SIDE * a_stride + step * 32, a_stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    store_tiles(out, stride);
}

/* ---- log-probs ---- */

typedef struct {
    float most, sum, weighted, chosen; /* of one row: maximum, Σ e^(l - most), Σ l e^(l - most), the target's logit */
} Row;

typedef struct {
    bf16 *high, *low;           /* hidden states [ROWS][padded] */
    bf16 *w_high, *w_low;       /* one block of the head [BLOCK][padded] */
    uint32_t *b_high, *b_low;   /* the same as B tiles across */
    uint32_t *w_pairs;          /* the same as B tiles of itself [BLOCK / 2][padded] */
    float *logits;              /* [32][BLOCK] */
    bf16 *p;                    /* [32][BLOCK] */
    float *expected;            /* [ROWS][padded] */
    Row row[ROWS];
} Work;

static void load_block(const float *head, long count, long width, long padded, int with_pairs, Work *w) {
    split_rows(head, count, BLOCK, width, padded, w->w_high, w->w_low);
    for (long c = 0; c < BLOCK; c += 32) {
        pack_across(w->w_high + c * padded, padded, 32, padded, w->b_high + c * padded / 2);
        pack_across(w->w_low + c * padded, padded, 32, padded, w->b_low + c * padded / 2);
    }
    for (long c = 0; c < BLOCK && with_pairs; c += 32)
        pack_pairs(w->w_high + c * padded, padded, 32, padded, w->w_pairs + c / 2 * padded);
}

/* One row's logits of one block: updates its sums, leaves probabilities times e^most in bfloat16. */
static void update(Row *row, float *logits, long count, float by, long target, bf16 *p, float *expected, long padded) {
    __m512 most = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(by);
    for (long c = 0; c < BLOCK; c += 16) {
        __m512 l = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), first(count - c), _mm512_loadu_ps(logits + c), scale);
        _mm512_storeu_ps(logits + c, l);
        most = _mm512_max_ps(most, l);
    }
    if (target >= 0 && target < count) row->chosen = logits[target];
    float now = fmaxf(row->most, _mm512_reduce_max_ps(most));
    if (now > row->most) {
        float shrink = row->most == -INFINITY ? 0.0f : expf(row->most - now);
        row->sum *= shrink;
        row->weighted *= shrink;
        row->most = now;
        if (expected)
            for (long d = 0; d < padded; d++) expected[d] *= shrink;
    }
    __m512 sum = _mm512_setzero_ps(), weighted = sum, shift = _mm512_set1_ps(now);
    for (long c = 0; c < BLOCK; c += 16) {
        __mmask16 here = first(count - c);
        __m512 l = _mm512_loadu_ps(logits + c);
        __m512 e = _mm512_maskz_mov_ps(here, exponential(_mm512_sub_ps(l, shift)));
        sum = _mm512_add_ps(sum, e);
        weighted = _mm512_mask3_fmadd_ps(l, e, weighted, here);
        _mm256_storeu_si256((void *)(p + c), (__m256i)_mm512_cvtneps_pbh(e));
    }
    row->sum += _mm512_reduce_add_ps(sum);
    row->weighted += _mm512_reduce_add_ps(weighted);
}

static void some_logprobs(const float *hidden, const float *head, const int64_t *targets, float temperature, long rows,
                          long width, long vocabulary, float *logprob, float *entropy, float *slope, Work *w) {
    long padded = (width + 31) / 32 * 32, padded_rows = (rows + 31) / 32 * 32;
    split_rows(hidden, rows, padded_rows, width, padded, w->high, w->low);
    memset(w->expected, 0, padded_rows * padded * sizeof(float));
    for (long r = 0; r < padded_rows; r++) w->row[r] = (Row){-INFINITY, 0, 0, 0};
    for (long v = 0; v < vocabulary; v += BLOCK) {
        long count = least(BLOCK, vocabulary - v);
        load_block(head + v * width, count, width, padded, slope != NULL, w);
        for (long r = 0; r < padded_rows; r += 32) {
            products(w->high + r * padded, w->low + r * padded, w->b_high, w->b_low, padded, BLOCK, w->logits, BLOCK);
            for (long i = r; i < r + 32; i++)
                update(w->row + i, w->logits + (i - r) * BLOCK, count, 1.0f / temperature, i < rows ? targets[i] - v : -1,
                       w->p + (i - r) * BLOCK, slope ? w->expected + i * padded : NULL, padded);
            for (long d = 0; d < padded && slope; d += 32)
                add_product(w->p, BLOCK, BLOCK / 32, w->w_pairs + d, padded, w->expected + r * padded + d, padded);
        }
    }
    for (long r = 0; r < rows; r++) {
        Row row = w->row[r];
        float logsum = row.most + logf(row.sum);
        logprob[r] = row.chosen - logsum;
        entropy[r] = logsum - row.weighted / row.sum;
        if (!slope) continue;
        const float *chosen = head + targets[r] * width, *expected = w->expected + r * padded;
        for (long d = 0; d < width; d++) slope[r * width + d] = (chosen[d] - expected[d] / row.sum) / temperature;
    }
}

/* `slope` [rows, width], the gradient of each log-prob in its hidden state, may be NULL. */
void token_logprobs(const float *hidden, const float *head, const int64_t *targets, float temperature, long rows, long width,
                    long vocabulary, float *logprob, float *entropy, float *slope) {
    long padded = (width + 31) / 32 * 32, threads = omp_get_max_threads();
    long chunks = (rows + ROWS * threads - 1) / (ROWS * threads) * threads; /* all threads are done at the same time */
    long size = ((rows + chunks - 1) / chunks + 31) / 32 * 32;
#pragma omp parallel
    {
        begin_tiles();
        size_t block = BLOCK * padded * 2;
        Work *w = scratch(sizeof(Work));
        *w = (Work){.high = scratch(ROWS * padded * 2), .low = scratch(ROWS * padded * 2), .w_high = scratch(block),
                    .w_low = scratch(block), .b_high = scratch(block), .b_low = scratch(block), .w_pairs = scratch(block),
                    .logits = scratch(32 * BLOCK * 4), .p = scratch(32 * BLOCK * 2),
                    .expected = scratch(ROWS * padded * 4)};
#pragma omp for schedule(dynamic)
        for (long r = 0; r < rows; r += size)
            some_logprobs(hidden + r * width, head, targets + r, temperature, least(size, rows - r), width, vocabulary,
                          logprob + r, entropy + r, slope ? slope + r * width : NULL, w);
        void *mine[] = {w->high, w->low, w->w_high, w->w_low, w->b_high, w->b_low, w->w_pairs, w->logits, w->p, w->expected, w};
        for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
        _tile_release();
    }
}

/* ---- the gradient of the head itself ---- */

enum { COLUMNS = 256, DEEP = 128 };
/* COLUMNS of the vocabulary, with their sums, and DEEP rows of hidden states stay in the second cache together. */

/* What DEEP rows pull one token's row of the head with: -weight p, from the token's logits. */
static void pulls(const float *logits, float scale, const float *shift, const float *by, long count, bf16 *out) {
    for (long j = 0; j < count; j += 16) {
        __m512 l = _mm512_fmsub_ps(_mm512_load_ps(logits + j), _mm512_set1_ps(scale), _mm512_load_ps(shift + j));
        __m512 pull = _mm512_mul_ps(exponential(l), _mm512_load_ps(by + j));
        _mm256_store_si256((void *)(out + j), (__m256i)_mm512_cvtneps_pbh(pull));
    }
}

/* d_head[v] = or += (`add`) Σ_r weight[r] / temperature (1[v is r's target] - p[r][v]) hidden[r], for all v but the targets' own term,
   which the caller adds. `logsum` is log Σ e^logit of each row, at the temperature. */
void head_gradient(const float *hidden, const float *head, const float *logsum, const float *weight, float temperature,
                   long rows, long width, long vocabulary, float *d_head, int add) {
    long padded = (width + 31) / 32 * 32, padded_rows = (rows + 31) / 32 * 32;
    size_t plane = padded_rows * padded * 2;
    bf16 *high = scratch(plane), *low = scratch(plane);
    uint32_t *b_high = scratch(plane), *b_low = scratch(plane), *in_pairs = scratch(plane);
    float *shift = scratch(padded_rows * 4), *by = scratch(padded_rows * 4);
    split_rows(hidden, rows, padded_rows, width, padded, high, low);
    for (long r = 0; r < padded_rows; r += 32) {
        pack_across(high + r * padded, padded, 32, padded, b_high + r * padded / 2);
        pack_across(low + r * padded, padded, 32, padded, b_low + r * padded / 2);
        pack_pairs(high + r * padded, padded, 32, padded, in_pairs + r / 2 * padded);
    }
    for (long r = 0; r < padded_rows; r++) {
        shift[r] = r < rows ? logsum[r] : INFINITY;
        by[r] = r < rows ? -weight[r] / temperature : 0.0f;
    }
#pragma omp parallel
    {
        begin_tiles();
        bf16 *w_high = scratch(COLUMNS * padded * 2), *w_low = scratch(COLUMNS * padded * 2), *d = scratch(COLUMNS * DEEP * 2);
        float *logits = scratch(32 * DEEP * 4), *sums = scratch(COLUMNS * padded * 4);
#pragma omp for schedule(dynamic)
        for (long v = 0; v < vocabulary; v += COLUMNS) {
            long count = least(COLUMNS, vocabulary - v), blocks = (count + 31) / 32 * 32;
            split_rows(head + v * width, count, blocks, width, padded, w_high, w_low);
            memset(sums, 0, blocks * padded * 4);
            for (long r = 0; r < padded_rows; r += DEEP) {
                long deep = least(DEEP, padded_rows - r);
                for (long i = 0; i < blocks; i += 32) {
                    products(w_high + i * padded, w_low + i * padded, b_high + r * padded / 2, b_low + r * padded / 2, padded,
                             deep, logits, DEEP);
                    for (long k = 0; k < 32; k++)
                        pulls(logits + k * DEEP, 1.0f / temperature, shift + r, by + r, deep, d + (i + k) * DEEP);
                }
                for (long i = 0; i < blocks; i += 32)
                    for (long column = 0; column < padded; column += 32)
                        add_product(d + i * DEEP, DEEP, deep / 32, in_pairs + r / 2 * padded + column, padded,
                                    sums + i * padded + column, padded);
            }
            for (long i = 0; i < count; i++) {
                float *to = d_head + (v + i) * width;
                if (add)
                    for (long column = 0; column < width; column++) to[column] += sums[i * padded + column];
                else memcpy(to, sums + i * padded, width * sizeof(float));
            }
        }
        free(w_high);
        free(w_low);
        free(d);
        free(logits);
        free(sums);
        _tile_release();
    }
    void *mine[] = {high, low, b_high, b_low, in_pairs, shift, by};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
}
