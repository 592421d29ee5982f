/* What the training kernels share: tiles of the AMX matrix unit, vectors of AVX-512, and rows laid out for products.

An A tile is 16 rows of 32 bfloat16. A B tile holds 32 rows of 16 columns, two neighbouring rows of one column side by
side in a word. "Across" means transposed: rows become columns. */

#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;

enum { SIDE = 16 };

static inline void *scratch(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

int allow_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; } /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */

static inline void begin_tiles(void) {
    struct {
        uint8_t palette, first_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory"); /* or gcc 12 drops the stores: it believes 8 bytes are read */
    _tile_loadconfig(&config);
}

static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-100.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.3981999507e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Two rows of numbers as one row of pairs: what a B tile wants of two neighbouring rows. */
static inline __m512i pairs(__m512 even, __m512 odd) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* 16 x 16 words, transposed. */
static inline void transpose(const __m512i in[16], __m512i out[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(in[i], in[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(in[i], in[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        out[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
        out[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
        out[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xdd);
    }
}

/* `rows` rows of [head], 16 with zeros after them, as B tiles of their transpose, of which every second is theirs:
   out[head / 32][first of 2][16][16 words]. */
static inline void pack_half(const bf16 *from, long stride, long rows, long head, uint32_t *out) {
    for (long step = 0; step < head / 32; step++) {
        __m512i in[16], turned[16];
        for (long i = 0; i < 16; i++)
            in[i] = i < rows ? _mm512_loadu_si512(from + i * stride + step * 32) : _mm512_setzero_si512();
        transpose(in, turned);
        for (long i = 0; i < 16; i++) _mm512_storeu_si512(out + step * 512 + i * 16, turned[i]);
    }
}

/* The same of 32 rows: out[head / 32][2][16][16 words]. */
static inline void pack_across(const bf16 *from, long stride, long rows, long head, uint32_t *out) {
    pack_half(from, stride, rows, head, out);
    pack_half(from + 16 * stride, stride, rows - 16, head, out + 256);
}

/* 16 columns of up to 32 rows as one B tile of themselves: out[16 pairs of rows][16 words]. */
static inline void pack_narrow(const bf16 *from, long stride, long rows, uint32_t *out) {
    const __m256i nothing = _mm256_setzero_si256();
    for (long pair = 0; pair < 16; pair++) {
        const bf16 *even = from + 2 * pair * stride;
        __m256i a = 2 * pair < rows ? _mm256_loadu_si256((const void *)even) : nothing;
        __m256i b = 2 * pair + 1 < rows ? _mm256_loadu_si256((const void *)(even + stride)) : nothing;
        __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
        _mm512_storeu_si512(out + pair * 16, both);
    }
}

/* The same rows as B tiles of themselves, neighbouring rows in pairs: out[16 pairs][head words]. */
static inline void pack_pairs(const bf16 *from, long stride, long rows, long head, uint32_t *out) {
    const __m256i nothing = _mm256_setzero_si256();
    for (long pair = 0; pair < 16; pair++)
        for (long d = 0; d < head; d += 16) {
            const bf16 *even = from + 2 * pair * stride + d, *odd = even + stride;
            __m256i a = 2 * pair < rows ? _mm256_loadu_si256((const void *)even) : nothing;
            __m256i b = 2 * pair + 1 < rows ? _mm256_loadu_si256((const void *)odd) : nothing;
            __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
            _mm512_storeu_si512(out + pair * head + d, both);
        }
}
