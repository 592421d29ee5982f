/* Products of bfloat16 matrices on the AMX matrix unit, for many rows: each with a second, narrow product added in the
same registers, which is how an adapter costs next to nothing.

Weights are packed as they are read, 32 columns at a time, and serve all rows; nothing is kept. Threads share columns, so
a number never depends on how many there are. */

#include "amx.h"
#include <omp.h>

static long least(long a, long b) { return a < b ? a : b; }

typedef struct {
    const bf16 *rows; /* [m][width]; a row begins every `stride`; width is a multiple of 32 */
    long stride;
    const bf16 *matrix; /* [n][width] if `across`, else [width][n]; a row begins every `matrix_stride` */
    long matrix_stride, width;
} Factor;

/* 32 columns, from `column` on (those from `n` on are 0), as B tiles: [width / 32][2][16][16 words]. */
static void pack_panel(const Factor *f, int across, long column, long n, uint32_t *out) {
    long count = least(32, n - column);
    if (across) {
        pack_across(f->matrix + column * f->matrix_stride, f->matrix_stride, count, f->width, out);
        return;
    }
    __mmask32 here = count >= 32 ? 0xffffffffu : (1u << count) - 1;
    for (long k = 0; k < f->width; k += 2) {
        const bf16 *even = f->matrix + k * f->matrix_stride + column;
        __m512i a = _mm512_maskz_loadu_epi16(here, even), b = _mm512_maskz_loadu_epi16(here, even + f->matrix_stride);
        __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b); /* pairs, lane by lane of 128 bits */
        __m512i order_first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), order_last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        uint32_t *tile = out + k / 32 * 512 + k % 32 / 2 * 16;
        _mm512_storeu_si512(tile, _mm512_permutex2var_epi64(low, order_first, high));
        _mm512_storeu_si512(tile + 256, _mm512_permutex2var_epi64(low, order_last, high));
    }
}

enum { ROUND, ADD, GATE };

/* Where results go. ROUND: `out` gets them. ADD: they are added to `sum`, not rounded. GATE: the n columns of the matrix
   are those of a gate and of what it opens; `out` gets both, `gated` [m][n / 2] gets silu(gate) times the other, from
   numbers that were not rounded yet. */
typedef struct {
    int what;
    bf16 *out, *gated;
    float *sum;
    long stride; /* of `out` or `sum` */
} Target;

/* Sums of the tiles before, which are written while the matrix unit works on the next ones. */
typedef struct {
    const float *sums, *bias; /* [32][32]; [32] */
    const Target *target;
    long row, column, inner; /* the first ones; GATE: n / 2 */
    long next, rows;
    __mmask32 columns;
} Pending;

static inline void store_rounded(bf16 *to, __m512 x) { _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

/* To 22 bits; a division would take longer than the matrix unit leaves. */
static inline __m512 sigmoid(__m512 x) {
    __m512 e = exponential(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(80.0f)));
    __m512 d = _mm512_add_ps(e, _mm512_set1_ps(1.0f)), guess = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(d, guess, _mm512_set1_ps(2.0f)));
}

static inline void add_to(float *to, __mmask16 here, __m512 x) {
    _mm512_mask_storeu_ps(to, here, _mm512_add_ps(_mm512_maskz_loadu_ps(here, to), x));
}

static inline __attribute__((always_inline)) void write_row(Pending *p) {
    if (p->next >= p->rows) return;
    const Target *t = p->target;
    const float *from = p->sums + p->next * 32;
    __m512 low = _mm512_add_ps(_mm512_load_ps(from), _mm512_load_ps(p->bias));
    __m512 high = _mm512_add_ps(_mm512_load_ps(from + 16), _mm512_load_ps(p->bias + 16));
    long row = p->row + p->next++, at = row * t->stride + p->column;
    if (t->what == ROUND) {
        _mm512_mask_storeu_epi16(t->out + at, p->columns, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    } else if (t->what == ADD) {
        add_to(t->sum + at, (__mmask16)p->columns, low);
        add_to(t->sum + at + 16, (__mmask16)(p->columns >> 16), high);
    } else {
        store_rounded(t->out + at, low);
        store_rounded(t->out + at + p->inner, high);
        store_rounded(t->gated + row * p->inner + p->column, _mm512_mul_ps(_mm512_mul_ps(low, sigmoid(low)), high));
    }
}

/* Adds 32 rows by 32 columns to tiles 0 … 3. */
static inline __attribute__((always_inline)) void multiply(const bf16 *rows, long stride, long width, const uint32_t *panel,
                                                           Pending *before) {
    const bf16 *below = rows + SIDE * stride;
    for (long step = 0; step < width / 32; step++, panel += 512) {
        _tile_loadd(4, rows + step * 32, stride * 2);
        _tile_loadd(6, panel, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + 256, 64);
        _tile_dpbf16ps(1, 4, 7);
        write_row(before);
        _tile_loadd(5, below + step * 32, stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        write_row(before);
    }
}

static inline void zero_tiles(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static inline void store_tiles(float *out) {
    _tile_stored(0, out, 128);
    _tile_stored(1, out + SIDE, 128);
    _tile_stored(2, out + SIDE * 32, 128);
    _tile_stored(3, out + SIDE * 32 + SIDE, 128);
}

/* The last rows, fewer than 32, with zeros after them. */
static bf16 *padded_rows(const Factor *f, long m) {
    long first = m / 32 * 32;
    bf16 *out = scratch(32 * f->width * 2);
    memset(out, 0, 32 * f->width * 2);
    for (long i = first; i < m; i++) memcpy(out + (i - first) * f->width, f->rows + i * f->stride, f->width * 2);
    return out;
}

enum { PANELS = 8 }; /* of 32 columns that are packed at a time: what stays in the cache while all rows pass */

/* A panel's columns: 32 of them from `column` on, or 16 of a gate and the 16 that it opens. */
static void pack_columns(const Factor *f, int across, int gated, long column, long n, uint32_t *out) {
    if (!gated) {
        pack_panel(f, across, column, n, out);
        return;
    }
    const bf16 *gate = f->matrix + column / 2 * f->matrix_stride;
    pack_half(gate, f->matrix_stride, 16, f->width, out);
    pack_half(gate + n / 2 * f->matrix_stride, f->matrix_stride, 16, f->width, out + 256);
}

/* [m][n]: Σ of the factors' rows times their matrices, plus bias[n] (or NULL). */
static void multiply_all(const Factor *factors, long count, int across, const float *bias, const Target *target, long m,
                         long n) {
    int gated = target->what == GATE;
    long width = 0;
    bf16 *last[2] = {NULL, NULL};
    for (long i = 0; i < count; i++) {
        width += factors[i].width;
        if (m % 32) last[i] = padded_rows(factors + i, m);
    }
    long panels = (n + 31) / 32, block = (panels + omp_get_max_threads() - 1) / omp_get_max_threads();
    block = least(block, PANELS);
#pragma omp parallel
    {
        begin_tiles();
        uint32_t *packed = scratch(block * width * 32 * 2);
        float sums[2][32 * 32] __attribute__((aligned(64))), biases[2][32] __attribute__((aligned(64))) = {{0}};
        long turn_of = 0;
        Pending before = {.target = target, .rows = 0};
#pragma omp for schedule(dynamic)
        for (long first = 0; first < panels; first += block) {
            long here = least(block, panels - first);
            for (long p = 0; p < here; p++) {
                uint32_t *to = packed + p * width * SIDE;
                for (long i = 0; i < count; to += factors[i++].width * SIDE)
                    pack_columns(factors + i, across, gated, (first + p) * 32, n, to);
            }
            for (long row = 0; row < m; row += 32)
                for (long p = 0; p < here; p++) {
                    const uint32_t *panel = packed + p * width * SIDE;
                    long column = (first + p) * 32, columns = least(32, n - column), rows = least(32, m - row);
                    zero_tiles();
                    for (long i = 0; i < count; panel += factors[i++].width * SIDE) {
                        const Factor *f = factors + i;
                        const bf16 *from = rows == 32 ? f->rows + row * f->stride : last[i];
                        multiply(from, rows == 32 ? f->stride : f->width, f->width, panel, &before);
                    }
                    while (before.next < before.rows) write_row(&before);
                    turn_of ^= 1;
                    store_tiles(sums[turn_of]);
                    for (long i = 0; i < columns && bias; i++)
                        biases[turn_of][i] = bias[!gated ? column + i : column / 2 + i % 16 + i / 16 * (n / 2)];
                    before = (Pending){sums[turn_of], biases[turn_of], target, row, gated ? column / 2 : column, n / 2, 0, rows,
                                       columns == 32 ? 0xffffffffu : (1u << columns) - 1};
                }
        }
        while (before.next < before.rows) write_row(&before);
        free(packed);
        _tile_release();
    }
    for (long i = 0; i < count; i++) free(last[i]);
}

void product(const Factor *factors, long count, int across, const float *bias, bf16 *out, long m, long n) {
    Target target = {ROUND, .out = out, .stride = n};
    multiply_all(factors, count, across, bias, &target, m, n);
}

void add_product(const Factor *factors, long count, int across, const float *bias, float *sum, long m, long n) {
    Target target = {ADD, .sum = sum, .stride = n};
    multiply_all(factors, count, across, bias, &target, m, n);
}

/* n is a multiple of 32, matrices are across. */
void gated_product(const Factor *factors, long count, const float *bias, bf16 *out, bf16 *gated, long m, long n) {
    Target target = {GATE, .out = out, .gated = gated, .stride = n};
    multiply_all(factors, count, 1, bias, &target, m, n);
}

/* 32 rows of 32 numbers of `from` (rows from `rows` on are 0), turned: out[32 columns][32 rows], and with that A tiles. */
static inline void turn(const bf16 *from, long stride, long rows, bf16 *out, long out_stride) {
    for (long half = 0; half < 2; half++) {
        __m512i in[16], turned[16];
        for (long i = 0; i < 16; i++) { /* a word: rows 2i and 2i + 1 of one column */
            __m256i a = 2 * i < rows ? _mm256_loadu_si256((const void *)(from + 2 * i * stride + half * 16)) : _mm256_setzero_si256();
            __m256i b = 2 * i + 1 < rows ? _mm256_loadu_si256((const void *)(from + (2 * i + 1) * stride + half * 16)) : _mm256_setzero_si256();
            in[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
        }
        transpose(in, turned);
        for (long i = 0; i < 16; i++) _mm512_storeu_si512(out + (half * 16 + i) * out_stride, turned[i]);
    }
}

/* out[a][b] (float32, its rows `out_stride` apart) = or += (`add`) left' right for left [m][a], right [m][b]: the gradient
   of a matrix. `a` and `b` are multiples of 32. */
void gradient(const bf16 *left, long left_stride, long a, const bf16 *right, long right_stride, long b, long m, float *out,
              long out_stride, int add) {
    enum { DEPTH = 512 }; /* rows at a time, so that what is packed stays in the cache */
    bf16 *turned = scratch(a * DEPTH * 2);
    for (long first = 0; first < m; first += DEPTH) {
        long rows = least(DEPTH, m - first), steps = (rows + 31) / 32;
#pragma omp parallel
        {
            begin_tiles();
            uint32_t *panel = scratch(DEPTH * 32 * 2);
            Pending nothing = {.target = NULL, .rows = 0};
#pragma omp for schedule(static)
            for (long column = 0; column < a; column += 32)
                for (long step = 0; step < steps; step++)
                    turn(left + (first + step * 32) * left_stride + column, left_stride, rows - step * 32,
                         turned + column * DEPTH + step * 32, DEPTH);
#pragma omp for schedule(dynamic)
            for (long column = 0; column < b; column += 32) {
                for (long step = 0; step < steps; step++) {
                    const bf16 *from = right + (first + step * 32) * right_stride + column;
                    long left_over = least(32, rows - step * 32);
                    for (long half = 0; half < 2; half++)
                        pack_narrow(from + half * 16, right_stride, left_over, panel + step * 512 + half * 256);
                }
                for (long row = 0; row < a; row += 32) {
                    float *place = out + row * out_stride + column;
                    if (first > 0 || add) {
                        _tile_loadd(0, place, out_stride * 4);
                        _tile_loadd(1, place + SIDE, out_stride * 4);
                        _tile_loadd(2, place + SIDE * out_stride, out_stride * 4);
                        _tile_loadd(3, place + SIDE * out_stride + SIDE, out_stride * 4);
                    } else {
                        zero_tiles();
                    }
                    multiply(turned + row * DEPTH, DEPTH, steps * 32, panel, &nothing);
                    _tile_stored(0, place, out_stride * 4);
                    _tile_stored(1, place + SIDE, out_stride * 4);
                    _tile_stored(2, place + SIDE * out_stride, out_stride * 4);
                    _tile_stored(3, place + SIDE * out_stride + SIDE, out_stride * 4);
                }
            }
            free(panel);
            _tile_release();
        }
    }
    free(turned);
}
