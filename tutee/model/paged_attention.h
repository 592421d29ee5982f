/* Attention over the paged cache.

For some neighbouring queries of one sequence and the R query heads of one group: up to 16 columns, or two sets of them,
so that keys and values are read for twice as many. Scores are keys times queries (keys lie in the cache as rows, so the
matrix unit reads them in place), [16 keys, 16 columns] a block; softmax runs down the columns; values lie in the cache
turned, [K, 16 keys] a block, so that values times weights gives outputs [K, columns].

Keys come CHUNK blocks at a time, from the sequence's beginning: their scores stay in the first cache. What is summed up is
scaled anew when a chunk has a larger score (Milakov and Gimelshein 2018), in every column at the same keys whatever else
is computed. */

#pragma once
#include "step.h"

enum { CHUNK = 8 };
#define HIDDEN -1e30f /* a score that weighs nothing, yet is finite */

typedef struct {
    i64 sequence, row, start; /* of the first query: its row, its position */
    i64 count;                /* queries */
    i64 each, sets;           /* queries of a set of columns; sets */
    i64 group, begin, end;    /* kv head; blocks of 16 keys, the first a multiple of CHUNK */
    i64 *block;               /* [end - begin]: where in the cache */
    const i64 *next;          /* the same for the sequence that comes after this, or NULL: what to fetch meanwhile */
    i64 next_blocks;
    /* of each set: */
    half *columns[2];                     /* queries: [K / 32][16 pairs][16 columns][2] */
    float *outputs[2];                    /* [K to 16][16 columns] */
    float *scores[2];                     /* [CHUNK * 16 keys][16 columns] */
    half *weights[2];                     /* [CHUNK * 8][16 columns][2] */
    __m512 largest[2], sum[2], faulty[2]; /* of each column so far: score; weights; NaN if a score was not finite */
} Attention;

static i64 columns_of(const Forward *f, const Attention *a, i64 set) {
    return least(a->each, a->count - set * a->each) * (f->model->heads / f->model->groups);
}

static inline __m512i as_pairs(__m512 even, __m512 odd) { /* to bfloat16, side by side */
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

static inline void fetch_second(const half *from, i64 count) { /* into the second cache */
    for (i64 i = 0; i < count; i += LANE / 2) _mm_prefetch((const char *)(from + i), _MM_HINT_T1);
}

static void load_queries(const Forward *f, const Attention *a, i64 set) {
    i64 R = f->model->heads / f->model->groups, first_row = a->row + set * a->each;
    for (i64 k = 0; k < f->padded_head; k += 32) {
        __m512i words[16];
        for (i64 c = 0; c < 16; c++) {
            const half *from = f->q + (first_row + c / R) * f->q_stride + (a->group * R + c % R) * f->padded_head + k;
            words[c] = c < columns_of(f, a, set) ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
        }
        transpose(words);
        for (i64 pair = 0; pair < 16; pair++) _mm512_storeu_si512(a->columns[set] + k * 16 + pair * 32, words[pair]);
    }
}

/* Scores of blocks n … of a chunk that begins at `from`, four tiles at a time. */
static void score(const Forward *f, i64 layer, const Attention *a, i64 from, i64 count) {
    i64 G = f->model->groups, size = ROWS * f->padded_head, stride = 2 * f->padded_head, value_size = f->value_rows * ROWS;
    const half *own = f->step->keys[layer] + a->group * size, *values = f->step->values[layer] + a->group * value_size;
    for (i64 n = 0; n < count; n += 4 / a->sets) {
        const half *at[4];
        for (i64 i = 0; i < 4; i++) at[i] = own + a->block[from + least(n + i, count - 1)] * G * size;
        for (i64 i = n; a->next && i < least(n + 4, count); i++) fetch_second(values + a->block[from + i] * G * value_size, value_size);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (i64 k = 0; k < f->padded_head; k += 32) {
            _tile_loadd(6, a->columns[0] + k * 16, 64);
            _tile_loadd(4, at[0] + k, stride);
            _tile_dpbf16ps(0, 4, 6);
            if (a->sets == 1) {
                _tile_loadd(4, at[1] + k, stride);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(4, at[2] + k, stride);
                _tile_dpbf16ps(2, 4, 6);
                _tile_loadd(4, at[3] + k, stride);
                _tile_dpbf16ps(3, 4, 6);
            } else {
                _tile_loadd(6, a->columns[1] + k * 16, 64);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(4, at[1] + k, stride);
                _tile_dpbf16ps(3, 4, 6);
                _tile_loadd(6, a->columns[0] + k * 16, 64);
                _tile_dpbf16ps(2, 4, 6);
            }
        }
        /* One set: four blocks. Two sets: two blocks of each. */
        float *to = a->scores[0] + n * 256;
        _tile_stored(0, to, 64);
        _tile_stored(1, a->sets == 1 ? to + 256 : a->scores[1] + n * 256, 64);
        _tile_stored(2, a->sets == 1 ? to + 512 : to + 256, 64);
        _tile_stored(3, a->sets == 1 ? to + 768 : a->scores[1] + n * 256 + 256, 64);
    }
}

/* Hides what a column must not see; returns the largest score of each so far. */
static __m512 largest_seen(const Forward *f, Attention *a, i64 set, i64 from, i64 count) {
    i64 R = f->model->heads / f->model->groups, window = f->model->window;
    i64 start = a->start + set * a->each, last = start + columns_of(f, a, set) / R - 1;
    int32_t position[16];
    for (i64 c = 0; c < 16; c++) position[c] = least(start + c / R, last);
    __m512i newest = _mm512_loadu_si512(position), oldest = _mm512_set1_epi32(0);
    if (window) oldest = _mm512_sub_epi32(newest, _mm512_set1_epi32(window - 1));
    __m512 hidden = _mm512_set1_ps(HIDDEN), best[4] = {a->largest[set], hidden, hidden, hidden}, faulty = a->faulty[set];
    for (i64 n = 0; n < count; n++) {
        float *block = a->scores[set] + n * 256;
        i64 key = (a->begin + from + n) * ROWS;
        int partly = key + ROWS > start + 1 || (window && key <= last - window);
        for (i64 i = 0; partly && i < ROWS; i++) {
            __m512i here = _mm512_set1_epi32(key + i);
            __mmask16 seen = _mm512_cmple_epi32_mask(here, newest) & _mm512_cmpge_epi32_mask(here, oldest);
            _mm512_storeu_ps(block + i * 16, _mm512_mask_mov_ps(hidden, seen, _mm512_loadu_ps(block + i * 16)));
        }
        for (i64 i = 0; i < ROWS; i++) {
            __m512 v = _mm512_loadu_ps(block + i * 16);
            best[i % 4] = _mm512_max_ps(best[i % 4], v);
            faulty = _mm512_fmadd_ps(v, _mm512_setzero_ps(), faulty);
        }
    }
    a->faulty[set] = faulty;
    return _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3]));
}

static byte mantissa[128]; /* of 2^(i / 128), 7 bits */

static void fill_mantissas(void) {
    for (int i = 0; i < 128; i++) mantissa[i] = (byte)lrint(128 * (exp2(i / 128.0) - 1));
}

/* Two rows of powers of two as bfloat16, side by side. A power comes as 128 * (exponent + 127): rounded, the bits of the
exponent are there, and the lowest seven say which mantissa. They are off by .16 % on average, as much as bfloat16 is;
0 below 2^-126. */
static inline __m512i powers(__m512 even, __m512 odd, __m512i low_half, __m512i high_half) {
    __m512i e = _mm512_cvtps_epi32(_mm512_max_ps(even, _mm512_setzero_ps()));
    __m512i o = _mm512_cvtps_epi32(_mm512_max_ps(odd, _mm512_setzero_ps()));
    __m512i both = _mm512_or_si512(e, _mm512_slli_epi32(o, 16));
    __m512i found = _mm512_permutex2var_epi8(low_half, both, high_half);
    return _mm512_ternarylogic_epi64(_mm512_set1_epi16(127), found, both, 0xca); /* those bits from `found` */
}

/* Scores of a chunk to weights, relative to the largest score so far; what was summed up before is scaled to it. */
static void soften(const Forward *f, i64 layer, Attention *a, i64 set, i64 from, i64 count) {
    i64 G = f->model->groups, size = f->padded_head * ROWS;
    const half *keys = f->step->keys[layer] + a->group * size;
    __m512 by = _mm512_set1_ps(128 * LOG2_E / sqrtf((float)f->model->head)), largest = largest_seen(f, a, set, from, count);
    __m512 shift = _mm512_fmsub_ps(largest, by, _mm512_set1_ps(128 * 127));
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    __m512i low_half = _mm512_loadu_si512(mantissa), high_half = _mm512_loadu_si512(mantissa + 64);
    __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (i64 n = 0; n < count; n++) {
        if (a->next && from + n < a->next_blocks) fetch_second(keys + a->next[from + n] * G * size, size);
        for (i64 key = n * ROWS; key < (n + 1) * ROWS; key += 2) {
            __m512 even = _mm512_fmsub_ps(_mm512_loadu_ps(a->scores[set] + key * 16), by, shift);
            __m512 odd = _mm512_fmsub_ps(_mm512_loadu_ps(a->scores[set] + key * 16 + 16), by, shift);
            __m512i weights = powers(even, odd, low_half, high_half);
            sum[key / 2 % 2] = _mm512_dpbf16_ps(sum[key / 2 % 2], (__m512bh)weights, ones);
            _mm512_storeu_si512(a->weights[set] + key * 16, weights);
        }
    }
    if (from > 0 && _mm512_cmp_ps_mask(largest, a->largest[set], _CMP_NEQ_UQ)) {
        __m512 smaller = _mm512_mul_ps(_mm512_sub_ps(a->largest[set], largest), by);
        __m512 factor = exp2_of(_mm512_mul_ps(smaller, _mm512_set1_ps(1.0f / 128)));
        a->sum[set] = _mm512_mul_ps(a->sum[set], factor);
        for (i64 d = 0; d < f->value_rows * 16; d += 16)
            _mm512_storeu_ps(a->outputs[set] + d, _mm512_mul_ps(_mm512_loadu_ps(a->outputs[set] + d), factor));
    }
    a->sum[set] = _mm512_add_ps(a->sum[set], _mm512_add_ps(sum[0], sum[1]));
    a->largest[set] = largest;
}

/* Values times the weights of a chunk, added to the outputs: four tiles of 16 dimensions, or two for each set. */
static void mix(const Forward *f, i64 layer, const Attention *a, i64 from, i64 count) {
    i64 G = f->model->groups, size = f->value_rows * ROWS, many = 4 / a->sets;
    const half *own = f->step->values[layer] + a->group * size;
    for (i64 d = 0; d < f->value_rows; d += many * ROWS) {
        i64 tiles = least(many, (f->value_rows - d) / ROWS);
        i64 second = tiles > 1 ? 256 : 0, third = tiles > 2 ? 512 : 0, fourth = tiles > 3 ? 768 : 0;
        float *to[4], *first = a->outputs[0] + d * 16, *other = a->outputs[1] + d * 16; /* there is room for four */
        for (i64 i = 0; i < 4; i++) to[i] = a->sets == 1 ? first + i * 256 : (i % 2 ? other : first) + i / 2 * 256;
        _tile_loadd(0, to[0], 64);
        _tile_loadd(1, to[1], 64);
        _tile_loadd(2, to[2], 64);
        _tile_loadd(3, to[3], 64);
        for (i64 n = 0; n < count; n++) {
            const half *block = own + a->block[from + n] * G * size + d * ROWS;
            _tile_loadd(7, a->weights[0] + n * 256, 64);
            _tile_loadd(5, block, 32);
            _tile_dpbf16ps(0, 5, 7);
            if (a->sets == 1) {
                _tile_loadd(5, block + second, 32);
                _tile_dpbf16ps(1, 5, 7);
                _tile_loadd(5, block + third, 32);
                _tile_dpbf16ps(2, 5, 7);
                _tile_loadd(5, block + fourth, 32);
                _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_loadd(7, a->weights[1] + n * 256, 64);
                _tile_dpbf16ps(1, 5, 7);
                _tile_loadd(5, block + second, 32);
                _tile_dpbf16ps(3, 5, 7);
                _tile_loadd(7, a->weights[0] + n * 256, 64);
                _tile_dpbf16ps(2, 5, 7);
            }
        }
        _tile_stored(0, to[0], 64);
        _tile_stored(1, to[1], 64);
        _tile_stored(2, to[2], 64);
        _tile_stored(3, to[3], 64);
    }
}

static void store_outputs(const Forward *f, const Attention *a, i64 set) {
    __m512 by = _mm512_add_ps(a->faulty[set], _mm512_div_ps(_mm512_set1_ps(1.0f), a->sum[set]));
    i64 R = f->model->heads / f->model->groups, K = f->model->head;
    for (i64 d = 0; d < K; d += 32) {
        __m512i words[16];
        for (i64 pair = 0; pair < 16; pair++) {
            const float *from = a->outputs[set] + (d + 2 * pair) * 16;
            words[pair] = as_pairs(_mm512_mul_ps(_mm512_loadu_ps(from), by), _mm512_mul_ps(_mm512_loadu_ps(from + 16), by));
        }
        transpose(words);
        for (i64 c = 0; c < columns_of(f, a, set); c++) {
            half *to = f->attended + (a->row + set * a->each + c / R) * f->attended_stride + (a->group * R + c % R) * K + d;
            _mm512_mask_storeu_epi16(to, first_halves(K - d), words[c]);
        }
    }
}

static i64 attend_chunks(const Forward *f) { return f->tasks * f->model->groups / f->groups_at_once; }

/* Of scratch memory, for one thread. */
static i64 attention_bytes(i64 context) { return 2 * (MAX_HEAD * 96 + CHUNK * ROWS * 96) + parts(context, ROWS) * 8 + 256; }

static void attend_group(const Forward *f, i64 layer, Attention *a) {
    for (i64 set = 0; set < a->sets; set++) {
        load_queries(f, a, set);
        memset(a->outputs[set], 0, f->value_rows * 64);
        a->largest[set] = _mm512_set1_ps(HIDDEN);
        a->sum[set] = a->faulty[set] = _mm512_setzero_ps();
    }
    for (i64 n = 0; n < a->end - a->begin; n += CHUNK) {
        i64 count = least(CHUNK, a->end - a->begin - n);
        score(f, layer, a, n, count);
        for (i64 set = 0; set < a->sets; set++) soften(f, layer, a, set, n, count);
        mix(f, layer, a, n, count);
    }
    for (i64 set = 0; set < a->sets; set++) store_outputs(f, a, set);
}

static void attend(const Forward *f, i64 layer, i64 chunk, byte *scratch) {
    const Model *m = f->model;
    const Step *s = f->step;
    i64 chunks_each = m->groups / f->groups_at_once, each = s->block_size / ROWS;
    const Queries *q = &f->queries[chunk / chunks_each];
    Attention a = {.sequence = q->sequence, .count = q->count, .row = s->starts[q->sequence] + q->query};
    a.start = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    a.begin = m->window ? most(0, a.start - m->window + 1) / (ROWS * CHUNK) * CHUNK : 0;
    a.end = parts(a.start + q->count, ROWS);
    a.each = queries_together(m);
    a.sets = parts(q->count, a.each);
    for (i64 set = 0; set < 2; set++, scratch += MAX_HEAD * 96 + CHUNK * ROWS * 96) {
        a.columns[set] = (half *)scratch;
        a.outputs[set] = (float *)(scratch + MAX_HEAD * 32);
        a.scores[set] = (float *)(scratch + MAX_HEAD * 96);
        a.weights[set] = (half *)(a.scores[set] + CHUNK * ROWS * 16);
    }
    a.block = (i64 *)scratch;
    const i64 *table = s->tables + a.sequence * s->table_width;
    for (i64 n = a.begin; n < a.end; n++) a.block[n - a.begin] = each == 1 ? table[n] : table[n / each] * each + n % each;
    if (f->fetch_cache && each == 1 && !m->window) {
        i64 next = least(a.sequence + 1, s->sequences - 1);
        a.next = s->tables + next * s->table_width;
        a.next_blocks = parts(s->contexts[next], ROWS);
    }
    set_attention_tiles();
    for (i64 i = 0; i < f->groups_at_once; i++) {
        a.group = chunk % chunks_each * f->groups_at_once + i;
        attend_group(f, layer, &a);
    }
    set_tiles(f->job.rows);
}
