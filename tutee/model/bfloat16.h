/* One bfloat16 number, in memory, to and from float32; compilers make vector code of loops over these. */

#pragma once
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

static inline float load(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* To the nearest, ties to even. */
static inline bf16 store(float x) {
    uint32_t bits = bits_of(x);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
