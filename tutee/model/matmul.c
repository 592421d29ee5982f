/* Products of bfloat16 matrices on the AMX matrix unit, for many rows: each with a second, narrow product added in the
same registers, which is how an adapter costs next to nothing.

Weights are packed as they are read, 32 columns at a time, and serve all rows; nothing is kept. What is packed streams by
(`_tile_stream_loadd`), so that it does not drive the rows out of the first cache (the tiles alone are a third faster so). Threads share
columns, so a number never depends on how many there are. */

#include "amx.h"
#include <omp.h>

static long least(long a, long b) { return a < b ? a : b; }

typedef struct {
    const bf16 *rows; /* [m][width]; a row begins every `stride`; width is a multiple of 32 */
    long stride;
    const bf16 *matrix; /* [n][width] if `across`, else [width][n]; a row begins every `matrix_stride` */
    long matrix_stride, width;
} Factor;

/* `panels` times 32 columns, from `column` on (those from `n` on are 0), as B tiles: [width / 32][2][16][16 words] each, its
   panel `stride` words after the one before. Two rows at a time for all panels, so that memory is read in straight lines. */
static void pack_rows(const Factor *f, long column, long n, long panels, uint32_t *out, long stride) {
    const __m512i order_first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), order_last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (long k = 0; k < f->width; k += 2) {
        uint32_t *tile = out + k / 32 * 512 + k % 32 / 2 * 16;
        for (long p = 0; p < panels; p++, tile += stride) {
            long first = column + p * 32, count = n - first;
            __mmask32 here = count >= 32 ? 0xffffffffu : (1u << count) - 1;
            const bf16 *even = f->matrix + k * f->matrix_stride + first;
            __m512i a = _mm512_maskz_loadu_epi16(here, even), b = _mm512_maskz_loadu_epi16(here, even + f->matrix_stride);
            __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b); /* pairs, lane by lane of 128 bits */
            _mm512_storeu_si512(tile, _mm512_permutex2var_epi64(low, order_first, high));
            _mm512_storeu_si512(tile + 256, _mm512_permutex2var_epi64(low, order_last, high));
        }
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
        _tile_stream_loadd(6, panel, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, panel + 256, 64);
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

static inline void load_tiles(const float *from) {
    _tile_loadd(0, from, 128);
    _tile_loadd(1, from + SIDE, 128);
    _tile_loadd(2, from + SIDE * 32, 128);
    _tile_loadd(3, from + SIDE * 32 + SIDE, 128);
}

static inline void store_tiles(float *out) {
    _tile_stored(0, out, 128);
    _tile_stored(1, out + SIDE, 128);
    _tile_stored(2, out + SIDE * 32, 128);
    _tile_stored(3, out + SIDE * 32 + SIDE, 128);
}

/* The last rows, fewer than 32, with zeros after them. */
static void copy_rows(const Factor *f, long row, long rows, long from, long width, bf16 *out) {
    for (long i = 0; i < 32; i++)
        if (i < rows) memcpy(out + i * width, f->rows + (row + i) * f->stride + from, width * 2);
        else memset(out + i * width, 0, width * 2);
}

/* `panels` panels: 32 columns each from `column` on, or 16 of a gate and the 16 that it opens. */
static void pack_panels(const Factor *f, int across, int gated, long column, long n, long panels, uint32_t *out, long stride) {
    if (!across) {
        pack_rows(f, column, n, panels, out, stride);
        return;
    }
    for (long p = 0; p < panels; p++, column += 32, out += stride) {
        const bf16 *from = f->matrix + (gated ? column / 2 : column) * f->matrix_stride;
        if (!gated) {
            pack_across(from, f->matrix_stride, least(32, n - column), f->width, out);
        } else {
            pack_half(from, f->matrix_stride, 16, f->width, out);
            pack_half(from + n / 2 * f->matrix_stride, f->matrix_stride, 16, f->width, out + 256);
        }
    }
}

enum { SPAN = 640, PACKED = 1 << 19, MOST_PANELS = 16, LEAST_PANELS = 4 };
/* SPAN: inputs that are multiplied at a time; 32 rows of them stay in the first cache while panels stream by.
   PACKED: numbers in the panels of 32 columns that are kept at a time; they stay in the second while all rows pass. */

/* Inputs of a factor that are multiplied in one go. */
typedef struct {
    long factor, from, width, packed; /* which one; its inputs; where they begin in a panel */
    int joins;                        /* the span before, whose sums are still in the tiles */
} Span;

static long cut(const Factor *factors, long count, Span *spans) {
    long found = 0, packed = 0;
    for (long i = 0; i < count; i++) {
        long pieces = (factors[i].width + SPAN - 1) / SPAN, step = (factors[i].width / 32 + pieces - 1) / pieces * 32;
        for (long from = 0; from < factors[i].width; from += step) {
            long width = least(step, factors[i].width - from);
            if (spans) spans[found] = (Span){i, from, width, packed, from == 0 && i > 0};
            packed += width * SIDE;
            found++;
        }
    }
    return found;
}

typedef struct {
    const Factor *factors;
    const Span *spans;
    const float *bias; /* [n], or NULL */
    const Target *target;
    long count, pieces, width, m, n; /* factors; spans; inputs of all of them; rows; columns */
    int across, gated;
} Product;

/* One thread's memory. */
typedef struct {
    uint32_t *packed; /* panels */
    bf16 *copies;     /* [2][32][SPAN]: the last rows */
    float *partial;   /* [panels][32][32]: sums of the spans before */
    float *sums;      /* [2][32][32] */
    float *biases;    /* [2][32] */
    long turn_of;
    Pending before;
} Bench;

/* The 32 columns of panel `p` are summed up in tiles 0 … 3: they are written later, while the next ones are multiplied. */
static void put_off(const Product *x, Bench *b, long row, long column) {
    while (b->before.next < b->before.rows) write_row(&b->before);
    b->turn_of ^= 1;
    float *sums = b->sums + b->turn_of * 32 * 32, *biases = b->biases + b->turn_of * 32;
    store_tiles(sums);
    long columns = least(32, x->n - column), half = x->n / 2;
    for (long i = 0; i < columns && x->bias; i++)
        biases[i] = x->bias[!x->gated ? column + i : column / 2 + i % 16 + i / 16 * half];
    b->before = (Pending){sums, biases, x->target, row, x->gated ? column / 2 : column, half, 0, least(32, x->m - row),
                          columns == 32 ? 0xffffffffu : (1u << columns) - 1};
}

/* 32 rows times `panels` packed panels, whose columns begin at `column`; one span after the other for all panels. */
static void multiply_rows(const Product *x, Bench *b, long row, long column, long panels) {
    for (long s = 0, end; s < x->pieces; s = end) {
        const bf16 *from[2];
        long stride[2], rows = least(32, x->m - row);
        for (end = s; end == s || (end < x->pieces && x->spans[end].joins); end++) {
            const Span *span = x->spans + end;
            const Factor *f = x->factors + span->factor;
            bf16 *copy = b->copies + (end - s) * 32 * SPAN;
            if (rows < 32) copy_rows(f, row, rows, span->from, span->width, copy);
            from[end - s] = rows < 32 ? copy : f->rows + row * f->stride + span->from;
            stride[end - s] = rows < 32 ? span->width : f->stride;
        }
        for (long p = 0; p < panels; p++) {
            const uint32_t *panel = b->packed + p * x->width * SIDE;
            float *partial = b->partial + p * 32 * 32;
            if (s == 0) zero_tiles();
            else load_tiles(partial);
            for (long i = s; i < end; i++)
                multiply(from[i - s], stride[i - s], x->spans[i].width, panel + x->spans[i].packed, &b->before);
            if (end < x->pieces) store_tiles(partial);
            else put_off(x, b, row, column + p * 32);
        }
    }
}

/* [m][n]: Σ of the factors' rows times their matrices, plus bias[n] (or NULL). */
static void multiply_all(const Factor *factors, long count, int across, const float *bias, const Target *target, long m,
                         long n) {
    long pieces = cut(factors, count, NULL), width = 0;
    Span *spans = scratch(pieces * sizeof(Span));
    cut(factors, count, spans);
    for (long i = 0; i < count; i++) width += factors[i].width;
    Product x = {factors, spans, bias, target, count, pieces, width, m, n, across, target->what == GATE};
    long panels = (n + 31) / 32, share = (panels + omp_get_max_threads() - 1) / omp_get_max_threads();
    long fitting = PACKED / 32 / width, block = fitting < LEAST_PANELS ? LEAST_PANELS : least(fitting, MOST_PANELS);
    block = least(block, share);
#pragma omp parallel
    {
        begin_tiles();
        float sums[2 * 32 * 32] __attribute__((aligned(64))), biases[2 * 32] __attribute__((aligned(64))) = {0};
        Bench b = {scratch(block * width * 32 * 2), scratch(2 * 32 * SPAN * 2), scratch(block * 32 * 32 * sizeof(float)),
                   sums, biases, 0, {.target = target, .rows = 0}};
#pragma omp for schedule(dynamic)
        for (long first = 0; first < panels; first += block) {
            long here = least(block, panels - first);
            uint32_t *to = b.packed;
            for (long i = 0; i < count; to += factors[i++].width * SIDE)
                pack_panels(factors + i, across, x.gated, first * 32, n, here, to, width * SIDE);
            for (long row = 0; row < m; row += 32) multiply_rows(&x, &b, row, first * 32, here);
        }
        while (b.before.next < b.before.rows) write_row(&b.before);
        free(b.packed);
        free(b.copies);
        free(b.partial);
        _tile_release();
    }
    free(spans);
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
    enum { DEPTH = 512, WIDE = 768 }; /* rows and columns of `right` at a time, so that what is packed stays in the cache */
    uint32_t *packed = scratch(least(b, WIDE) * DEPTH * 2);
#pragma omp parallel
    {
        begin_tiles();
        bf16 *turned = scratch(32 * DEPTH * 2);
        Pending nothing = {.target = NULL, .rows = 0};
        for (long first = 0; first < m; first += DEPTH)
            for (long start = 0; start < b; start += WIDE) {
                long rows = least(DEPTH, m - first), steps = (rows + 31) / 32, wide = least(WIDE, b - start);
#pragma omp for schedule(static)
                for (long column = 0; column < wide; column += 32)
                    for (long step = 0; step < steps; step++) {
                        const bf16 *from = right + (first + step * 32) * right_stride + start + column;
                        uint32_t *panel = packed + column * SIDE * steps + step * 512;
                        for (long half = 0; half < 2; half++)
                            pack_narrow(from + half * 16, right_stride, least(32, rows - step * 32), panel + half * 256);
                    }
#pragma omp for schedule(dynamic)
                for (long row = 0; row < a; row += 32) {
                    for (long step = 0; step < steps; step++)
                        turn(left + (first + step * 32) * left_stride + row, left_stride, rows - step * 32, turned + step * 32,
                             DEPTH);
                    for (long column = 0; column < wide; column += 32) {
                        float *place = out + row * out_stride + start + column;
                        if (first > 0 || add) {
                            _tile_loadd(0, place, out_stride * 4);
                            _tile_loadd(1, place + SIDE, out_stride * 4);
                            _tile_loadd(2, place + SIDE * out_stride, out_stride * 4);
                            _tile_loadd(3, place + SIDE * out_stride + SIDE, out_stride * 4);
                        } else {
                            zero_tiles();
                        }
                        for (long i = 0; i < 32 && column + 32 < wide; i++) {
                            _mm_prefetch((const void *)(place + i * out_stride + 32), _MM_HINT_ET0);
                            _mm_prefetch((const void *)(place + i * out_stride + 48), _MM_HINT_ET0);
                        }
                        multiply(turned, DEPTH, steps * 32, packed + column * SIDE * steps, &nothing);
                        _tile_stored(0, place, out_stride * 4);
                        _tile_stored(1, place + SIDE, out_stride * 4);
                        _tile_stored(2, place + SIDE * out_stride, out_stride * 4);
                        _tile_stored(3, place + SIDE * out_stride + SIDE, out_stride * 4);
                    }
                }
            }
        free(turned);
        _tile_release();
    }
    free(packed);
}
