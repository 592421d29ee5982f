/* From logits to tokens, row by row: what `engine/sampler.py` says, in two or three passes over a row that stays in the
second cache. Sums run in a fixed order, in double across runs of 256 tokens. */

#pragma once
#include "team.h"

enum { RUN = 256 };

typedef struct {
    float *logits; /* [R, V] */
    i64 rows, vocabulary, threads;
    /* of each row: */
    const float *temperature, *floor_weight, *floor_logit, *top_p; /* temperature 0: the most likely token */
    const uint64_t *key, *drawn;                                   /* of its stream of random numbers */
    float *workspace;                                              /* [threads][V to 256 + V / 256 doubles] */
    i64 *tokens;                                                   /* out; -1: not finite */
    double *normaliser;                                            /* out: log of the sum of exp(logit) */
    const uint16_t *const *allowed;                                /* a bit a token, or NULL: all of them */
} Sampling;

typedef struct { Job job; const Sampling *s; } Draw;

i64 sampling_bytes(i64 vocabulary) { return parts(vocabulary, RUN) * (RUN * 4 + 8); }

static float largest(const float *x, i64 count) {
    __m512 best[4];
    for (int j = 0; j < 4; j++) best[j] = _mm512_set1_ps(-INFINITY);
    for (i64 i = 0; i < count; i += 64)
        for (int j = 0; j < 4; j++) {
            __mmask16 here = i + j * 16 < count ? first(count - i - j * 16) : 0;
            best[j] = _mm512_max_ps(best[j], _mm512_mask_loadu_ps(best[j], here, x + i + j * 16));
        }
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3])));
}

/* Weights exp((logit - best) / temperature), zero under the floors, and the running sum at the end of each run. */
static double weigh(const Sampling *s, i64 row, const float *x, float best, float *weights, double *ends) {
    __m512 by = _mm512_set1_ps(1.44269504f / s->temperature[row]), shift = _mm512_set1_ps(best);
    __m512 least_weight = _mm512_set1_ps(s->floor_weight[row]), least_logit = _mm512_set1_ps(s->floor_logit[row]);
    double total = 0;
    for (i64 begin = 0; begin < s->vocabulary; begin += RUN) {
        __m512 sum = _mm512_setzero_ps();
        for (i64 i = begin; i < begin + RUN; i += 16) {
            __mmask16 here = i < s->vocabulary ? first(s->vocabulary - i) : 0;
            __m512 logit = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), here, x + i);
            __m512 w = exp2_of(_mm512_mul_ps(_mm512_sub_ps(logit, shift), by));
            __mmask16 under = _mm512_cmp_ps_mask(w, least_weight, _CMP_LT_OQ) | _mm512_cmp_ps_mask(logit, least_logit, _CMP_LT_OQ);
            w = _mm512_mask_mov_ps(w, under, _mm512_setzero_ps());
            _mm512_storeu_ps(weights + i, w);
            sum = _mm512_add_ps(sum, w);
        }
        total += _mm512_reduce_add_ps(sum);
        ends[begin / RUN] = total;
    }
    return total;
}

/* The token where the running sum passes `part` of the total. */
static i64 pick(const float *weights, const double *ends, i64 runs, double part) {
    double target = part * ends[runs - 1];
    i64 low = 0, high = runs - 1;
    while (low < high) { /* the first run that ends beyond the target */
        i64 middle = (low + high) / 2;
        if (ends[middle] > target) high = middle; else low = middle + 1;
    }
    double before = low ? ends[low - 1] : 0, share = (target - before) / (ends[low] - before), sum = 0, total = 0;
    const float *run_weights = weights + low * RUN;
    for (i64 i = 0; i < RUN; i++) total += run_weights[i];
    i64 last = 0;
    /* The run's float sum and its double sum differ in the last digits: scaled, so that a token is always hit. */
    for (i64 i = 0; i < RUN; i++) {
        if (run_weights[i] == 0) continue;
        last = i;
        sum += run_weights[i];
        if (sum > share * total) break;
    }
    return low * RUN + last;
}

/* Keeps what weighs more than `weight`; the new total. */
static double keep_above(float *weights, double *ends, i64 runs, float weight) {
    __m512 bar = _mm512_set1_ps(weight);
    double total = 0;
    for (i64 n = 0; n < runs; n++) {
        __m512 sum = _mm512_setzero_ps();
        for (i64 i = n * RUN; i < (n + 1) * RUN; i += 16) {
            __m512 w = _mm512_loadu_ps(weights + i);
            w = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(w, bar, _CMP_GT_OQ), w);
            _mm512_storeu_ps(weights + i, w);
            sum = _mm512_add_ps(sum, w);
        }
        total += _mm512_reduce_add_ps(sum);
        ends[n] = total;
    }
    return total;
}

static uint64_t scramble(uint64_t x) { /* SplitMix64 (Steele, Lea and Flood 2014) */
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static double uniform(const Sampling *s, i64 row, uint64_t attempt) {
    uint64_t place = s->drawn[row] * (1u << 20) + attempt + 1;
    return (double)(scramble(s->key[row] + place * 0x9E3779B97F4A7C15u) >> 12) * 0x1p-52;
}

static i64 most_likely(const float *x, i64 count, float best) {
    for (i64 i = 0; i < count; i += 16) {
        __mmask16 same = _mm512_mask_cmp_ps_mask(first(count - i), _mm512_maskz_loadu_ps(first(count - i), x + i),
                                                 _mm512_set1_ps(best), _CMP_EQ_OQ);
        if (same) return i + __builtin_ctz(same);
    }
    return -1;
}

static int any_nan(const float *x, i64 count) {
    __mmask16 bad = 0;
    for (i64 i = 0; i < count; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(first(count - i), x + i);
        bad |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    return bad;
}

static void draw_row(Job *job, i64 phase, i64 row, i64 worker) {
    (void)phase;
    const Sampling *s = ((Draw *)job)->s;
    i64 runs = parts(s->vocabulary, RUN);
    const float *x = s->logits + row * s->vocabulary;
    double *ends = (double *)((byte *)s->workspace + worker * sampling_bytes(s->vocabulary));
    float *weights = (float *)(ends + runs), best = largest(x, s->vocabulary);
    s->tokens[row] = -1;
    if (!isfinite(best)) return;
    if (s->temperature[row] == 0) {
        if (!any_nan(x, s->vocabulary)) s->tokens[row] = most_likely(x, s->vocabulary, best);
        return;
    }
    double total = weigh(s, row, x, best, weights, ends), enough = s->top_p[row] * total;
    if (!isfinite(total)) return;
    for (uint64_t attempt = 0;; attempt++) {
        i64 token = pick(weights, ends, runs, uniform(s, row, attempt));
        s->tokens[row] = token;
        /* Top-p: refused if what is likelier is enough already; then one of the likelier is drawn. */
        if (s->top_p[row] >= 1) return;
        double above = keep_above(weights, ends, runs, weights[token]);
        if (above <= 0 || above < enough) return;
    }
}

static void normalise_row(Job *job, i64 phase, i64 row, i64 worker) {
    (void)phase, (void)worker;
    const Sampling *s = ((Draw *)job)->s;
    const float *x = s->logits + row * s->vocabulary;
    __m512 shift = _mm512_set1_ps(largest(x, s->vocabulary)), by = _mm512_set1_ps(1.44269504f);
    double total = 0;
    for (i64 begin = 0; begin < s->vocabulary; begin += RUN) {
        __m512 sum = _mm512_setzero_ps();
        for (i64 i = begin; i < least(begin + RUN, s->vocabulary); i += 16) {
            __m512 logit = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first(s->vocabulary - i), x + i);
            sum = _mm512_add_ps(sum, exp2_of(_mm512_mul_ps(_mm512_sub_ps(logit, shift), by)));
        }
        total += _mm512_reduce_add_ps(sum);
    }
    s->normaliser[row] = log(total) + _mm512_cvtss_f32(shift);
}

static void forbid_row(Job *job, i64 phase, i64 row, i64 worker) {
    (void)phase, (void)worker;
    const Sampling *s = ((Draw *)job)->s;
    const uint16_t *allowed = s->allowed[row];
    float *x = s->logits + row * s->vocabulary;
    if (!allowed) return;
    for (i64 i = 0; i < s->vocabulary; i += 16)
        _mm512_mask_storeu_ps(x + i, first(s->vocabulary - i) & (__mmask16)~allowed[i / 16], _mm512_set1_ps(-INFINITY));
}

static i64 sampling_chunks(Job *job, i64 phase) {
    (void)phase;
    return ((Draw *)job)->s->rows;
}

void draw(const Sampling *s) {
    Draw d = {.job = {1, sampling_chunks, draw_row}, .s = s};
    run(&d.job, s->threads);
}

void forbid(const Sampling *s) {
    Draw d = {.job = {1, sampling_chunks, forbid_row}, .s = s};
    run(&d.job, s->threads);
}

void normalise(const Sampling *s) {
    Draw d = {.job = {1, sampling_chunks, normalise_row}, .s = s};
    run(&d.job, s->threads);
}
