/* Products of a step's rows with one matrix and its adapters, and what becomes of the results. */

#pragma once
#include "adapters.h"
#include "integers.h"

static const half *rows_of(const Forward *f, int which, i64 *stride) {
    *stride = which == OUT ? f->attended_stride : which == DOWN ? f->inner_stride : f->normed_stride;
    return which == OUT ? f->attended : which == DOWN ? f->inner : f->normed;
}

/* Rows of tiles t (and t + 1, if both) times one pair of output tiles, which lies at `w`, into `c`. */
static void multiply_floats(const Forward *f, const Matrix *m, int which, i64 t, int both, const byte *w, const byte *later,
                            int fetch, float *c, i64 c_bytes) {
    i64 stride;
    const half *a = rows_of(f, which, &stride);
    const byte *a0 = (const byte *)(a + f->tile[t].row * stride), *a1 = a0 + ROWS * 2 * stride;
    i64 bytes = 2 * stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (both && fetch == SOON) multiply(1, SOON, a0, a1, bytes, w, m->steps, later);
    else if (both && fetch == LATER) multiply(1, LATER, a0, a1, bytes, w, m->steps, later);
    else if (both) multiply(1, NOTHING, a0, a1, bytes, w, m->steps, later);
    else if (fetch == SOON) multiply(0, SOON, a0, a0, bytes, w, m->steps, later);
    else multiply(0, NOTHING, a0, a0, bytes, w, m->steps, later);
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    if (both) {
        _tile_stored(2, c + 4 * c_bytes, c_bytes);
        _tile_stored(3, c + 4 * c_bytes + 16, c_bytes);
    }
}

/* `c` [32, 32 * pairs] gets rows of tiles t (and t + 1, if both) times output pairs `from` … of a matrix, which lie at `w`,
with adapters; `next` is what this thread will read after them. */
static void product(const Forward *f, const Matrix *m, i64 layer, int which, i64 t, int both, int fetch, i64 from, i64 pairs,
                    const byte *w, const byte *next, float *c) {
    i64 c_bytes = pairs * 128, panel = m->steps * STEP;
    for (i64 p = 0; p < pairs; p++, c += 32, w += panel) {
        fetch_adapters(f, layer, which, t, from + p);
        if (both) fetch_adapters(f, layer, which, t + 1, from + p);
        if (m->bits == 16) {
            multiply_floats(f, m, which, t, both, w, w + pairs * panel, fetch, c, c_bytes);
        } else {
            i64 step = m->bits == 4 ? 2 * PACKED_TILE : STEP;
            const byte *ahead = m->bits == 4 ? next + p * m->steps * step : w + AHEAD;
            multiply_integers(f, m, t, from + p, w, ahead, fetch == SOON ? step : 0, c, c_bytes);
            if (both) multiply_integers(f, m, t + 1, from + p, w, ahead, 0, c + 4 * c_bytes, c_bytes);
        }
        add_adapters(f, layer, which, t, from + p, c, c_bytes);
        if (both) add_adapters(f, layer, which, t + 1, from + p, c + 4 * c_bytes, c_bytes);
    }
}

/* What a product needs of one tile of rows besides the rows: their digits, and the adapters' first half. */
static void lower(const Forward *f, i64 layer, int which, i64 t, float *c) {
    const Model *m = f->model;
    i64 stride;
    const half *a = rows_of(f, which, &stride);
    if (m->bits < 16) split_tile(f, a, stride, which == OUT ? m->heads * m->head : which == DOWN ? m->inner : m->width, t);
    lower_adapters(f, layer, which, a, stride, t, c);
}

static void add_to_residual(const Forward *f, const Matrix *w, i64 row, i64 from, i64 pairs, const float *c) {
    float *x = f->x + row * f->x_stride + from * 32;
    for (i64 d = 0; d < pairs * 32; d += 16) {
        __m512 v = _mm512_add_ps(_mm512_loadu_ps(x + d), _mm512_loadu_ps(c + d));
        if (w->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(w->bias + from * 32 + d));
        _mm512_storeu_ps(x + d, v);
    }
}

static void gate(const Forward *f, i64 row, i64 from, i64 pairs, const float *c) {
    half *to = f->inner + row * f->inner_stride + from * 16;
    for (i64 p = 0; p < pairs; p++)
        store_half(to + p * 16, _mm512_mul_ps(silu(_mm512_loadu_ps(c + p * 32)), _mm512_loadu_ps(c + p * 32 + 16)));
}

/* 32 numbers of a head from `d` on, as 16 words; zeros behind its end. */
static inline __m512i head_words(const float *c, i64 d, i64 K) {
    __m512 low = _mm512_maskz_loadu_ps(first(K - d), c + d);
    __m512 high = d + 16 < K ? _mm512_maskz_loadu_ps(first(K - d - 16), c + d + 16) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Keys of a tile of rows to their slots: pairs of numbers, each beside those of 15 other tokens ([2][K to 32, in
pairs][16][2] a block). */
static void place_keys(const Forward *f, i64 layer, i64 group, const RowTile *tile, const float *c, i64 stride) {
    i64 K = f->model->head, size = BLOCK * f->padded_head, count = tile->count, neighbours = count == 16;
    const i64 *slot = f->step->slots + tile->row;
    for (i64 r = 0; r < count; r++) neighbours &= slot[r] == slot[0] + r;
    for (i64 d = 0; d < K; d += 32) {
        __m512i words[16];
        uint32_t halves[16] __attribute__((aligned(64)));
        for (i64 r = 0; r < count; r++) words[r] = head_words(c + r * stride, d, K);
        half *to[16];
        for (i64 r = 0; r < count; r++)
            to[r] = f->step->keys[layer] + (slot[r] / BLOCK * f->model->groups + group) * size + slot[r] % BLOCK / 16 * (size / 2) + d * 16;
        if (neighbours && slot[0] % 16 == 0) {
            transpose(words);
            for (i64 pair = 0; pair < 16; pair++) _mm512_storeu_si512(to[0] + pair * 32, words[pair]);
            continue;
        }
        for (i64 r = 0; r < count; r++) {
            _mm512_store_si512(halves, words[r]);
            for (i64 pair = 0; pair < 16; pair++) memcpy(to[r] + pair * 32 + slot[r] % 16 * 2, halves + pair, 4);
        }
    }
}

/* A value to its slot: its numbers beside those of the key's neighbour ([K to 16, in sixteens][16 pairs of keys][16][2] a
block). Pairs come in the order in which `powers_of` leaves the weights: four keys of a block's first half, four of its
second. */
static void place_value(const Forward *f, half *values, i64 slot, i64 group, const float *c) {
    i64 K = f->model->head, key = slot % BLOCK, pair = key % 16 / 4 * 4 + key / 16 * 2 + key % 4 / 2;
    half *to = values + ((slot / BLOCK * f->model->groups + group) * f->value_rows) * BLOCK + pair * 32;
    for (i64 d = 0; d < K; d += 16) {
        __m512i words = _mm512_cvtepu16_epi32(to_half(c + d));
        __mmask32 here = (key % 2 ? 0xaaaaaaaa : 0x55555555) & first_halves(2 * (K - d));
        _mm512_mask_storeu_epi16(to + d * BLOCK, here, key % 2 ? _mm512_slli_epi32(words, 16) : words);
    }
}

/* Turns a head by its position (Su et al. 2021); behind the middle of a half that is no multiple of 16 lies what it may spoil. */
static inline void turn_head(const Model *m, i64 position, float *c) {
    i64 middle = m->head / 2;
    const float *cos = m->cos + position * middle, *sin = m->sin + position * middle;
    for (i64 d = 0; middle % 16 == 0 && d < middle; d += 16) { /* without masks: what they store is slow to load again */
        __m512 x = _mm512_loadu_ps(cos + d), y = _mm512_loadu_ps(sin + d);
        __m512 a = _mm512_loadu_ps(c + d), b = _mm512_loadu_ps(c + middle + d);
        _mm512_storeu_ps(c + d, _mm512_fmsub_ps(a, x, _mm512_mul_ps(b, y)));
        _mm512_storeu_ps(c + middle + d, _mm512_fmadd_ps(b, x, _mm512_mul_ps(a, y)));
    }
    for (i64 d = 0; middle % 16 && d < middle; d += 16) {
        __mmask16 here = first(middle - d);
        __m512 x = _mm512_maskz_loadu_ps(here, cos + d), y = _mm512_maskz_loadu_ps(here, sin + d);
        __m512 a = _mm512_loadu_ps(c + d), b = _mm512_maskz_loadu_ps(here, c + middle + d);
        _mm512_mask_storeu_ps(c + d, here, _mm512_fmsub_ps(a, x, _mm512_mul_ps(b, y)));
        _mm512_mask_storeu_ps(c + middle + d, here, _mm512_fmadd_ps(b, x, _mm512_mul_ps(a, y)));
    }
}

/* One head of one row: bias, norm, turn; a query to its buffer, a value to its slot. */
static void place_head(const Forward *f, i64 layer, i64 row, i64 head, float *c) {
    const Model *m = f->model;
    const Step *s = f->step;
    const Layer *l = &m->layer[layer];
    i64 K = m->head, H = m->heads, G = m->groups;
    const float *bias = l->matrix[QKV].bias;
    if (bias)
        for (i64 d = 0; d < K; d++) c[d] += bias[head * f->padded_head + d];
    const float *norm = head < H ? l->q_norm : head < H + G ? l->k_norm : NULL;
    if (norm) {
        float by = inverse_rms(c, K, m->eps);
        for (i64 d = 0; d < K; d++) c[d] *= by * norm[d];
    }
    if (head < H + G) turn_head(m, s->positions[row], c);
    if (head < H) {
        half *to = f->q + row * f->q_stride + head * f->padded_head;
        __m512 by = _mm512_set1_ps(f->query_scale);
        for (i64 d = 0; d < K; d += 16)
            _mm256_mask_storeu_epi16(to + d, first(K - d), (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(c + d), by)));
    } else if (head >= H + G) {
        place_value(f, s->values[layer], s->slots[row], head - H - G, c);
    }
}

/* What becomes of the results of tiles t (and t + 1, if both) and the outputs of `pairs` pairs. */
static void finish(const Forward *f, i64 layer, int which, i64 t, int both, i64 from, i64 pairs, float *c) {
    const Matrix *w = &f->model->layer[layer].matrix[which];
    i64 key_head = which == QKV ? from / pairs - f->model->heads : -1;
    for (i64 u = t; u < t + 1 + both; u++, c += ROWS * pairs * 32) {
        for (i64 r = 0; r < f->tile[u].count; r++) {
            i64 row = f->tile[u].row + r;
            float *result = c + r * pairs * 32;
            if (which == QKV) place_head(f, layer, row, from / pairs, result);
            else if (which == GLU) gate(f, row, from, pairs, result);
            else add_to_residual(f, w, row, from, pairs, result);
        }
        if (key_head >= 0 && key_head < f->model->groups) place_keys(f, layer, key_head, &f->tile[u], c, pairs * 32);
    }
}

/* Where a step has few rows its weights are read from memory for them: a chunk is one panel of weights, which serves all.
Many rows are a matter of the caches: a chunk is up to MOST_PANELS panels, which stay in the second one and stream past
32 rows at a time, of which SPAN steps of the inputs stay in the first one. */
enum { FEW_TILES = 4, TILES_PER_CHUNK = 32, MOST_PANELS = 9, SPAN = 18 };

static int many_rows(const Forward *f) { return f->tiles > FEW_TILES && f->model->bits == 16; }

static i64 pairs_together(const Forward *f, int which) { return which == QKV ? panel_pairs(f->model) : 1; }

/* As many as leave each thread as much to do as the others. */
static i64 pairs_per_chunk(const Forward *f, int which) {
    i64 together = pairs_together(f, which), threads = f->step->threads, panels = f->model->layer[0].matrix[which].pairs / together;
    i64 most_panels = most(1, MOST_PANELS / together), turns = parts(panels, threads * most_panels);
    return together * (many_rows(f) ? parts(panels, threads * turns) : 1);
}

static i64 product_chunks(const Forward *f, int which) {
    return parts(f->model->layer[0].matrix[which].pairs, pairs_per_chunk(f, which)) * parts(f->tiles, TILES_PER_CHUNK);
}

static void multiply_span(const Forward *f, const Matrix *m, int which, i64 t, int both, i64 pair, i64 from, i64 ahead, i64 lines, float *c, i64 c_bytes) {
    i64 stride, steps = least(SPAN, m->steps - from);
    const half *rows = rows_of(f, which, &stride);
    const byte *a0 = (const byte *)(rows + f->tile[t].row * stride) + from * LANE, *a1 = both ? a0 + ROWS * 2 * stride : a0;
    if (from == 0) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
        _tile_loadd(2, c + 4 * c_bytes, c_bytes);
        _tile_loadd(3, c + 4 * c_bytes + 16, c_bytes);
    }
    const byte *w = m->tiles + (pair * m->steps + from) * STEP;
    multiply_streaming(a0, a1, 2 * stride, w, steps, w + ahead, lines);
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, c + 4 * c_bytes, c_bytes);
    _tile_stored(3, c + 4 * c_bytes + 16, c_bytes);
}

static void product_of_many(const Forward *f, i64 layer, int which, i64 t, int both, i64 from, i64 end, float *c) {
    const Matrix *m = &f->model->layer[layer].matrix[which];
    i64 together = pairs_together(f, which), c_bytes = together * 128;
    i64 blocks = least(TILES_PER_CHUNK, f->tiles) / 2, lines = parts(STEP / LANE, most(1, blocks));
    i64 ahead = (end - from) * m->steps * STEP + t / 2 % most(1, blocks) * lines * LANE;
    for (i64 k = 0; k < m->steps; k += SPAN) {
        float *at = c;
        for (i64 pair = from; pair < end; pair += together) {
            for (i64 p = 0; p < together; p++) multiply_span(f, m, which, t, both, pair + p, k, ahead, lines, at + p * 32, c_bytes);
            if (k + SPAN >= m->steps) {
                for (i64 p = 0; p < together; p++) {
                    add_adapters(f, layer, which, t, pair + p, at + p * 32, c_bytes);
                    if (both) add_adapters(f, layer, which, t + 1, pair + p, at + p * 32 + 4 * c_bytes, c_bytes);
                }
                finish(f, layer, which, t, both, pair, together, at);
            }
            if (m->steps > SPAN) at += 32 * 32 * together; /* kept until the next span */
        }
    }
}

static void product_chunk(const Forward *f, i64 layer, int which, i64 chunk, float *c) {
    const Matrix *w = &f->model->layer[layer].matrix[which];
    i64 pairs = pairs_per_chunk(f, which), columns = parts(w->pairs, pairs), from = chunk % columns * pairs;
    i64 begin = chunk / columns * TILES_PER_CHUNK, end = least(begin + TILES_PER_CHUNK, f->tiles);
    if (many_rows(f)) {
        for (i64 t = begin; t < end; t += 2) product_of_many(f, layer, which, t, t + 1 < end, from, least(from + pairs, w->pairs), c);
        return;
    }
    const byte *tiles = w->tiles + from * w->steps * (w->bits == 4 ? 2 * PACKED_TILE : STEP);
    const byte *next = tiles + pairs * w->steps * 2 * PACKED_TILE;
    if (w->bits == 4) {
        byte *unpacked = (byte *)c + RESULTS;
        for (i64 i = 0; i < pairs * w->steps * 2; i++) unpack_tile(tiles + i * PACKED_TILE, unpacked + i * TILE);
        tiles = unpacked;
    }
    int fetch = SOON;
    for (i64 t = begin; t < end; t += 2) {
        int both = t + 1 < end;
        product(f, w, layer, which, t, both, fetch, from, pairs, tiles, next, c);
        fetch = fetch == SOON ? LATER : NOTHING;
        finish(f, layer, which, t, both, from, pairs, c);
    }
}
