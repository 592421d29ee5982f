/* Attention over the paged cache.

For some neighbouring queries of one sequence and the R query heads of one group: up to 16 columns. Scores are made as
keys times queries (keys lie in the cache as rows, so the matrix unit reads them in place), [16 keys, 16 columns] a
block; softmax runs down the columns; values lie in the cache turned, [K, 16 keys] a block, so that values times weights
gives outputs [K, columns]. The maximum is known before the first exponential, so nothing is rescaled. */

#pragma once
#include "step.h"

typedef struct {
    half *columns;  /* queries: [K / 32][16 pairs][16 columns][2] */
    float *scores;  /* [keys][16 columns] */
    half *weights;  /* [keys / 2][16 columns][2] */
    float *outputs; /* [K to 16][16 columns] */
} AttentionScratch;

static void load_queries(const Forward *f, const Queries *q, i64 group, half *columns) {
    i64 R = f->model->heads / f->model->groups, steps = f->padded_head / 32;
    i64 row = f->step->starts[q->sequence] + q->query;
    memset(columns, 0, steps * TILE);
    for (i64 i = 0; i < q->count; i++)
        for (i64 r = 0; r < R; r++) {
            const uint32_t *from = (const uint32_t *)(f->q + (row + i) * f->q_stride + (group * R + r) * f->padded_head);
            uint32_t *to = (uint32_t *)columns + i * R + r;
            for (i64 pair = 0; pair < steps * 16; pair++) to[pair * 16] = from[pair];
        }
}

static inline i64 small_block(const Step *s, i64 sequence, i64 n) { /* the n-th 16 keys of a sequence */
    i64 each = s->block_size / ROWS;
    return s->tables[sequence * s->table_width + n / each] * each + n % each;
}

static inline void fetch(const void *from, i64 bytes) {
    for (i64 line = 0; line < bytes; line += LANE) _mm_prefetch((const byte *)from + line, _MM_HINT_T0);
}

static void score(const Forward *f, i64 layer, i64 sequence, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 size = ROWS * f->padded_head, steps = f->padded_head / 32;
    const half *keys = s->keys[layer] + group * size;
    for (i64 n = begin; n < end; n++) {
        const byte *block = (const byte *)(keys + small_block(s, sequence, n) * f->model->groups * size);
        if (n + 3 < end) fetch(keys + small_block(s, sequence, n + 3) * f->model->groups * size, 2 * size);
        _tile_zero(0);
        for (i64 k = 0; k < steps; k++) {
            _tile_loadd(4, block + k * LANE, 2 * f->padded_head);
            _tile_loadd(6, at->columns + k * TILE / 2, 64);
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, at->scores + (n - begin) * 256, 64);
    }
}

/* Scores to unnormalised weights; returns one over their sum, for each column. */
static __m512 soften(const Forward *f, i64 layer, const Queries *q, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 R = f->model->heads / f->model->groups, window = f->model->window, value_size = f->value_rows * ROWS;
    i64 start = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    int32_t position[16];
    for (i64 c = 0; c < 16; c++) position[c] = start + least(c / R, q->count - 1);
    __m512i newest = _mm512_loadu_si512(position);
    __m512i oldest = window ? _mm512_sub_epi32(newest, _mm512_set1_epi32(window - 1)) : _mm512_setzero_si512();
    __m512 best = _mm512_set1_ps(-INFINITY), by = _mm512_set1_ps(LOG2_E / sqrtf((float)f->model->head));
    for (i64 key = begin * ROWS; key < end * ROWS; key++) {
        float *row = at->scores + (key - begin * ROWS) * 16;
        __m512 score = _mm512_loadu_ps(row);
        if (key > start || (window && key <= start + q->count - window)) {
            __m512i here = _mm512_set1_epi32(key);
            __mmask16 seen = _mm512_cmple_epi32_mask(here, newest) & _mm512_cmpge_epi32_mask(here, oldest);
            score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, score);
            _mm512_storeu_ps(row, score);
        }
        best = _mm512_max_ps(best, score);
    }
    __m512 shift = _mm512_mul_ps(best, by), sum = _mm512_setzero_ps();
    for (i64 n = begin; n < end; n++) {
        fetch(s->values[layer] + (small_block(s, q->sequence, n) * f->model->groups + group) * value_size, 2 * value_size);
        for (i64 key = (n - begin) * ROWS; key < (n - begin + 1) * ROWS; key += 2) {
            __m512 a = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(at->scores + key * 16), by, shift));
            __m512 b = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(at->scores + key * 16 + 16), by, shift));
            sum = _mm512_add_ps(_mm512_add_ps(sum, a), b);
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
            _mm512_storeu_si512(at->weights + key * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    return _mm512_div_ps(_mm512_set1_ps(1.0f), sum);
}

static void mix(const Forward *f, i64 layer, i64 sequence, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 size = f->value_rows * ROWS;
    const half *values = s->values[layer] + group * size;
    for (i64 d = 0; d < f->value_rows; d += 4 * ROWS) {
        i64 tiles = least(4, (f->value_rows - d) / ROWS);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (i64 n = begin; n < end; n++) {
            const half *block = values + small_block(s, sequence, n) * f->model->groups * size + d * ROWS;
            _tile_loadd(6, at->weights + (n - begin) * 256, 64);
            _tile_loadd(4, block, 32);
            _tile_dpbf16ps(0, 4, 6);
            if (tiles > 1) {
                _tile_loadd(5, block + 256, 32);
                _tile_dpbf16ps(1, 5, 6);
            }
            if (tiles > 2) {
                _tile_loadd(4, block + 512, 32);
                _tile_dpbf16ps(2, 4, 6);
            }
            if (tiles > 3) {
                _tile_loadd(5, block + 768, 32);
                _tile_dpbf16ps(3, 5, 6);
            }
        }
        float *to = at->outputs + d * 16;
        _tile_stored(0, to, 64);
        if (tiles > 1) _tile_stored(1, to + 256, 64);
        if (tiles > 2) _tile_stored(2, to + 512, 64);
        if (tiles > 3) _tile_stored(3, to + 768, 64);
    }
}

static void attend(const Forward *f, i64 layer, i64 chunk, byte *scratch) {
    const Model *m = f->model;
    const Step *s = f->step;
    const Queries *q = &f->queries[chunk / m->groups];
    i64 group = chunk % m->groups, R = m->heads / m->groups, K = m->head;
    i64 first_query = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    i64 begin = m->window ? most(0, first_query - m->window + 1) / ROWS : 0;
    i64 end = parts(first_query + q->count, ROWS);
    AttentionScratch at;
    at.columns = (half *)scratch;
    at.outputs = (float *)(scratch + MAX_HEAD * 32);
    at.scores = (float *)(scratch + MAX_HEAD * 96);
    at.weights = (half *)(at.scores + (end - begin) * 256);
    load_queries(f, q, group, at.columns);
    score(f, layer, q->sequence, group, begin, end, &at);
    float by[16];
    _mm512_storeu_ps(by, soften(f, layer, q, group, begin, end, &at));
    set_tiles(32, 8);
    mix(f, layer, q->sequence, group, begin, end, &at);
    set_tiles(64, 16);
    for (i64 c = 0; c < q->count * R; c++) {
        i64 row = s->starts[q->sequence] + q->query + c / R;
        half *to = f->attended + row * f->attended_stride + (group * R + c % R) * K;
        for (i64 d = 0; d < K; d++) to[d] = narrow(at.outputs[d * 16 + c] * by[c]);
    }
}
