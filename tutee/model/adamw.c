/* One AdamW step of one tensor in one pass over memory: clipping, both moments, the master and its bfloat16 copy.

`adamw.py` says what is computed, in PyTorch. Elements are independent, so a result does not depend on the number of
threads. */

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512") /* or gcc takes half of it */
#endif
#include "bfloat16.h"
#include <math.h>

typedef struct {
    float clip, decay, rate, beta1, beta2, root, eps; /* as in adamw.py */
    uint32_t seed;
} Rates;

/* 32 bits that look random, from where the element stands and which step it is. */
static inline uint32_t dice(uint32_t at, uint32_t seed) {
    uint32_t x = at * 0x9e3779b1u + seed;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

/* Up or down, as often as it lies nearer. */
static inline bf16 store_randomly(float x, uint32_t random) { return (bf16)((bits_of(x) + (random & 0xffff)) >> 16); }

static inline float move(float p, float m, float v, const Rates *r) {
    return p * r->decay - r->rate * m / (sqrtf(v) * r->root + r->eps);
}

void adamw(float *p, const float *g, float *m, float *v, bf16 *copy, const Rates *rates, long count) {
    Rates r = *rates;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < count; block += 4096) {
        long end = block + 4096 < count ? block + 4096 : count;
        for (long i = block; i < end; i++) {
            float gradient = g[i] * r.clip;
            m[i] = m[i] + (gradient - m[i]) * (1.0f - r.beta1);
            v[i] = v[i] * r.beta2 + gradient * gradient * (1.0f - r.beta2);
            p[i] = move(p[i], m[i], v[i], &r);
        }
        for (long i = block; i < end && copy; i++) copy[i] = store(p[i]);
    }
}

void adamw_bfloat16(float *p, const float *g, bf16 *m, bf16 *v, bf16 *copy, const Rates *rates, long count) {
    Rates r = *rates;
#pragma omp parallel for schedule(static)
    for (long block = 0; block < count; block += 4096) {
        long end = block + 4096 < count ? block + 4096 : count;
        for (long i = block; i < end; i++) {
            float gradient = g[i] * r.clip, first = load(m[i]), second = load(v[i]);
            uint32_t random = dice((uint32_t)i, r.seed);
            first = first + (gradient - first) * (1.0f - r.beta1);
            second = second * r.beta2 + gradient * gradient * (1.0f - r.beta2);
            m[i] = store_randomly(first, random);
            v[i] = store_randomly(second, random >> 16);
            p[i] = move(p[i], first, second, &r);
        }
        for (long i = block; i < end && copy; i++) copy[i] = store(p[i]);
    }
}
