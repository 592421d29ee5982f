/* Causal grouped-query attention over packed segments on AMX matrix units, forward and backward.

Scores are computed transposed, a key a row and 32 queries a column block: the softmax over keys is then plain vector
arithmetic, and probabilities come out in the layout that the next product wants. Each root segment with its children is
one unit of work per kv head, so sums have one owner and one order. `packed_attention.py` says what is computed. */

#include "amx.h"

enum { QUERIES = 32 };

typedef struct {
    long segments, heads, groups, head, window; /* window 0: none */
    const long *start, *length, *parent;        /* rows of each segment; the segment that it continues, or -1 */
} Shape;

/* Writes `rows` rows of bfloat16 [head], `by[row]` times the columns of across[head][32]. */
static void unpack_across(const float *across, const float *by, bf16 *to, long stride, long rows, long head) {
    for (long d = 0; d < head; d += 16)
        for (long half = 0; half < 2 && half * 16 < rows; half++) {
            __m512i in[16], turned[16];
            for (long i = 0; i < 16; i++) in[i] = _mm512_loadu_si512(across + (d + i) * QUERIES + half * 16);
            transpose(in, turned);
            for (long i = 0; i < 16 && half * 16 + i < rows; i++) {
                long row = half * 16 + i;
                __m512 scaled = _mm512_mul_ps((__m512)turned[i], _mm512_set1_ps(by[row]));
                _mm256_storeu_si256((void *)(to + row * stride + d), (__m256i)_mm512_cvtneps_pbh(scaled));
            }
        }
}

/* ---- one segment's keys and values ---- */

typedef struct {
    long past, keys, padded; /* keys before the segment's own; all of them; in whole steps of 32 */
    bf16 *k, *v;             /* [padded][head] */
    bf16 *across;            /* [head][padded]: the values (forward) or the keys (backward) */
} Keys;

static long past_of(const Shape *s, long b) { return s->parent[b] < 0 ? 0 : s->length[s->parent[b]]; }

static long longest(const Shape *s) {
    long most = 0;
    for (long b = 0; b < s->segments; b++) {
        long keys = past_of(s, b) + s->length[b];
        most = keys > most ? keys : most;
    }
    return (most + 31) / 32 * 32;
}

static long row_of(const Shape *s, long b, long past, long key) {
    return key < past ? s->start[s->parent[b]] + key : s->start[b] + key - past;
}

static void gather(const Shape *s, long b, long g, const bf16 *heads, int values_across, Keys *out) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K;
    out->past = past_of(s, b);
    out->keys = out->past + s->length[b];
    out->padded = (out->keys + 31) / 32 * 32;
    for (long key = 0; key < out->padded; key++) {
        if (key >= out->keys) {
            memset(out->k + key * K, 0, K * sizeof(bf16));
            memset(out->v + key * K, 0, K * sizeof(bf16));
            continue;
        }
        const bf16 *row = heads + row_of(s, b, out->past, key) * stride + (s->heads + g) * K;
        memcpy(out->k + key * K, row, K * sizeof(bf16));
        memcpy(out->v + key * K, row + s->groups * K, K * sizeof(bf16));
    }
    const bf16 *from = values_across ? out->v : out->k;
    for (long key = 0; key < out->padded; key += 16) /* 16 x 16 of bfloat16, turned by way of words */
        for (long d = 0; d < K; d += 16) {
            __m512i in[16], turned[16];
            for (long i = 0; i < 16; i++)
                in[i] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(from + (key + i) * K + d)));
            transpose(in, turned);
            for (long i = 0; i < 16; i++)
                _mm256_storeu_si256((void *)(out->across + (d + i) * out->padded + key), _mm512_cvtepi32_epi16(turned[i]));
        }
}

/* Keys that any of the queries `first` … `first + count - 1` sees, in whole steps of 32. */
static void visible(const Shape *s, const Keys *keys, long first, long count, long *low, long *high) {
    long oldest = s->window ? keys->past + first - s->window + 1 : 0;
    *low = oldest < 0 ? 0 : oldest / 32 * 32;
    *high = (keys->past + first + count + 31) / 32 * 32;
}

/* Which of 16 queries, at `positions`, see the key. */
static inline __mmask16 seen(const Shape *s, __m512i positions, long key) {
    __mmask16 mask = _mm512_cmpge_epi32_mask(positions, _mm512_set1_epi32((int)key));
    if (s->window) mask &= _mm512_cmplt_epi32_mask(positions, _mm512_set1_epi32((int)(key + s->window)));
    return mask;
}

static __m512i positions_of(const Keys *keys, long first, long half) {
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(lanes, _mm512_set1_epi32((int)(keys->past + first + half * 16)));
}

/* rows [32][head] times across-packed columns: out[32][32]. */
static inline void product(const bf16 *rows, const uint32_t *across, long head, float *out) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long step = 0; step < head / 32; step++) {
        _tile_loadd(4, rows + step * 32, head * 2);
        _tile_loadd(5, rows + SIDE * head + step * 32, head * 2);
        _tile_loadd(6, across + (step * 2) * 256, 64);
        _tile_loadd(7, across + (step * 2 + 1) * 256, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, QUERIES * 4);
    _tile_stored(1, out + SIDE, QUERIES * 4);
    _tile_stored(2, out + SIDE * QUERIES, QUERIES * 4);
    _tile_stored(3, out + SIDE * QUERIES + SIDE, QUERIES * 4);
}

static Keys new_keys(long padded, long head) {
    size_t bytes = padded * head * sizeof(bf16);
    return (Keys){.k = scratch(bytes), .v = scratch(bytes), .across = scratch(bytes)};
}

static void free_keys(Keys *keys) {
    free(keys->k);
    free(keys->v);
    free(keys->across);
}

/* ---- forward ---- */

/* Scores of 32 queries into probabilities, not yet divided by their sum; in pairs of keys. Returns via `by` 1 / sum, and
   via `logsum` the logarithm of the sum of exponentials. */
static void softmax(const Shape *s, const Keys *keys, long first, long low, long high, float *scores, uint32_t *p,
                    float *by, float *logsum) {
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)s->head)), none = _mm512_set1_ps(-INFINITY);
    for (long half = 0; half < 2; half++) {
        __m512i at = positions_of(keys, first, half);
        __m512 most = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();
        for (long key = low; key < high; key++) {
            float *place = scores + (key - low) * QUERIES + half * 16;
            __m512 score = _mm512_mask_mul_ps(none, seen(s, at, key), _mm512_loadu_ps(place), scale);
            _mm512_storeu_ps(place, score);
            most = _mm512_max_ps(most, score);
        }
        for (long key = low; key < high; key += 2) {
            float *place = scores + (key - low) * QUERIES + half * 16;
            __m512 a = _mm512_loadu_ps(place), b = _mm512_loadu_ps(place + QUERIES);
            __mmask16 hidden_a = _mm512_cmp_ps_mask(a, none, _CMP_EQ_OQ), hidden_b = _mm512_cmp_ps_mask(b, none, _CMP_EQ_OQ);
            a = _mm512_maskz_mov_ps(~hidden_a, exponential(_mm512_sub_ps(a, most)));
            b = _mm512_maskz_mov_ps(~hidden_b, exponential(_mm512_sub_ps(b, most)));
            sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
            _mm512_storeu_si512(p + (key - low) / 2 * QUERIES + half * 16, pairs(a, b));
        }
        float sums[16], mosts[16];
        _mm512_storeu_ps(sums, sum);
        _mm512_storeu_ps(mosts, most);
        for (long i = 0; i < 16; i++) {
            by[half * 16 + i] = sums[i] > 0 ? 1.0f / sums[i] : 0.0f;
            logsum[half * 16 + i] = mosts[i] + logf(sums[i]);
        }
    }
}

static void attend_block(const Shape *s, const Keys *keys, long first, long count, const bf16 *q, bf16 *out, float *logsum,
                         uint32_t *packed, float *scores, uint32_t *p) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K, low, high;
    float by[QUERIES], logsums[QUERIES], across[256 * QUERIES];
    visible(s, keys, first, count, &low, &high);
    pack_across(q, stride, count, K, packed);
    for (long key = low; key < high; key += 32)
        product(keys->k + key * K, packed, K, scores + (key - low) * QUERIES);
    softmax(s, keys, first, low, high, scores, p, by, logsums);
    for (long d = 0; d < K; d += 32) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long key = low; key < high; key += 32) {
            const uint32_t *columns = p + (key - low) / 2 * QUERIES;
            _tile_loadd(4, keys->across + d * keys->padded + key, keys->padded * 2);
            _tile_loadd(5, keys->across + (d + SIDE) * keys->padded + key, keys->padded * 2);
            _tile_loadd(6, columns, QUERIES * 4);
            _tile_loadd(7, columns + SIDE, QUERIES * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, across + d * QUERIES, QUERIES * 4);
        _tile_stored(1, across + d * QUERIES + SIDE, QUERIES * 4);
        _tile_stored(2, across + (d + SIDE) * QUERIES, QUERIES * 4);
        _tile_stored(3, across + (d + SIDE) * QUERIES + SIDE, QUERIES * 4);
    }
    unpack_across(across, by, out, s->heads * K, count, K);
    memcpy(logsum, logsums, count * sizeof(float));
}

void attention_forward(const Shape *s, const bf16 *heads, long rows, bf16 *out, float *logsum) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K, shared = s->heads / s->groups, most = longest(s);
#pragma omp parallel
    {
        begin_tiles();
        Keys keys = new_keys(most, K);
        uint32_t *packed = scratch(QUERIES * K * 2), *p = scratch(most * QUERIES * 2);
        float *scores = scratch(most * QUERIES * 4);
#pragma omp for schedule(dynamic) collapse(2)
        for (long b = 0; b < s->segments; b++)
            for (long g = 0; g < s->groups; g++) {
                gather(s, b, g, heads, 1, &keys);
                for (long h = g * shared; h < (g + 1) * shared; h++)
                    for (long n = 0; n < s->length[b]; n += QUERIES) {
                        long row = s->start[b] + n, left = s->length[b] - n;
                        attend_block(s, &keys, n, left < QUERIES ? left : QUERIES, heads + row * stride + h * K,
                                     out + (row * s->heads + h) * K, logsum + h * rows + row, packed, scores, p);
                    }
            }
        free_keys(&keys);
        free(packed);
        free(p);
        free(scores);
        _tile_release();
    }
}

/* ---- backward (Dao et al. 2022, appendix B.2) ---- */

typedef struct {
    float *k, *v; /* gradients [padded][head] of a segment's keys and values */
} Sums;

typedef struct {
    uint32_t *q_across, *d_across, *q_pairs, *d_pairs; /* 32 queries, and the gradients of their outputs */
    float *scores, *d_scores, *dq;                     /* [32 keys][32 queries] twice; [head][32] */
    bf16 *p, *ds;                                      /* [32 keys][32 queries] */
    uint32_t *ds_pairs;                                /* [16 pairs of keys][32 queries] */
} Work;

/* out[32][head] += p[32 keys][32 queries] · (rows in pairs) */
static inline void add_product(const bf16 *p, const uint32_t *in_pairs, long head, float *out) {
    _tile_loadd(4, p, QUERIES * 2);
    _tile_loadd(5, p + SIDE * QUERIES, QUERIES * 2);
    for (long d = 0; d < head; d += 32) {
        _tile_loadd(0, out + d, head * 4);
        _tile_loadd(1, out + d + SIDE, head * 4);
        _tile_loadd(2, out + SIDE * head + d, head * 4);
        _tile_loadd(3, out + SIDE * head + d + SIDE, head * 4);
        _tile_loadd(6, in_pairs + d, head * 4);
        _tile_loadd(7, in_pairs + d + SIDE, head * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_stored(0, out + d, head * 4);
        _tile_stored(1, out + d + SIDE, head * 4);
        _tile_stored(2, out + SIDE * head + d, head * 4);
        _tile_stored(3, out + SIDE * head + d + SIDE, head * 4);
    }
}

/* dq[head][32] += keys across [head][32 keys] · ds */
static inline void add_queries(const Keys *keys, long key, long head, const uint32_t *ds_pairs, float *dq) {
    _tile_loadd(6, ds_pairs, QUERIES * 4);
    _tile_loadd(7, ds_pairs + SIDE, QUERIES * 4);
    for (long d = 0; d < head; d += 32) {
        float *place = dq + d * QUERIES;
        _tile_loadd(0, place, QUERIES * 4);
        _tile_loadd(1, place + SIDE, QUERIES * 4);
        _tile_loadd(2, place + SIDE * QUERIES, QUERIES * 4);
        _tile_loadd(3, place + SIDE * QUERIES + SIDE, QUERIES * 4);
        _tile_loadd(4, keys->across + d * keys->padded + key, keys->padded * 2);
        _tile_loadd(5, keys->across + (d + SIDE) * keys->padded + key, keys->padded * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_stored(0, place, QUERIES * 4);
        _tile_stored(1, place + SIDE, QUERIES * 4);
        _tile_stored(2, place + SIDE * QUERIES, QUERIES * 4);
        _tile_stored(3, place + SIDE * QUERIES + SIDE, QUERIES * 4);
    }
}

/* p = exp(scores - logsum) and ds = p (d_scores - rows), for 32 keys and 32 queries. */
static void differentiate(const Shape *s, const Keys *keys, long first, long key, const float *logsum, const float *rows,
                          Work *w) {
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)s->head));
    for (long i = 0; i < 32; i += 2) {
        __m512 p[2][2], ds[2][2];
        for (long j = 0; j < 2; j++)
            for (long half = 0; half < 2; half++) {
                long place = (i + j) * QUERIES + half * 16;
                __m512 score = _mm512_fmsub_ps(_mm512_loadu_ps(w->scores + place), scale, _mm512_loadu_ps(logsum + half * 16));
                __mmask16 mask = seen(s, positions_of(keys, first, half), key + i + j);
                p[j][half] = _mm512_maskz_mov_ps(mask, exponential(score));
                __m512 d = _mm512_sub_ps(_mm512_loadu_ps(w->d_scores + place), _mm512_loadu_ps(rows + half * 16));
                ds[j][half] = _mm512_mul_ps(p[j][half], d);
            }
        for (long j = 0; j < 2; j++) {
            _mm512_storeu_si512(w->p + (i + j) * QUERIES, (__m512i)_mm512_cvtne2ps_pbh(p[j][1], p[j][0]));
            _mm512_storeu_si512(w->ds + (i + j) * QUERIES, (__m512i)_mm512_cvtne2ps_pbh(ds[j][1], ds[j][0]));
        }
        for (long half = 0; half < 2; half++)
            _mm512_storeu_si512(w->ds_pairs + i / 2 * QUERIES + half * 16, pairs(ds[0][half], ds[1][half]));
    }
}

static float dot(const bf16 *a, const bf16 *b, long length) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < length; i += 32)
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a + i), (__m512bh)_mm512_loadu_si512(b + i));
    return _mm512_reduce_add_ps(sum);
}

static void block_backward(const Shape *s, const Keys *keys, long first, long count, const bf16 *q, const bf16 *out,
                           const bf16 *d_out, const float *logsum, bf16 *d_q, Sums sums, Work *w) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K, low, high;
    float logsums[QUERIES], rows[QUERIES], by[QUERIES];
    for (long n = 0; n < QUERIES; n++) { /* a missing query's probabilities are exp(-inf) */
        logsums[n] = n < count ? logsum[n] : INFINITY;
        rows[n] = n < count ? dot(out + n * s->heads * K, d_out + n * s->heads * K, K) : 0.0f;
        by[n] = 1.0f / sqrtf((float)K);
    }
    visible(s, keys, first, count, &low, &high);
    pack_across(q, stride, count, K, w->q_across);
    pack_pairs(q, stride, count, K, w->q_pairs);
    pack_across(d_out, s->heads * K, count, K, w->d_across);
    pack_pairs(d_out, s->heads * K, count, K, w->d_pairs);
    memset(w->dq, 0, QUERIES * K * sizeof(float));
    for (long key = low; key < high; key += 32) {
        product(keys->k + key * K, w->q_across, K, w->scores);
        product(keys->v + key * K, w->d_across, K, w->d_scores);
        differentiate(s, keys, first, key, logsums, rows, w);
        add_product(w->p, w->d_pairs, K, sums.v + key * K);
        add_product(w->ds, w->q_pairs, K, sums.k + key * K);
        add_queries(keys, key, K, w->ds_pairs, w->dq);
    }
    unpack_across(w->dq, by, d_q, stride, count, K);
}

/* Rows `from` … of the sums, `by` times, as bfloat16 rows of the heads' gradient. */
static void write_rows(const float *sums, float by, bf16 *to, long stride, long rows, long head) {
    for (long n = 0; n < rows; n++)
        for (long d = 0; d < head; d += 16) {
            __m512 value = _mm512_mul_ps(_mm512_loadu_ps(sums + n * head + d), _mm512_set1_ps(by));
            _mm256_storeu_si256((void *)(to + n * stride + d), (__m256i)_mm512_cvtneps_pbh(value));
        }
}

static void segment_backward(const Shape *s, long b, long g, const bf16 *heads, long rows, const bf16 *out,
                             const bf16 *d_out, const float *logsum, bf16 *d_heads, Keys *keys, Sums own, Sums root,
                             Work *w) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K, shared = s->heads / s->groups, length = s->length[b];
    gather(s, b, g, heads, 0, keys);
    memset(own.k, 0, keys->padded * K * sizeof(float));
    memset(own.v, 0, keys->padded * K * sizeof(float));
    for (long h = g * shared; h < (g + 1) * shared; h++)
        for (long n = 0; n < length; n += QUERIES) {
            long row = s->start[b] + n, place = (row * s->heads + h) * K;
            block_backward(s, keys, n, length - n < QUERIES ? length - n : QUERIES, heads + row * stride + h * K, out + place,
                           d_out + place, logsum + h * rows + row, d_heads + row * stride + h * K, own, w);
        }
    for (long i = 0; i < keys->past * K; i++) root.k[i] += own.k[i], root.v[i] += own.v[i];
    if (s->parent[b] < 0) return; /* the caller writes a root, when its children have added to it */
    bf16 *to = d_heads + s->start[b] * stride + (s->heads + g) * K;
    write_rows(own.k + keys->past * K, 1.0f / sqrtf((float)K), to, stride, length, K);
    write_rows(own.v + keys->past * K, 1.0f, to + s->groups * K, stride, length, K);
}

void attention_backward(const Shape *s, const bf16 *heads, long rows, const bf16 *out, const float *logsum,
                        const bf16 *d_out, bf16 *d_heads) {
    long K = s->head, stride = (s->heads + 2 * s->groups) * K, most = longest(s);
    size_t sums = most * K * sizeof(float), block = QUERIES * K * 2;
#pragma omp parallel
    {
        begin_tiles();
        Keys keys = new_keys(most, K);
        Sums own = {scratch(sums), scratch(sums)}, root = {scratch(sums), scratch(sums)};
        Work w = {scratch(block), scratch(block), scratch(block), scratch(block), scratch(4096), scratch(4096),
                  scratch(2 * block), scratch(2048), scratch(2048), scratch(2048)};
#pragma omp for schedule(dynamic) collapse(2)
        for (long b = 0; b < s->segments; b++)
            for (long g = 0; g < s->groups; g++) {
                if (s->parent[b] >= 0) continue;
                segment_backward(s, b, g, heads, rows, out, d_out, logsum, d_heads, &keys, root, root, &w);
                for (long child = b + 1; child < s->segments; child++)
                    if (s->parent[child] == b)
                        segment_backward(s, child, g, heads, rows, out, d_out, logsum, d_heads, &keys, own, root, &w);
                bf16 *to = d_heads + s->start[b] * stride + (s->heads + g) * K;
                write_rows(root.k, 1.0f / sqrtf((float)K), to, stride, s->length[b], K);
                write_rows(root.v, 1.0f, to + s->groups * K, stride, s->length[b], K);
            }
        free_keys(&keys);
        void *mine[] = {own.k,      own.v,     root.k,   root.v,     w.q_across, w.d_across, w.q_pairs,
                        w.d_pairs, w.scores, w.d_scores, w.dq,       w.p,        w.ds,       w.ds_pairs};
        for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) free(mine[i]);
        _tile_release();
    }
}
