/* What low-rank adapters add to a product: (rows A') B' for the rows of each.

Every span of rows is multiplied with its own adapter alone and takes its own rows of the result: no row ever meets
another's adapter, not even to multiply it by zero. A rank is padded to a multiple of 16, and nothing is read that is
there for padding only: mixed batches are bound by reading the adapters.

`low` holds rows A': for each of the matrices multiplied together, the ranks, and zeros up to a multiple of 32. */

#pragma once
#include "step.h"

static i64 low_columns(const Adapter *a) { return parts(a->ranks, 2) * 32; }

static i64 span_begin(const Forward *f, i64 span, const RowTile *tile) { return most(f->step->span[span].begin - tile->row, 0); }

static i64 span_end(const Forward *f, i64 span, const RowTile *tile) { return least(f->step->span[span].end - tile->row, tile->count); }

/* Rows times up to four neighbouring tiles of 16 ranks, each [steps][TILE], in tiles 0 … 3; one or two tiles have their
sums dealt out to all four (k modulo 4, or 2), because a sum that waits for the one before takes three times as long. */
static inline __attribute__((always_inline)) void multiply_ranks(const int count, const byte *rows, i64 stride, const byte *w, i64 steps) {
    i64 tile = steps * TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (i64 k = 0; k < steps; k += count == 1 ? 4 : count == 2 ? 2 : 1) {
        const byte *at = w + k * TILE;
        _tile_loadd(4, rows + k * LANE, stride);
        _tile_loadd(6, at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (count > 1) {
            _tile_loadd(7, at + tile, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (count > 2) {
            _tile_loadd(6, at + 2 * tile, 64);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (count > 3) {
            _tile_loadd(7, at + 3 * tile, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        if (count == 1 && k + 1 < steps) {
            _tile_loadd(5, rows + (k + 1) * LANE, stride);
            _tile_loadd(7, at + TILE, 64);
            _tile_dpbf16ps(1, 5, 7);
        }
        if (count == 1 && k + 2 < steps) {
            _tile_loadd(4, rows + (k + 2) * LANE, stride);
            _tile_loadd(6, at + 2 * TILE, 64);
            _tile_dpbf16ps(2, 4, 6);
        }
        if (count == 1 && k + 3 < steps) {
            _tile_loadd(5, rows + (k + 3) * LANE, stride);
            _tile_loadd(7, at + 3 * TILE, 64);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (count == 2 && k + 1 < steps) {
            _tile_loadd(5, rows + (k + 1) * LANE, stride);
            _tile_loadd(6, at + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_loadd(7, at + tile + TILE, 64);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* One row of the sums of tile j, of `count`. */
static inline __m512 sum_of(const float *c, i64 count, i64 j, i64 row) {
    const float *at = c + row * 16;
    __m512 sum = _mm512_loadu_ps(at + j * 256);
    if (count == 1) {
        __m512 rest = _mm512_add_ps(_mm512_loadu_ps(at + 512), _mm512_loadu_ps(at + 768));
        return _mm512_add_ps(_mm512_add_ps(sum, _mm512_loadu_ps(at + 256)), rest);
    }
    return count == 2 ? _mm512_add_ps(sum, _mm512_loadu_ps(at + (j + 2) * 256)) : sum;
}

static void lower_span(const Forward *f, const Adapter *adapter, const half *a, i64 stride, const RowTile *tile, i64 begin, i64 end, float *c) {
    i64 all = adapter->parts * adapter->ranks, columns = low_columns(adapter);
    for (i64 j = 0; j < all; j += 4) {
        i64 count = least(4, all - j);
        const byte *rows = (const byte *)(a + tile->row * stride), *w = adapter->a + j * adapter->steps * TILE;
        if (count == 1) multiply_ranks(1, rows, 2 * stride, w, adapter->steps);
        else if (count == 2) multiply_ranks(2, rows, 2 * stride, w, adapter->steps);
        else if (count == 3) multiply_ranks(3, rows, 2 * stride, w, adapter->steps);
        else multiply_ranks(4, rows, 2 * stride, w, adapter->steps);
        _tile_stored(0, c, 64);
        _tile_stored(1, c + 256, 64);
        _tile_stored(2, c + 512, 64);
        _tile_stored(3, c + 768, 64);
        for (i64 i = 0; i < count; i++)
            for (i64 r = begin; r < end; r++) {
                i64 part = (j + i) / adapter->ranks, rank = (j + i) % adapter->ranks;
                half *to = f->low + (tile->row + r) * f->low_stride + part * columns + rank * 16;
                store_half(to, sum_of(c, count, i, r));
                if (rank + 1 == adapter->ranks && adapter->ranks % 2) _mm256_storeu_si256((__m256i *)(to + 16), _mm256_setzero_si256());
            }
    }
}

/* low = rows A' for one tile of rows. */
static void lower_adapters(const Forward *f, i64 layer, int which, const half *a, i64 stride, i64 t, float *c) {
    const RowTile *tile = &f->tile[t];
    for (i64 i = tile->first; i <= tile->last; i++) {
        const Adapter *adapter = adapter_of(f, i, layer, which);
        if (adapter) lower_span(f, adapter, a, stride, tile, span_begin(f, i, tile), span_end(f, i, tile), c);
    }
}

/* Which of the matrices that are multiplied together a tile of outputs belongs to. */
static i64 part_of(const Forward *f, int which, i64 pair, int side) {
    i64 head = pair / (f->padded_head / 32), H = f->model->heads, G = f->model->groups;
    return which == GLU ? side : which != QKV || head < H ? 0 : head < H + G ? 1 : 2;
}

/* What adapters add to tile t of the rows, whose results so far are in `c`, for 32 outputs. An output tile's B is [ranks][8
pairs of ranks][16 outputs]: where the last half of a step is not there, the next tile's is read, and `low` is zero. */
static void add_adapters(const Forward *f, i64 layer, int which, i64 t, i64 pair, float *c, i64 c_bytes) {
    const RowTile *tile = &f->tile[t];
    float sum[ROWS * 32] __attribute__((aligned(64)));
    for (i64 i = tile->first; i <= tile->last; i++) {
        const Adapter *adapter = adapter_of(f, i, layer, which);
        if (!adapter) continue;
        i64 columns = low_columns(adapter), size = adapter->ranks * TILE / 2;
        const byte *low = (const byte *)(f->low + tile->row * f->low_stride), *b = adapter->b + 2 * pair * size;
        const byte *first = low + 2 * columns * part_of(f, which, pair, 0), *second = low + 2 * columns * part_of(f, which, pair, 1);
        _tile_zero(0);
        _tile_zero(1);
        for (i64 k = 0; k < columns / 32; k++) {
            _tile_loadd(4, first + k * LANE, 2 * f->low_stride);
            _tile_loadd(6, b + k * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, second + k * LANE, 2 * f->low_stride);
            _tile_loadd(7, b + size + k * TILE, 64);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_stored(0, sum, 128);
        _tile_stored(1, sum + 16, 128);
        for (i64 r = span_begin(f, i, tile); r < span_end(f, i, tile); r++)
            for (i64 d = 0; d < 32; d += 16) {
                float *to = c + r * c_bytes / 4 + d;
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_load_ps(sum + r * 32 + d)));
            }
    }
}

/* What tile t will need of its adapters for this pair of outputs comes nearer while the base is multiplied. */
static void fetch_adapters(const Forward *f, i64 layer, int which, i64 t, i64 pair) {
    for (i64 i = f->tile[t].first; i <= f->tile[t].last; i++) {
        const Adapter *adapter = adapter_of(f, i, layer, which);
        if (!adapter) continue;
        const byte *b = adapter->b + pair * adapter->ranks * TILE;
        for (i64 line = 0; line < adapter->ranks * TILE; line += LANE) _mm_prefetch(b + line, _MM_HINT_T0);
    }
}
