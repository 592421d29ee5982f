/* The head: next-token logits in integers. With two digits a weight they are as good as float32 for a choice between
tokens; with one they belong to blocks whose weights are integers.

A row of the head is 16-bit (or 8-bit) integers and one scale, a hidden state 24-bit integers and one scale; both are split into
signed 8-bit digits, and products of digits add up exactly in 32 bits. Columns are balanced first (a weight is
multiplied by what its hidden number is divided by), because the error of a sum is least when its parts are alike. */

#pragma once
#include "team.h"

enum { WEIGHT_MAX = 127 * 256 + 127, STATE_MAX = 127 * 65536 + 127 * 256 + 127, DIGITS = 3, TOKENS_PER_CHUNK = 512 };

typedef struct {
    byte *tiles;           /* [V to 16][D to 64]: 1 KB of high digits, 1 KB of low ones if there are two */
    float *scale;          /* [V to 16] */
    const float *balance;  /* [D] */
    i64 vocabulary, width, planes, threads; /* planes: digits of a weight */
} Head;

typedef struct {
    Job job;
    const Head *head;
    const float *from; /* packing: weights [V, D]; logits: hidden states [T, D] */
    i64 rows, steps;
    int8_t *digits; /* [DIGITS][T + 16][D to 64], zeros beyond D */
    float *scale;   /* [T + 16] */
    float *logits;  /* [T, V] */
} Logits;

/* Whole numbers of up to `limit` times the scale that is returned, from balanced numbers. */
static float to_integers(const float *x, const float *balance, int multiply_by, i64 width, int limit, int32_t *out) {
    __m512 largest = _mm512_setzero_ps();
    for (i64 d = 0; d < width; d += 16) {
        __mmask16 here = first(width - d);
        __m512 v = _mm512_maskz_loadu_ps(here, x + d), b = _mm512_mask_loadu_ps(_mm512_set1_ps(1.0f), here, balance + d);
        v = multiply_by ? _mm512_mul_ps(v, b) : _mm512_div_ps(v, b);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
        _mm512_storeu_ps((float *)out + d, v);
    }
    float scale = _mm512_reduce_max_ps(largest) / (float)limit;
    __m512 by = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
    for (i64 d = 0; d < width; d += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps((float *)out + d), by);
        __m512i n = _mm512_cvtps_epi32(v); /* to the nearest; a quotient may pass the limit by rounding */
        n = _mm512_min_epi32(_mm512_max_epi32(n, _mm512_set1_epi32(-limit)), _mm512_set1_epi32(limit));
        _mm512_storeu_si512(out + d, n);
    }
    return scale;
}

enum { MAX_WIDTH = 16384 };

static void pack_tokens(Job *job, i64 phase, i64 chunk, i64 worker) {
    (void)phase, (void)worker;
    const Logits *l = (const Logits *)job;
    const Head *h = l->head;
    int32_t numbers[MAX_WIDTH];
    i64 step = h->planes * TILE;
    byte *tile = h->tiles + chunk * l->steps * step;
    memset(tile, 0, l->steps * step);
    for (i64 n = 0; n < ROWS; n++) {
        i64 token = chunk * ROWS + n;
        h->scale[token] = 0;
        if (token >= h->vocabulary) continue;
        h->scale[token] = to_integers(l->from + token * h->width, h->balance, 1, h->width, h->planes == 2 ? WEIGHT_MAX : 127, numbers);
        for (i64 d = 0; d < h->width; d++) {
            int8_t low = (int8_t)numbers[d], high = (int8_t)((numbers[d] - low) >> 8);
            byte *to = tile + d / 64 * step + d % 64 / 4 * LANE + n * 4 + d % 4;
            to[0] = h->planes == 2 ? high : low;
            if (h->planes == 2) to[TILE] = low;
        }
    }
}

static i64 pack_chunks(Job *job, i64 phase) {
    (void)phase;
    return parts(((Logits *)job)->head->vocabulary, ROWS);
}

void pack_head(const Head *h, const float *weights) {
    Logits l = {.job = {1, pack_chunks, pack_tokens}, .head = h, .from = weights, .steps = parts(h->width, 64)};
    run(&l.job, h->threads);
}

static void split_row(const Logits *l, i64 row) {
    const Head *h = l->head;
    int32_t numbers[MAX_WIDTH];
    i64 stride = l->steps * 64;
    l->scale[row] = to_integers(l->from + row * h->width, h->balance, 0, h->width, STATE_MAX, numbers);
    for (int digit = DIGITS - 1; digit >= 0; digit--) { /* plane 0 holds the highest digits */
        int8_t *to = l->digits + (digit * (l->rows + ROWS) + row) * stride;
        for (i64 d = 0; d < h->width; d++) {
            to[d] = (int8_t)numbers[d];
            numbers[d] = (numbers[d] - to[d]) >> 8;
        }
    }
}

/* Sums of digit products in tiles 0, 1 and 2, each of a weight 256 times the next one's; low times lowest is left out. */
static inline __attribute__((always_inline)) void logit_tile(const Logits *l, const int planes, const byte *w, i64 row, const int fetch) {
    const i64 step = planes * TILE;
    const byte *panel = w + l->steps * step;
    i64 stride = l->steps * 64, plane = (l->rows + ROWS) * stride;
    const int8_t *digits = l->digits + row * stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (i64 k = 0; k < l->steps; k++, w += step) {
        for (int line = 0; fetch && line < step; line += LANE)
            if (fetch == SOON) _mm_prefetch(w + AHEAD + line, _MM_HINT_T0);
            else _mm_prefetch(panel + k * step + line, _MM_HINT_T1);
        _tile_loadd(3, digits + k * 64, stride);
        _tile_loadd(4, digits + plane + k * 64, stride);
        _tile_loadd(5, digits + 2 * plane + k * 64, stride);
        _tile_loadd(6, w, 64);
        _tile_dpbssd(0, 3, 6);
        _tile_dpbssd(1, 4, 6);
        _tile_dpbssd(2, 5, 6);
        if (planes == 2) {
            _tile_loadd(7, w + TILE, 64);
            _tile_dpbssd(1, 3, 7);
            _tile_dpbssd(2, 4, 7);
        }
    }
}

static void logit_sums(const Logits *l, const byte *w, i64 row) {
    int fetch = row == 0 ? SOON : row == ROWS ? LATER : NOTHING;
    if (l->head->planes == 1) logit_tile(l, 1, w, row, row == 0 ? SOON : NOTHING);
    else if (fetch == SOON) logit_tile(l, 2, w, row, SOON);
    else if (fetch == LATER) logit_tile(l, 2, w, row, LATER);
    else logit_tile(l, 2, w, row, NOTHING);
}

static void logit_chunk(const Logits *l, i64 chunk) {
    const Head *h = l->head;
    int32_t sums[3][ROWS][16] __attribute__((aligned(64)));
    for (i64 token = chunk * TOKENS_PER_CHUNK; token < least(h->vocabulary, (chunk + 1) * TOKENS_PER_CHUNK); token += ROWS) {
        const byte *w = h->tiles + token / ROWS * l->steps * h->planes * TILE;
        __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(h->scale + token), _mm512_set1_ps(h->planes == 2 ? 256.0f : 1.0f));
        for (i64 row = 0; row < l->rows; row += ROWS) {
            logit_sums(l, w, row);
            _tile_stored(0, sums[0], 64);
            _tile_stored(1, sums[1], 64);
            _tile_stored(2, sums[2], 64);
            for (i64 r = 0; r < least(ROWS, l->rows - row); r++) {
                __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[2][r]));
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[1][r])), _mm512_set1_ps(256.0f), sum);
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[0][r])), _mm512_set1_ps(65536.0f), sum);
                sum = _mm512_mul_ps(sum, _mm512_mul_ps(scale, _mm512_set1_ps(l->scale[row + r])));
                _mm512_mask_storeu_ps(l->logits + (row + r) * h->vocabulary + token, first(h->vocabulary - token), sum);
            }
        }
    }
}

static void logits_run(Job *job, i64 phase, i64 chunk, i64 worker) {
    (void)worker;
    const Logits *l = (const Logits *)job;
    if (phase == 1) logit_chunk(l, chunk);
    else
        for (i64 row = chunk * ROWS; row < least(l->rows, (chunk + 1) * ROWS); row++) split_row(l, row);
}

static i64 logits_chunks(Job *job, i64 phase) {
    const Logits *l = (const Logits *)job;
    return phase == 1 ? parts(l->head->vocabulary, TOKENS_PER_CHUNK) : parts(l->rows, ROWS);
}

/* `digits`: room for 3 * (rows + 16) * (D to 64) bytes, zeros beyond D. */
void logits(const Head *h, const float *hidden, i64 rows, int8_t *digits, float *scale, float *out) {
    Logits l = {.job = {2, logits_chunks, logits_run, least(ROWS, rows)}, .head = h, .from = hidden, .rows = rows};
    l.steps = parts(h->width, 64);
    l.digits = digits;
    l.scale = scale;
    l.logits = out;
    run(&l.job, h->threads);
}
