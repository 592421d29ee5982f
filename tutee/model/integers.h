/* Products of weights that are 8-bit integers, or 4-bit ones that become 8-bit ones on the way (`integers.py`), with rows
that are 16-bit integers in two digits. Sums of integers are exact, so a row's result depends on nothing but itself. */

#pragma once
#include "step.h"

enum { ROW_MAX = 127 * 256 + 127, PACKED_TILE = 9 * LANE };

/* A row of bfloat16 as whole numbers times the scale that is returned: `high` * 256 + `low`, with zeros up to a multiple
of 64. A row with a number that is not finite has no finite scale. */
static float digits_of_row(const half *from, i64 width, int8_t *high, int8_t *low) {
    __m512 largest = _mm512_setzero_ps(), bad = largest;
    for (i64 d = 0; d < width; d += 16) {
        __m256i bits = _mm256_maskz_loadu_epi16(first(width - d), from + d);
        __m512 v = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
        bad = _mm512_fmadd_ps(v, _mm512_setzero_ps(), bad);
    }
    float scale = _mm512_reduce_max_ps(largest) / ROW_MAX;
    __m512 by = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f), limit = _mm512_set1_ps(ROW_MAX);
    for (i64 d = 0; d < parts(width, 64) * 64; d += 16) {
        __m256i bits = _mm256_maskz_loadu_epi16(d < width ? first(width - d) : 0, from + d);
        __m512 v = _mm512_mul_ps((__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16), by);
        v = _mm512_max_ps(_mm512_min_ps(v, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
        __m512i n = _mm512_cvtps_epi32(v);
        _mm_storeu_si128((__m128i *)(low + d), _mm512_cvtepi32_epi8(n));
        _mm_storeu_si128((__m128i *)(high + d), _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8)));
    }
    return scale + _mm512_reduce_add_ps(bad);
}

/* The rows of tile t as digits, for a matrix of this many inputs. */
static void split_tile(const Forward *f, const half *from, i64 stride, i64 width, i64 t) {
    for (i64 row = f->tile[t].row; row < f->tile[t].row + f->tile[t].count; row++) {
        int8_t *to = f->digits + row * f->digit_stride;
        f->digit_scale[row] = digits_of_row(from + row * stride, width, to, to + f->digit_plane);
    }
}

/* 64 inputs by 16 outputs of 4 bits as a tile of 8 bits: step * level - offset, modulo 256. A product of a level and a
step fits a byte, so two are made by one multiplication of 16 bits. */
static inline __attribute__((always_inline)) void unpack_tile(const byte *from, byte *to) {
    __m512i nibble = _mm512_set1_epi8(15), step[2], offset[2];
    for (int h = 0; h < 2; h++) {
        __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from + 32 * h)));
        __m512i o = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from + 32 * h + 16)));
        step[h] = _mm512_or_si512(s, _mm512_slli_epi32(s, 16));
        o = _mm512_or_si512(o, _mm512_slli_epi32(o, 8));
        offset[h] = _mm512_or_si512(o, _mm512_slli_epi32(o, 16));
    }
    for (i64 line = 0; line < 8 * LANE; line += LANE) {
        __m512i both = _mm512_loadu_si512(from + LANE + line);
        __m512i low = _mm512_and_si512(both, nibble), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        _mm512_storeu_si512(to + line, _mm512_sub_epi8(_mm512_mullo_epi16(low, step[0]), offset[0]));
        _mm512_storeu_si512(to + 8 * LANE + line, _mm512_sub_epi8(_mm512_mullo_epi16(high, step[1]), offset[1]));
    }
}

/* Rows of tile t times one pair of output tiles, which lie at `w`, into `c`. Meanwhile `ahead` bytes a step from `next` on
come nearer: what will be read after this. */
static void multiply_integers(const Forward *f, const Matrix *m, i64 t, i64 pair, const byte *w, const byte *next, i64 ahead,
                              float *c, i64 c_bytes) {
    int32_t sums[4][ROWS][16] __attribute__((aligned(64)));
    const int8_t *high = f->digits + f->tile[t].row * f->digit_stride, *low = high + f->digit_plane;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (i64 k = 0; k < m->steps; k++, w += STEP, next += ahead) {
        for (i64 line = 0; line < ahead; line += LANE) _mm_prefetch(next + line, _MM_HINT_T0);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + TILE, 64);
        _tile_loadd(4, high + k * 64, f->digit_stride);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, low + k * 64, f->digit_stride);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int side = 0; side < 2; side++) {
        __m512 scale = _mm512_loadu_ps(m->scale + pair * 32 + side * 16);
        for (i64 r = 0; r < f->tile[t].count; r++) {
            __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[2 + side][r]));
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[side][r])), _mm512_set1_ps(256.0f), sum);
            __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(f->digit_scale[f->tile[t].row + r]));
            _mm512_storeu_ps(c + r * c_bytes / 4 + side * 16, _mm512_mul_ps(sum, by));
        }
    }
}
