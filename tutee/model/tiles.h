/* Weights packed for the matrix unit, and products with them.

A tile is 16 rows of 64 bytes. A matrix [O, I] is kept as pairs of tiles: 32 outputs by 32 inputs, two inputs of one
output side by side as the unit wants them; along the inputs first, so that a product reads memory in one straight
line. */

#pragma once
#include <immintrin.h>

#include "numbers.h"

enum { TILE = 1024, STEP = 2 * TILE, ROWS = 16, LANE = 64 };

typedef struct {
    const byte *tiles;
    const float *bias;  /* in the order of the packed outputs, or NULL */
    const float *scale; /* of each packed output, where its weights are integers */
    i64 pairs, steps;   /* of 32 outputs; of 32 inputs, or of 64 where they are integers */
    i64 bits;           /* of a weight: 16 (bfloat16), 8, 4 */
} Matrix;

/* Rows of `from` [rows, width] become output tiles first_tile, first_tile + stride, …; every `group` rows begin a new
tile, and take `group_tiles` of them. */
void pack(byte *tiles, i64 steps, i64 first_tile, i64 stride, const half *from, i64 rows, i64 width, i64 group,
          i64 group_tiles) {
    for (i64 t = 0; t < rows / group * group_tiles; t++) {
        i64 tile = first_tile + t * stride, row = t % group_tiles * ROWS, count = least(ROWS, group - row);
        const half *source = from + (t / group_tiles * group + row) * width;
        for (i64 k = 0; k < steps; k++) {
            byte *to = tiles + (tile / 2 * steps + k) * STEP + tile % 2 * TILE;
            __m512i words[16];
            for (i64 n = 0; n < ROWS; n++) {
                __mmask32 here = n < count ? first_halves(width - k * 32) : 0;
                words[n] = _mm512_maskz_loadu_epi16(here, source + n * width + k * 32);
            }
            transpose(words);
            for (i64 n = 0; n < ROWS; n++) _mm512_storeu_si512(to + n * LANE, words[n]);
        }
    }
}

static void load_shape(i64 rows, int fifth_bytes, int seventh_rows) {
    struct { byte palette, start, reserved[14]; uint16_t bytes[16]; byte rows[16]; } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = i == 5 ? fifth_bytes : 64;
        shape.rows[i] = i == 7 ? seventh_rows : i < 6 ? rows : 16;
    }
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* or gcc 12 drops the stores: it believes 8 bytes are read */
    _tile_loadconfig(&shape);
}

/* For products of up to `rows` (0: 16), which tiles 0 … 5 hold: fewer take less time, and give the same numbers. */
static void set_tiles(i64 rows) {
    load_shape(rows ? rows : ROWS, 64, 16);
}

enum { AHEAD = 4 * STEP };
enum { NOTHING, SOON, LATER }; /* what to fetch meanwhile: a little ahead into the first cache; a panel for the second */

/* Adds rows a0 (tiles 0, 1) and a1 (tiles 2, 3) times one pair of output tiles. */
static inline __attribute__((always_inline)) void multiply(const int both, const int fetch, const byte *a0, const byte *a1,
                                                           i64 stride, const byte *w, i64 steps, const byte *panel) {
    for (i64 k = 0; k < steps; k++, w += STEP) {
        for (int line = 0; fetch && line < STEP; line += LANE)
            if (fetch == SOON) _mm_prefetch(w + AHEAD + line, _MM_HINT_T0);
            else _mm_prefetch(panel + k * STEP + line, _MM_HINT_T1);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + TILE, 64);
        _tile_loadd(4, a0 + k * LANE, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (both) {
            _tile_loadd(5, a1 + k * LANE, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* The same for two tiles of rows that lie in the first cache, and weights that stream past it from the second, where
`lines` of each step that lies at `later` come meanwhile. */
static inline __attribute__((always_inline)) void multiply_streaming(const byte *a0, const byte *a1, i64 stride, const byte *w, i64 steps,
                                                                     const byte *later, i64 lines) {
    for (i64 k = 0; k < steps; k++, w += STEP, later += STEP) {
        for (i64 i = 0; i < lines; i++) _mm_prefetch(later + i * LANE, _MM_HINT_T1);
        _tile_loadd(4, a0 + k * LANE, stride);
        _tile_stream_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, w + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1 + k * LANE, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}
