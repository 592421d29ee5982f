/* Small arithmetic: bfloat16 (called `half`), vectors of 16 floats, the exponential. */

#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef uint16_t half;
typedef uint8_t byte;

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 parts(i64 n, i64 size) { return (n + size - 1) / size; }

static inline void store_half(half *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline __m256i to_half(const float *x) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x)); }

static inline __mmask32 first_halves(i64 n) { return n >= 32 ? 0xffffffff : (1u << n) - 1; }

static inline __mmask16 first(i64 n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

static void transpose(__m512i x[16]) { /* 16 rows of 16 words */
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
        x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
        x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
    }
}

/* 2^x; relative error below 2e-7; 0 below 2^-126, because smaller numbers are slow. NaN stays NaN. */
static inline __m512 exp2_of(__m512 x) {
    __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(1.54035304e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(counts, p, n);
}

#define LOG2_E 1.44269504f

/* x / (1 + e^-x), off by less than 1e-4 of itself: what comes of it is rounded to bfloat16. A reciprocal instead of a
division, which takes as long as all the rest. */
static inline __m512 silu(__m512 x) {
    __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)), most = _mm512_set1_ps(125.0f);
    power = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), most), _mm512_min_ps(most, power)); /* NaN stays */
    __m512 n = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(power, n), p = _mm512_set1_ps(9.56052e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.591708e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4025001e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9312253e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(p, n), _mm512_set1_ps(1.0f))));
}

/* 1 / root mean square. */
static float inverse_rms(const float *x, i64 width, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (i64 d = 0; d < width; d += 16) {
        __m512 v = _mm512_maskz_loadu_ps(first(width - d), x + d);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    return 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)width + eps);
}
