/* Attention over the paged cache.

Queries are taken in sets of up to 16 rows: 16 neighbours of one head, or, where a sequence has a single query, all heads
of a group. Scores [rows, keys] are queries times keys, outputs [rows, K] weights times values; keys and values lie in the
cache as the matrix unit wants its second factor, in blocks of 32 tokens (`product.h` writes them, `kv_cache.py` says how).

Keys come CHUNK blocks at a time, from the sequence's beginning, and serve all sets of a task before the next ones come:
keys, values, scores and weights of a chunk stay in the first cache. What is summed up is scaled anew when a chunk has a
much larger score (Milakov and Gimelshein 2018); a row's own scores alone decide it, at the same keys whatever else is
computed. That is rare, so a chunk's largest score is not even looked for until its weights show that one is too large.

While the matrix unit works, vectors have half their ports: here it pays to count vector instructions, not to overlap. */

#pragma once
#include "step.h"

enum { CHUNK = 2, KEYS = CHUNK * BLOCK, BLOCKS_AHEAD = 8 };

/* A power of two is computed as 128 * (exponent + 127): rounded, the bits of a bfloat16. Weights are made relative to a
score of their row that was the largest once, at ONE; a score may exceed it by 2^17 before they are made relative to
another. */
#define ONE (128.0f * (127 - 16))
#define LIMIT (128.0f * (127 + 1))
#define HIDDEN -1e30f /* a score that weighs nothing, yet is finite */

typedef struct {
    const half *queries; /* of the first row */
    half *out;
    i64 rows, stride, out_stride; /* in numbers */
    i64 position, step;           /* of the first row; from row to row */
    i64 end;                      /* blocks that its rows see */
    __mmask16 begun;              /* rows of which something was summed up */
    float *outputs;               /* [K to 64, in sixteens][16 rows][16] */
    float *shift;                 /* [16 rows][16 times the same]: what scores begin with */
    __m512 *sum;                  /* [16 rows]: of weights, dealt out to 16 */
} Set;

typedef struct {
    i64 sequence, group, groups;
    i64 begin, end; /* blocks of keys, the first a multiple of CHUNK */
    const i64 *table, *next;
    i64 each, next_end; /* blocks of a cache block; of the sequence that comes after this (0: none is fetched ahead) */
    Set *set;
    i64 sets;
    float *scores; /* [16 rows][KEYS] */
    half *weights; /* [16 rows][KEYS] */
    const half *keys[CHUNK], *values[CHUNK];
} Attention;

/* Instructions of the matrix unit say nothing to gcc 12 of the memory that they use. */
static inline void in_memory(void) { __asm__ volatile("" : : : "memory"); }

/* Where a block's keys or values lie; `size` is that of one head's. */
static inline i64 block_at(const Forward *f, const i64 *table, i64 each, i64 block, i64 group, i64 size) {
    i64 cached = each == 1 ? table[block] : table[block / each] * each + block % each;
    return (cached * f->model->groups + group) * size;
}

static i64 key_size(const Forward *f) { return BLOCK * f->padded_head; }
static i64 value_size(const Forward *f) { return BLOCK * f->value_rows; }

static void fetch_second(const half *from, i64 count) { /* into the second cache */
    for (i64 i = 0; i < count; i += LANE / 2) _mm_prefetch((const char *)(from + i), _MM_HINT_T1);
}

/* What is read BLOCKS_AHEAD blocks after this one comes nearer: of this head, of the group's next, or of the next sequence. */
static void fetch_block(const Forward *f, i64 layer, const Attention *a, i64 block) {
    i64 ahead = block - a->begin + BLOCKS_AHEAD, each = a->end - a->begin, group = a->group + ahead / each;
    const i64 *table = a->table;
    block = a->begin + ahead % each;
    if (group >= a->groups) {
        table = a->next;
        block = ahead - (a->groups - a->group) * each;
        group = block / a->next_end;
        block = block % a->next_end;
        if (group >= a->groups) return;
    }
    fetch_second(f->step->keys[layer] + block_at(f, table, a->each, block, group, key_size(f)), key_size(f));
    fetch_second(f->step->values[layer] + block_at(f, table, a->each, block, group, value_size(f)), value_size(f));
}

/* Scores of a set and a chunk of keys, as powers of two: queries were scaled for that. */
static void score(const Forward *f, const Attention *a, const Set *s) {
    i64 head = f->padded_head, stride = 2 * s->stride;
    in_memory();
    _tile_loadd(0, s->shift, 64);
    _tile_loadd(1, s->shift, 64);
    _tile_loadd(2, s->shift, 64);
    _tile_loadd(3, s->shift, 64);
    for (i64 k = 0; k < head; k += 32) {
        _tile_loadd(4, s->queries + k, stride);
        _tile_loadd(6, a->keys[0] + k * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, a->keys[0] + (head + k) * 16, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, a->keys[1] + k * 16, 64);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(7, a->keys[1] + (head + k) * 16, 64);
        _tile_dpbf16ps(3, 4, 7);
    }
    _tile_stored(0, a->scores, 4 * KEYS);
    _tile_stored(1, a->scores + 16, 4 * KEYS);
    _tile_stored(2, a->scores + 32, 4 * KEYS);
    _tile_stored(3, a->scores + 48, 4 * KEYS);
    in_memory();
}

/* Which of 16 keys from `key` on are neither before `oldest` nor after `newest`. */
static inline __mmask16 seen(i64 key, i64 oldest, i64 newest) {
    __m512i here = _mm512_add_epi32(_mm512_set1_epi32(key), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return _mm512_cmple_epi32_mask(here, _mm512_set1_epi32(newest)) & _mm512_cmpge_epi32_mask(here, _mm512_set1_epi32(oldest));
}

/* Hides what a row must not see of a chunk that begins at block `from`. */
static void hide(const Forward *f, const Attention *a, const Set *s, i64 from) {
    i64 window = f->model->window, first_key = from * BLOCK, last = s->position + (s->rows - 1) * s->step;
    if (first_key + KEYS <= s->position + 1 && (!window || first_key > last - window)) return;
    for (i64 r = 0; r < s->rows; r++) {
        i64 newest = s->position + r * s->step, oldest = window ? newest - window + 1 : 0;
        float *row = a->scores + r * KEYS;
        for (i64 key = 0; key < KEYS; key += 16) {
            __mmask16 here = seen(first_key + key, oldest, newest);
            _mm512_storeu_ps(row + key, _mm512_mask_mov_ps(_mm512_set1_ps(HIDDEN), here, _mm512_loadu_ps(row + key)));
        }
    }
}

/* Makes the weights of rows whose scores are too large, or their first ones, relative to the largest of a chunk. */
static void rebase(const Forward *f, const Attention *a, Set *s) {
    for (i64 r = 0; r < s->rows; r++) {
        float *row = a->scores + r * KEYS, *shift = s->shift + r * 16;
        __m512 low = _mm512_max_ps(_mm512_loadu_ps(row), _mm512_loadu_ps(row + 16));
        __m512 high = _mm512_max_ps(_mm512_loadu_ps(row + 32), _mm512_loadu_ps(row + 48));
        float largest = _mm512_reduce_max_ps(_mm512_max_ps(low, high));
        int begun = s->begun >> r & 1;
        if (largest <= HIDDEN || (begun && largest < LIMIT)) continue;
        __m512 by = _mm512_set1_ps(ONE - largest), factor = _mm512_setzero_ps();
        if (begun) factor = exp2_of(_mm512_mul_ps(by, _mm512_set1_ps(1.0f / 128)));
        _mm512_storeu_ps(shift, _mm512_add_ps(_mm512_loadu_ps(shift), by));
        for (i64 key = 0; key < KEYS; key += 16) _mm512_storeu_ps(row + key, _mm512_add_ps(_mm512_loadu_ps(row + key), by));
        s->sum[r] = _mm512_mul_ps(s->sum[r], factor);
        for (float *to = s->outputs + r * 16; to < s->outputs + f->value_rows * 16; to += 256)
            _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_loadu_ps(to), factor));
        s->begun |= 1 << r;
    }
}

static byte mantissa[128]; /* of 2^(i / 128), 7 bits */

static void fill_mantissas(void) {
    for (int i = 0; i < 128; i++) mantissa[i] = (byte)lrint(128 * (exp2(i / 128.0) - 1));
}

/* Powers of two of 32 keys as bfloat16, in the order in which their values lie. The bits of the exponent are there, and the
lowest seven say which mantissa. They are off by .16 % on average, as much as bfloat16 is; 0 below 2^-126. */
static inline __m512i powers_of(const float *scores, __m512i low_half, __m512i high_half) {
    __m512i low = _mm512_cvtps_epi32(_mm512_loadu_ps(scores)), high = _mm512_cvtps_epi32(_mm512_loadu_ps(scores + 16));
    __m512i both = _mm512_packus_epi32(low, high), found = _mm512_permutex2var_epi8(low_half, both, high_half);
    return _mm512_ternarylogic_epi64(_mm512_set1_epi16(127), found, both, 0xca); /* those bits from `found` */
}

/* Scores to weights, and what their sums would be; whether one is too large. */
static int weigh_rows(const Attention *a, const Set *s, __m512 *sums) {
    __m512i low_half = _mm512_loadu_si512(mantissa), high_half = _mm512_loadu_si512(mantissa + 64), any = _mm512_setzero_si512();
    __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const float *scores = a->scores;
    half *weights = a->weights;
    for (i64 r = 0; r < s->rows; r++, scores += KEYS, weights += KEYS) {
        __m512i one = powers_of(scores, low_half, high_half), two = powers_of(scores + BLOCK, low_half, high_half);
        _mm512_storeu_si512(weights, one);
        _mm512_storeu_si512(weights + BLOCK, two);
        any = _mm512_ternarylogic_epi64(any, one, two, 0xfe); /* or */
        sums[r] = _mm512_dpbf16_ps(_mm512_dpbf16_ps(s->sum[r], (__m512bh)one, ones), (__m512bh)two, ones);
    }
    return _mm512_test_epi16_mask(any, _mm512_set1_epi16((short)0xc000)) != 0; /* bits of LIMIT and above */
}

static void soften(const Forward *f, const Attention *a, Set *s, i64 from) {
    __m512 sums[ROWS];
    hide(f, a, s, from);
    if (s->begun != (1 << s->rows) - 1) rebase(f, a, s);
    if (weigh_rows(a, s, sums)) {
        rebase(f, a, s);
        weigh_rows(a, s, sums);
    }
    for (i64 r = 0; r < s->rows; r++) s->sum[r] = sums[r];
}

/* Weights times values of a chunk, added to the outputs, up to 64 dimensions at a time. */
static void mix(const Forward *f, const Attention *a, const Set *s) {
    in_memory();
    for (i64 d = 0; d < f->value_rows; d += 64) {
        float *to = s->outputs + d * 16;
        i64 tiles = (f->value_rows - d) / 16, second = tiles > 1 ? 512 : 0, third = tiles > 2 ? 1024 : 0, fourth = tiles > 3 ? 1536 : 0;
        _tile_loadd(0, to, 64);
        _tile_loadd(1, to + 256, 64);
        _tile_loadd(2, to + 512, 64);
        _tile_loadd(3, to + 768, 64);
        for (i64 n = 0; n < CHUNK; n++) {
            const half *block = a->values[n] + d * BLOCK;
            _tile_loadd(4, a->weights + n * BLOCK, 2 * KEYS);
            _tile_loadd(6, block, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, block + second, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(6, block + third, 64);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, block + fourth, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        _tile_stored(0, to, 64);
        _tile_stored(1, to + 256, 64);
        _tile_stored(2, to + 512, 64);
        _tile_stored(3, to + 768, 64);
    }
    in_memory();
}

static void store_outputs(const Forward *f, const Set *s) {
    i64 K = f->model->head;
    for (i64 r = 0; r < s->rows; r++) {
        __m512 by = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(s->sum[r]));
        for (i64 d = 0; d < K; d += 16) {
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(s->outputs + d * 16 + r * 16), by);
            _mm256_mask_storeu_epi16(s->out + r * s->out_stride + d, first(K - d), (__m256i)_mm512_cvtneps_pbh(v));
        }
    }
}

static i64 attend_chunks(const Forward *f) { return f->tasks * f->model->groups / f->groups_at_once; }

/* Neighbouring queries that share what is read of keys and values: some three sets of them. */
static i64 queries_together(const Model *m) { return ROWS * most(1, 3 / (m->heads / m->groups)); }

static i64 sets_of(const Model *m) { return m->heads / m->groups * queries_together(m) / ROWS; }

static i64 set_bytes(const Forward *f) { return parts(f->value_rows, 64) * 64 * LANE + 2 * ROWS * LANE; }

/* Of scratch memory, for one thread. */
static i64 attention_bytes(const Forward *f) {
    return sets_of(f->model) * set_bytes(f) + ROWS * KEYS * 6;
}

/* The rows of a task and one group. */
static void lay_out_sets(const Forward *f, const Queries *q, Attention *a) {
    const Model *m = f->model;
    const Step *step = f->step;
    i64 R = m->heads / m->groups, row = step->starts[q->sequence] + q->query;
    i64 start = step->contexts[q->sequence] - step->starts[q->sequence + 1] + row;
    i64 by_head = q->count > 1, parts_each = by_head ? parts(q->count, ROWS) : 1;
    a->sets = by_head ? R * parts_each : 1;
    for (i64 i = 0; i < a->sets; i++) {
        Set *s = &a->set[i];
        i64 query = i % parts_each * ROWS, head = a->group * R + i / parts_each;
        s->queries = f->q + (row + query) * f->q_stride + head * f->padded_head;
        s->out = f->attended + (row + query) * f->attended_stride + head * m->head;
        s->rows = by_head ? least(ROWS, q->count - query) : R;
        s->stride = by_head ? f->q_stride : f->padded_head;
        s->out_stride = by_head ? f->attended_stride : m->head;
        s->position = start + query;
        s->step = by_head;
        s->end = parts(s->position + (by_head ? s->rows : 1), BLOCK);
        memset(s->outputs, 0, set_bytes(f));
        s->begun = 0;
    }
}

static void attend_group(const Forward *f, i64 layer, const Queries *q, Attention *a) {
    lay_out_sets(f, q, a);
    for (i64 n = a->begin; n < a->end; n += CHUNK) {
        for (i64 i = 0; i < CHUNK; i++) { /* where there is one block left it is taken twice, the second time hidden */
            i64 block = least(n + i, a->end - 1);
            a->keys[i] = f->step->keys[layer] + block_at(f, a->table, a->each, block, a->group, key_size(f));
            a->values[i] = f->step->values[layer] + block_at(f, a->table, a->each, block, a->group, value_size(f));
            if (a->next_end) fetch_block(f, layer, a, n + i);
        }
        for (i64 i = 0; i < a->sets; i++) { /* forth and back: who came last is still in the cache */
            Set *s = &a->set[(n - a->begin) / CHUNK % 2 ? a->sets - 1 - i : i];
            if (s->end <= n) continue;
            score(f, a, s);
            soften(f, a, s, n);
            mix(f, a, s);
        }
    }
    for (i64 i = 0; i < a->sets; i++) store_outputs(f, &a->set[i]);
}

static void attend(const Forward *f, i64 layer, i64 chunk, byte *scratch) {
    const Model *m = f->model;
    const Step *s = f->step;
    const Queries *q = &f->queries[chunk % f->tasks];
    i64 start = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    Attention a = {.sequence = q->sequence, .table = s->tables + q->sequence * s->table_width, .each = s->block_size / BLOCK};
    a.begin = m->window ? most(0, start - m->window + 1) / KEYS * CHUNK : 0;
    a.end = parts(start + q->count, BLOCK);
    Set sets[ROWS];
    a.set = sets;
    a.scores = (float *)scratch;
    a.weights = (half *)(a.scores + ROWS * KEYS);
    byte *at = (byte *)(a.weights + ROWS * KEYS);
    for (i64 i = 0; i < sets_of(m); i++, at += set_bytes(f)) {
        sets[i].outputs = (float *)at;
        sets[i].sum = (__m512 *)(at + set_bytes(f) - ROWS * LANE);
        sets[i].shift = (float *)(at + set_bytes(f) - 2 * ROWS * LANE);
    }
    if (f->fetch_cache && f->groups_at_once == m->groups && !m->window) {
        i64 next = least(a.sequence + 1, s->sequences - 1);
        a.next = s->tables + next * s->table_width;
        a.next_end = parts(s->contexts[next], BLOCK);
    }
    a.groups = f->groups_at_once == m->groups ? m->groups : 0;
    i64 rows = q->count > 1 ? least(ROWS, q->count) : m->heads / m->groups;
    set_tiles(rows);
    for (i64 i = 0; i < f->groups_at_once; i++) {
        a.group = chunk / f->tasks * f->groups_at_once + i;
        attend_group(f, layer, q, &a);
    }
    set_tiles(f->job.rows);
}
