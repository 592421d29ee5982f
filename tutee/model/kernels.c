/* The decoder's forward pass and its head on one machine's matrix units (AMX tiles, AVX-512), for tokens whose keys and
values live in a paged cache.

One call computes all layers, so nothing but this file runs between a step's first and last instruction. Every sum runs
in an order that depends on its own row alone: a row's numbers never depend on the other rows, on how a prompt was cut
into pieces, nor on the number of threads. `kernels.py` packs the weights and fills the structures below.

Axes: T tokens (rows), D hidden, H query heads, G groups (kv heads), K head width, F inner width, V vocabulary.
bfloat16 is `half` here. A tile is 16 rows of 64 bytes. */

#include <immintrin.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef int64_t i64;
typedef uint16_t half;
typedef uint8_t byte;

enum { TILE = 1024, STEP = 2 * TILE, ROWS = 16, LANE = 64, MAX_HEAD = 256 };

static inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
static inline i64 parts(i64 n, i64 size) { return (n + size - 1) / size; }

/* ---- The team: threads that share the chunks of a job's phases ------------------------------------------------------

A job is phases in order; a phase is chunks in any order. There is no barrier that every thread must reach: a phase is
over when its chunks are done, so a helper that sleeps, or waits for a core that other programs use, delays nobody
unless it holds a chunk. A counter carries its job's number, so a helper that comes late to a finished job takes
nothing from the next one. */

typedef struct Job Job;
struct Job {
    i64 phases;
    i64 (*chunks)(Job *, i64 phase);
    void (*run)(Job *, i64 phase, i64 chunk, i64 worker);
};

typedef struct {
    _Atomic uint64_t left; /* number of the job << 32 | chunks not yet taken */
    _Atomic uint32_t done, total;
    char alone_on_its_cache_line[48];
} Phase;

enum { MAX_PHASES = 4096, MAX_THREADS = 64, PATIENCE = 2000, IDLE_PATIENCE = 1000 };

static struct {
    pthread_mutex_t lock;
    _Atomic uint32_t number;
    _Atomic int32_t sleepers, wanted;
    i64 helpers;
    Job *job;
    _Atomic i64 phases;
    Phase phase[MAX_PHASES] __attribute__((aligned(64)));
} team = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Chunks not taken yet, this one included; 0: none are left; -1: another job has begun. */
static i64 take(Phase *phase, uint32_t number) {
    uint64_t left = atomic_load(&phase->left);
    do {
        if (left >> 32 != number) return -1;
        if (!(uint32_t)left) return 0;
    } while (!atomic_compare_exchange_weak(&phase->left, &left, left - 1));
    return (uint32_t)left;
}

static void set_tiles(int key_bytes, int pairs);

static void take_part(uint32_t number, i64 worker) {
    set_tiles(64, 16);
    i64 phases = atomic_load(&team.phases);
    for (i64 p = 0; p < phases; p++) {
        Phase *phase = &team.phase[p];
        for (i64 left; (left = take(phase, number)) != 0;) {
            if (left < 0) goto end;
            team.job->run(team.job, p, phase->total - left, worker);
            atomic_fetch_add(&phase->done, 1);
        }
        for (int waited = 0; atomic_load(&phase->done) < atomic_load(&phase->total); waited++) {
            if (atomic_load(&team.number) != number) goto end;
            if (waited < PATIENCE) _mm_pause(); else sched_yield();
        }
    }
end:
    _tile_release();
}

static void *helper(void *id) {
    uint32_t seen = 0;
    for (int waited = 0;; waited++) {
        uint32_t number = atomic_load(&team.number);
        if (number != seen) {
            seen = number;
            waited = 0;
            if ((i64)id < atomic_load(&team.wanted)) take_part(number, (i64)id);
        } else if (waited < IDLE_PATIENCE) {
            _mm_pause();
        } else {
            atomic_fetch_add(&team.sleepers, 1);
            syscall(SYS_futex, &team.number, FUTEX_WAIT_PRIVATE, seen, NULL);
            atomic_fetch_sub(&team.sleepers, 1);
            waited = 0;
        }
    }
    return NULL;
}

static void after_fork(void) { /* threads do not survive it */
    team.helpers = 0;
    pthread_mutex_init(&team.lock, NULL);
}

static void hire(i64 threads) {
    static _Atomic int told;
    if (!atomic_exchange(&told, 1)) pthread_atfork(NULL, NULL, after_fork);
    for (; team.helpers + 1 < threads; team.helpers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper, (void *)(team.helpers + 1))) return;
        pthread_detach(thread);
    }
}

static void run_alone(Job *job) {
    set_tiles(64, 16);
    for (i64 p = 0; p < job->phases; p++)
        for (i64 i = 0, count = job->chunks(job, p); i < count; i++) job->run(job, p, i, 0);
    _tile_release();
}

/* A second caller while the team is busy does its work alone. */
static void run(Job *job, i64 threads) {
    threads = least(threads, MAX_THREADS);
    if (threads <= 1 || job->phases > MAX_PHASES || pthread_mutex_trylock(&team.lock)) {
        run_alone(job);
        return;
    }
    hire(threads);
    uint32_t number = atomic_load(&team.number) + 1;
    team.job = job;
    atomic_store(&team.phases, job->phases);
    atomic_store(&team.wanted, threads);
    for (i64 p = 0; p < job->phases; p++) {
        uint32_t count = job->chunks(job, p);
        atomic_store(&team.phase[p].done, 0);
        atomic_store(&team.phase[p].total, count);
        atomic_store(&team.phase[p].left, (uint64_t)number << 32 | count);
    }
    atomic_store(&team.number, number);
    if (atomic_load(&team.sleepers)) syscall(SYS_futex, &team.number, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
    take_part(number, 0);
    pthread_mutex_unlock(&team.lock);
}

/* ---- Numbers -------------------------------------------------------------------------------------------------------- */

static inline float wide(half x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static inline half narrow(float x) { /* to the nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline void store_half(half *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline __mmask16 first(i64 n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

/* 2^x; relative error below 2e-7; 0 below -150. NaN stays NaN. */
static inline __m512 exp2_of(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n), p = _mm512_set1_ps(1.54035304e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#define LOG2_E 1.44269504f

static inline __m512 silu(__m512 x) {
    __m512 e = exp2_of(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
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

/* ---- Packed weights, and products with them -------------------------------------------------------------------------

A matrix [O, I] is kept as pairs of tiles: 32 outputs by 32 inputs, two inputs of one output side by side as the matrix
unit wants them; along the inputs first, so that a product reads memory in one straight line. */

typedef struct {
    const byte *tiles;
    const float *bias; /* in the order of the packed outputs, or NULL */
    i64 pairs, steps;  /* of 32 outputs; of 32 inputs */
} Matrix;

/* Memory on large pages, zeroed; never given back but by `release`. */
void *reserve(i64 bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

void release(void *memory, i64 bytes) { munmap(memory, bytes); }

/* Rows of `from` [rows, width] become output tiles first_tile, first_tile + stride, …; every `group` rows begin a new
tile, and take `group_tiles` of them. */
void pack(byte *tiles, i64 steps, i64 first_tile, i64 stride, const half *from, i64 rows, i64 width, i64 group,
          i64 group_tiles) {
    for (i64 t = 0; t < rows / group * group_tiles; t++) {
        i64 tile = first_tile + t * stride, row = t % group_tiles * ROWS, count = least(ROWS, group - row);
        const half *source = from + (t / group_tiles * group + row) * width;
        for (i64 k = 0; k < steps; k++) {
            half *to = (half *)(tiles + (tile / 2 * steps + k) * STEP + tile % 2 * TILE);
            memset(to, 0, TILE);
            for (i64 n = 0; n < count; n++)
                for (i64 i = k * 32; i < least(k * 32 + 32, width); i++)
                    to[(i % 32 / 2 * ROWS + n) * 2 + i % 2] = source[n * width + i];
        }
    }
}

/* A row of `key_bytes` in tiles 4 and 5, `pairs` rows in 6 and 7; all else is full. */
static void set_tiles(int key_bytes, int pairs) {
    struct { byte palette, start, reserved[14]; uint16_t bytes[16]; byte rows[16]; } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = i == 4 || i == 5 ? key_bytes : 64;
        shape.rows[i] = i >= 6 ? pairs : 16;
    }
    _tile_loadconfig(&shape);
}

enum { AHEAD = 4 * STEP };

/* Adds rows a0 (tiles 0, 1) and a1 (tiles 2, 3) times one pair of output tiles. */
static inline __attribute__((always_inline)) void multiply(const int both, const int fetch, const byte *a0, const byte *a1,
                                                           i64 stride, const byte *w, i64 steps) {
    for (i64 k = 0; k < steps; k++, w += STEP) {
        if (fetch)
            for (int line = 0; line < STEP; line += LANE) _mm_prefetch(w + AHEAD + line, _MM_HINT_T0);
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

/* The same for the second rows alone: what an adapter adds to them. */
static void multiply_second(const byte *a1, i64 stride, const byte *w, i64 steps) {
    for (i64 k = 0; k < steps; k++, w += STEP) {
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + TILE, 64);
        _tile_loadd(5, a1 + k * LANE, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* ---- What a step is -------------------------------------------------------------------------------------------------- */

typedef struct { Matrix a, b; } Adapter; /* of one matrix; no tiles: it has none */
enum { QKV, OUT, GLU, DOWN, MATRICES };

typedef struct {
    Matrix matrix[MATRICES];
    const float *norm_in, *norm_mid, *q_norm, *k_norm; /* the last two may be NULL */
} Layer;

typedef struct {
    i64 layers, width, heads, groups, head, inner, window; /* window 0: all */
    double eps;
    const float *embedding, *cos, *sin, *norm;
    const Layer *layer;
} Model;

typedef struct {
    i64 begin, end;         /* rows */
    const Adapter *adapter; /* [layers][MATRICES], or NULL: the base alone */
} Span;

typedef struct {
    i64 tokens, sequences, spans, table_width, block_size, threads;
    const i64 *ids, *positions, *slots; /* [T] */
    const i64 *starts, *contexts;       /* [B + 1], [B] */
    const i64 *tables;                  /* [B, table_width] */
    const Span *span;                   /* in order; together all rows */
    half *const *keys, *const *values;  /* of each layer: [blocks of 16][G][16][K to 32], [blocks of 16][G][K to 16][16] */
    float *hidden;                      /* out: [T, D] */
    byte *finite;                       /* out: [T] */
    byte *workspace;                    /* zeros when new, for the capacities below */
    i64 cap_tokens, cap_rank, cap_context, cap_threads;
} Step;

typedef struct { i64 row, count, span; } RowTile;      /* up to 16 rows of one span */
typedef struct { i64 sequence, query, count; } Queries; /* neighbours of one sequence, attended together */

typedef struct {
    Job job;
    const Model *model;
    const Step *step;
    i64 padded_head, value_rows; /* K to 32, to 16 */
    float *x;                    /* [T, x_stride]: the residual stream */
    half *normed, *q, *attended, *inner, *low;
    i64 x_stride, normed_stride, q_stride, attended_stride, inner_stride, low_stride; /* in numbers */
    RowTile *tile;
    Queries *queries;
    i64 tiles, tasks;
    byte *scratch; /* [threads][scratch_bytes] */
    i64 scratch_bytes;
} Forward;

/* Strides of a multiple of 1 KB would put a tile's rows into few of the cache's sets. */
static i64 stride_of(i64 numbers) {
    i64 stride = parts(numbers, 32) * 32;
    return stride % 512 ? stride : stride + 32;
}

static void *carve(byte **from, i64 bytes) {
    byte *out = *from;
    *from += parts(bytes, 4096) * 4096;
    return out;
}

/* Where everything lies in the workspace; returns its size. */
static i64 lay_out(Forward *f, const Model *m, const Step *s) {
    i64 rows = s->cap_tokens + ROWS; /* a tile is read whole */
    byte *at = s->workspace;
    f->model = m;
    f->step = s;
    f->padded_head = parts(m->head, 32) * 32;
    f->value_rows = parts(m->head, 16) * 16;
    f->x_stride = parts(m->width, 32) * 32;
    f->normed_stride = stride_of(m->width);
    f->q_stride = m->heads * f->padded_head;
    f->attended_stride = stride_of(m->heads * m->head);
    f->inner_stride = stride_of(m->inner);
    f->low_stride = stride_of(s->cap_rank);
    f->x = carve(&at, rows * f->x_stride * 4);
    f->normed = carve(&at, rows * f->normed_stride * 2);
    f->q = carve(&at, rows * f->q_stride * 2);
    f->attended = carve(&at, rows * f->attended_stride * 2);
    f->inner = carve(&at, rows * f->inner_stride * 2);
    f->low = carve(&at, rows * f->low_stride * 2);
    f->tile = carve(&at, s->cap_tokens * sizeof(RowTile));
    f->queries = carve(&at, s->cap_tokens * sizeof(Queries));
    f->scratch_bytes = 32 * MAX_HEAD * 4 + MAX_HEAD * 32 + MAX_HEAD * 64 + (s->cap_context + 32) * (64 + 32) + 4096;
    f->scratch_bytes = parts(f->scratch_bytes, 4096) * 4096 + 4096;
    f->scratch = carve(&at, s->cap_threads * f->scratch_bytes);
    return at - s->workspace;
}

i64 workspace_bytes(const Model *m, const Step *s) {
    Forward f;
    return lay_out(&f, m, s);
}

static const Adapter *adapter_of(const Forward *f, i64 tile, i64 layer, int which) {
    const Adapter *adapter = f->step->span[f->tile[tile].span].adapter;
    if (!adapter) return NULL;
    adapter += layer * MATRICES + which;
    return adapter->a.tiles ? adapter : NULL;
}

/* ---- Products of the rows with one matrix ---------------------------------------------------------------------------- */

/* `c` [32, 32 * pairs] gets rows of tiles t (and t + 1, if both) times output pairs from … of a matrix, with adapters. */
static void product(const Forward *f, const Matrix *w, i64 layer, int which, const half *a, i64 stride, i64 t, int both,
                    int fetch, i64 from, i64 pairs, float *c) {
    const byte *a0 = (const byte *)(a + f->tile[t].row * stride), *a1 = a0;
    const half *low0 = f->low + f->tile[t].row * f->low_stride, *low1 = low0;
    const Adapter *add0 = adapter_of(f, t, layer, which), *add1 = NULL;
    if (both) {
        a1 = (const byte *)(a + f->tile[t + 1].row * stride);
        low1 = f->low + f->tile[t + 1].row * f->low_stride;
        add1 = adapter_of(f, t + 1, layer, which);
    }
    i64 bytes = 2 * stride, low_bytes = 2 * f->low_stride, c_bytes = pairs * 128;
    for (i64 p = 0; p < pairs; p++, c += 32) {
        const byte *tiles = w->tiles + (from + p) * w->steps * STEP;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        if (both && fetch) multiply(1, 1, a0, a1, bytes, tiles, w->steps);
        else if (both) multiply(1, 0, a0, a1, bytes, tiles, w->steps);
        else if (fetch) multiply(0, 1, a0, a0, bytes, tiles, w->steps);
        else multiply(0, 0, a0, a0, bytes, tiles, w->steps);
        if (add0) {
            const Matrix *b = &add0->b;
            multiply(0, 0, (const byte *)low0, NULL, low_bytes, b->tiles + (from + p) * b->steps * STEP, b->steps);
        }
        if (add1) {
            const Matrix *b = &add1->b;
            multiply_second((const byte *)low1, low_bytes, b->tiles + (from + p) * b->steps * STEP, b->steps);
        }
        _tile_stored(0, c, c_bytes);
        _tile_stored(1, c + 16, c_bytes);
        if (both) {
            _tile_stored(2, c + 4 * c_bytes, c_bytes);
            _tile_stored(3, c + 4 * c_bytes + 16, c_bytes);
        }
    }
}

/* The adapter's first half for one tile of rows: low = a A^T. */
static void lower(const Forward *f, i64 layer, int which, const half *a, i64 stride, i64 t, float *c) {
    const Adapter *adapter = adapter_of(f, t, layer, which);
    if (!adapter) return;
    const RowTile *tile = &f->tile[t];
    for (i64 p = 0; p < adapter->a.pairs; p++) {
        _tile_zero(0);
        _tile_zero(1);
        multiply(0, 0, (const byte *)(a + tile->row * stride), NULL, 2 * stride,
                 adapter->a.tiles + p * adapter->a.steps * STEP, adapter->a.steps);
        _tile_stored(0, c, 128);
        _tile_stored(1, c + 16, 128);
        for (i64 r = 0; r < tile->count; r++) {
            half *to = f->low + (tile->row + r) * f->low_stride + p * 32;
            store_half(to, _mm512_loadu_ps(c + r * 32));
            store_half(to + 16, _mm512_loadu_ps(c + r * 32 + 16));
        }
    }
}

static void add_to_residual(const Forward *f, const Matrix *w, i64 row, i64 from, i64 pairs, const float *c) {
    float *x = f->x + row * f->x_stride + from * 32;
    for (i64 d = 0; d < pairs * 32; d += 16) {
        __m512 v = _mm512_add_ps(_mm512_loadu_ps(x + d), _mm512_loadu_ps(c + d));
        if (w->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(w->bias + from * 32 + d));
        _mm512_storeu_ps(x + d, v);
    }
}

static void gate(const Forward *f, i64 row, i64 from, i64 pairs, const float *c) {
    half *to = f->inner + row * f->inner_stride + from * 16;
    for (i64 p = 0; p < pairs; p++)
        store_half(to + p * 16, _mm512_mul_ps(silu(_mm512_loadu_ps(c + p * 32)), _mm512_loadu_ps(c + p * 32 + 16)));
}

/* One head of one row: bias, norm, turn; a query to its buffer, a key or a value to its slot. */
static void place_head(const Forward *f, i64 layer, i64 row, i64 head, float *c) {
    const Model *m = f->model;
    const Step *s = f->step;
    const Layer *l = &m->layer[layer];
    i64 K = m->head, H = m->heads, G = m->groups, middle = K / 2;
    const float *bias = l->matrix[QKV].bias;
    if (bias)
        for (i64 d = 0; d < K; d++) c[d] += bias[head * f->padded_head + d];
    const float *norm = head < H ? l->q_norm : head < H + G ? l->k_norm : NULL;
    if (norm) {
        float by = inverse_rms(c, K, m->eps);
        for (i64 d = 0; d < K; d++) c[d] *= by * norm[d];
    }
    if (head < H + G) {
        const float *cos = m->cos + s->positions[row] * middle, *sin = m->sin + s->positions[row] * middle;
        for (i64 d = 0; d < middle; d++) {
            float a = c[d], b = c[middle + d];
            c[d] = a * cos[d] - b * sin[d];
            c[middle + d] = b * cos[d] + a * sin[d];
        }
    }
    i64 block = s->slots[row] / ROWS, offset = s->slots[row] % ROWS;
    if (head < H + G) {
        half *to = head < H ? f->q + row * f->q_stride + head * f->padded_head
                            : s->keys[layer] + ((block * G + head - H) * ROWS + offset) * f->padded_head;
        for (i64 d = 0; d < K; d++) to[d] = narrow(c[d]);
    } else {
        half *to = s->values[layer] + (block * G + head - H - G) * f->value_rows * ROWS + offset;
        for (i64 d = 0; d < K; d++) to[d * ROWS] = narrow(c[d]);
    }
}

enum { TILES_PER_CHUNK = 16 }; /* of rows: 256 rows of activations stay in the second cache */

static i64 pairs_per_chunk(const Forward *f, int which) { return which == QKV ? f->padded_head / 32 : 1; }

static i64 product_chunks(const Forward *f, int which) {
    return f->model->layer[0].matrix[which].pairs / pairs_per_chunk(f, which) * parts(f->tiles, TILES_PER_CHUNK);
}

static void product_chunk(const Forward *f, i64 layer, int which, i64 chunk, float *c) {
    const Matrix *w = &f->model->layer[layer].matrix[which];
    i64 pairs = pairs_per_chunk(f, which), columns = w->pairs / pairs, from = chunk % columns * pairs;
    i64 begin = chunk / columns * TILES_PER_CHUNK, end = least(begin + TILES_PER_CHUNK, f->tiles);
    const half *a = which == OUT ? f->attended : which == DOWN ? f->inner : f->normed;
    i64 stride = which == OUT ? f->attended_stride : which == DOWN ? f->inner_stride : f->normed_stride;
    for (i64 t = begin; t < end; t += 2) {
        int both = t + 1 < end;
        product(f, w, layer, which, a, stride, t, both, t == begin, from, pairs, c);
        for (i64 u = t; u < t + 1 + both; u++)
            for (i64 r = 0; r < f->tile[u].count; r++) {
                i64 row = f->tile[u].row + r;
                float *result = c + ((u - t) * ROWS + r) * pairs * 32;
                if (which == QKV) place_head(f, layer, row, from / pairs, result);
                else if (which == GLU) gate(f, row, from, pairs, result);
                else add_to_residual(f, w, row, from, pairs, result);
            }
    }
}

/* ---- Attention over the paged cache ----------------------------------------------------------------------------------

For some neighbouring queries of one sequence and the R query heads of one group: up to 16 columns. Scores are made as
keys times queries (keys lie in the cache as rows, so the matrix unit reads them in place), [16 keys, 16 columns] a
block; softmax runs down the columns; values lie in the cache turned, [K, 16 keys] a block, so that values times weights
gives outputs [K, columns]. The maximum is known before the first exponential, so nothing is rescaled. */

typedef struct {
    half *columns;  /* queries: [K / 32][16 pairs][16 columns][2] */
    float *scores;  /* [keys][16 columns] */
    half *weights;  /* [keys / 2][16 columns][2] */
    float *outputs; /* [K to 16][16 columns] */
} AttentionScratch;

static void load_queries(const Forward *f, const Queries *q, i64 group, half *columns) {
    i64 R = f->model->heads / f->model->groups, steps = f->padded_head / 32;
    i64 row = f->step->starts[q->sequence] + q->query;
    memset(columns, 0, steps * TILE);
    for (i64 i = 0; i < q->count; i++)
        for (i64 r = 0; r < R; r++) {
            const uint32_t *from = (const uint32_t *)(f->q + (row + i) * f->q_stride + (group * R + r) * f->padded_head);
            uint32_t *to = (uint32_t *)columns + i * R + r;
            for (i64 pair = 0; pair < steps * 16; pair++) to[pair * 16] = from[pair];
        }
}

static inline i64 small_block(const Step *s, i64 sequence, i64 n) { /* the n-th 16 keys of a sequence */
    i64 each = s->block_size / ROWS;
    return s->tables[sequence * s->table_width + n / each] * each + n % each;
}

static inline void fetch(const void *from, i64 bytes) {
    for (i64 line = 0; line < bytes; line += LANE) _mm_prefetch((const byte *)from + line, _MM_HINT_T0);
}

static void score(const Forward *f, i64 layer, i64 sequence, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 size = ROWS * f->padded_head, steps = f->padded_head / 32;
    const half *keys = s->keys[layer] + group * size;
    for (i64 n = begin; n < end; n++) {
        const byte *block = (const byte *)(keys + small_block(s, sequence, n) * f->model->groups * size);
        if (n + 3 < end) fetch(keys + small_block(s, sequence, n + 3) * f->model->groups * size, 2 * size);
        _tile_zero(0);
        for (i64 k = 0; k < steps; k++) {
            _tile_loadd(4, block + k * LANE, 2 * f->padded_head);
            _tile_loadd(6, at->columns + k * TILE / 2, 64);
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, at->scores + (n - begin) * 256, 64);
    }
}

/* Scores to unnormalised weights; returns one over their sum, for each column. */
static __m512 soften(const Forward *f, i64 layer, const Queries *q, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 R = f->model->heads / f->model->groups, window = f->model->window, value_size = f->value_rows * ROWS;
    i64 start = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    int32_t position[16];
    for (i64 c = 0; c < 16; c++) position[c] = start + least(c / R, q->count - 1);
    __m512i newest = _mm512_loadu_si512(position);
    __m512i oldest = window ? _mm512_sub_epi32(newest, _mm512_set1_epi32(window - 1)) : _mm512_setzero_si512();
    __m512 best = _mm512_set1_ps(-INFINITY), by = _mm512_set1_ps(LOG2_E / sqrtf((float)f->model->head));
    for (i64 key = begin * ROWS; key < end * ROWS; key++) {
        float *row = at->scores + (key - begin * ROWS) * 16;
        __m512 score = _mm512_loadu_ps(row);
        if (key > start || (window && key <= start + q->count - window)) {
            __m512i here = _mm512_set1_epi32(key);
            __mmask16 seen = _mm512_cmple_epi32_mask(here, newest) & _mm512_cmpge_epi32_mask(here, oldest);
            score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, score);
            _mm512_storeu_ps(row, score);
        }
        best = _mm512_max_ps(best, score);
    }
    __m512 shift = _mm512_mul_ps(best, by), sum = _mm512_setzero_ps();
    for (i64 n = begin; n < end; n++) {
        fetch(s->values[layer] + (small_block(s, q->sequence, n) * f->model->groups + group) * value_size, 2 * value_size);
        for (i64 key = (n - begin) * ROWS; key < (n - begin + 1) * ROWS; key += 2) {
            __m512 a = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(at->scores + key * 16), by, shift));
            __m512 b = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(at->scores + key * 16 + 16), by, shift));
            sum = _mm512_add_ps(_mm512_add_ps(sum, a), b);
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
            _mm512_storeu_si512(at->weights + key * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    return _mm512_div_ps(_mm512_set1_ps(1.0f), sum);
}

static void mix(const Forward *f, i64 layer, i64 sequence, i64 group, i64 begin, i64 end, AttentionScratch *at) {
    const Step *s = f->step;
    i64 size = f->value_rows * ROWS;
    const half *values = s->values[layer] + group * size;
    for (i64 d = 0; d < f->value_rows; d += 4 * ROWS) {
        i64 tiles = least(4, (f->value_rows - d) / ROWS);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (i64 n = begin; n < end; n++) {
            const half *block = values + small_block(s, sequence, n) * f->model->groups * size + d * ROWS;
            _tile_loadd(6, at->weights + (n - begin) * 256, 64);
            _tile_loadd(4, block, 32);
            _tile_dpbf16ps(0, 4, 6);
            if (tiles > 1) {
                _tile_loadd(5, block + 256, 32);
                _tile_dpbf16ps(1, 5, 6);
            }
            if (tiles > 2) {
                _tile_loadd(4, block + 512, 32);
                _tile_dpbf16ps(2, 4, 6);
            }
            if (tiles > 3) {
                _tile_loadd(5, block + 768, 32);
                _tile_dpbf16ps(3, 5, 6);
            }
        }
        float *to = at->outputs + d * 16;
        _tile_stored(0, to, 64);
        if (tiles > 1) _tile_stored(1, to + 256, 64);
        if (tiles > 2) _tile_stored(2, to + 512, 64);
        if (tiles > 3) _tile_stored(3, to + 768, 64);
    }
}

static void attend(const Forward *f, i64 layer, i64 chunk, byte *scratch) {
    const Model *m = f->model;
    const Step *s = f->step;
    const Queries *q = &f->queries[chunk / m->groups];
    i64 group = chunk % m->groups, R = m->heads / m->groups, K = m->head;
    i64 first_query = s->contexts[q->sequence] - (s->starts[q->sequence + 1] - s->starts[q->sequence]) + q->query;
    i64 begin = m->window ? most(0, first_query - m->window + 1) / ROWS : 0;
    i64 end = parts(first_query + q->count, ROWS);
    AttentionScratch at;
    at.columns = (half *)scratch;
    at.outputs = (float *)(scratch + MAX_HEAD * 32);
    at.scores = (float *)(scratch + MAX_HEAD * 96);
    at.weights = (half *)(at.scores + (end - begin) * 256);
    load_queries(f, q, group, at.columns);
    score(f, layer, q->sequence, group, begin, end, &at);
    float by[16];
    _mm512_storeu_ps(by, soften(f, layer, q, group, begin, end, &at));
    set_tiles(32, 8);
    mix(f, layer, q->sequence, group, begin, end, &at);
    set_tiles(64, 16);
    for (i64 c = 0; c < q->count * R; c++) {
        i64 row = s->starts[q->sequence] + q->query + c / R;
        half *to = f->attended + row * f->attended_stride + (group * R + c % R) * K;
        for (i64 d = 0; d < K; d++) to[d] = narrow(at.outputs[d * 16 + c] * by[c]);
    }
}

/* ---- The forward pass ------------------------------------------------------------------------------------------------ */

enum { NORM_IN, HEADS, ATTEND, LOWER_OUT, ADD_OUT, NORM_MID, INNER, LOWER_DOWN, ADD_DOWN, PHASES };

static void norm_tile(const Forward *f, i64 layer, int which, i64 t, float *c) {
    const Model *m = f->model;
    const float *weight = which == QKV ? m->layer[layer].norm_in : m->layer[layer].norm_mid;
    for (i64 row = f->tile[t].row; row < f->tile[t].row + f->tile[t].count; row++) {
        float *x = f->x + row * f->x_stride;
        if (layer == 0 && which == QKV) memcpy(x, m->embedding + f->step->ids[row] * m->width, m->width * 4);
        __m512 by = _mm512_set1_ps(inverse_rms(x, m->width, m->eps));
        for (i64 d = 0; d < m->width; d += 16) {
            __m512 w = _mm512_maskz_loadu_ps(first(m->width - d), weight + d);
            store_half(f->normed + row * f->normed_stride + d, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + d), by), w));
        }
    }
    lower(f, layer, which, f->normed, f->normed_stride, t, c);
}

static void norm_out(const Forward *f, i64 t) {
    const Model *m = f->model;
    for (i64 row = f->tile[t].row; row < f->tile[t].row + f->tile[t].count; row++) {
        const float *x = f->x + row * f->x_stride;
        float by = inverse_rms(x, m->width, m->eps), *to = f->step->hidden + row * m->width, bad = 0;
        for (i64 d = 0; d < m->width; d++) {
            to[d] = x[d] * by * m->norm[d];
            bad += to[d] * 0.0f;
        }
        f->step->finite[row] = bad == 0.0f;
    }
}

static i64 forward_chunks(Job *job, i64 phase) {
    const Forward *f = (const Forward *)job;
    if (phase == f->model->layers * PHASES) return f->tiles;
    switch (phase % PHASES) {
    case HEADS: return product_chunks(f, QKV);
    case ATTEND: return f->tasks * f->model->groups;
    case ADD_OUT: return product_chunks(f, OUT);
    case INNER: return product_chunks(f, GLU);
    case ADD_DOWN: return product_chunks(f, DOWN);
    case LOWER_OUT:
    case LOWER_DOWN: return f->step->cap_rank && f->step->spans ? f->tiles : 0;
    default: return f->tiles;
    }
}

static void forward_run(Job *job, i64 phase, i64 chunk, i64 worker) {
    const Forward *f = (const Forward *)job;
    i64 layer = phase / PHASES;
    byte *scratch = f->scratch + worker * f->scratch_bytes;
    float *c = (float *)scratch;
    if (layer == f->model->layers) {
        norm_out(f, chunk);
        return;
    }
    switch (phase % PHASES) {
    case NORM_IN: norm_tile(f, layer, QKV, chunk, c); break;
    case HEADS: product_chunk(f, layer, QKV, chunk, c); break;
    case ATTEND: attend(f, layer, chunk, scratch); break;
    case LOWER_OUT: lower(f, layer, OUT, f->attended, f->attended_stride, chunk, c); break;
    case ADD_OUT: product_chunk(f, layer, OUT, chunk, c); break;
    case NORM_MID: norm_tile(f, layer, GLU, chunk, c); break;
    case INNER: product_chunk(f, layer, GLU, chunk, c); break;
    case LOWER_DOWN: lower(f, layer, DOWN, f->inner, f->inner_stride, chunk, c); break;
    case ADD_DOWN: product_chunk(f, layer, DOWN, chunk, c); break;
    }
}

void forward(const Model *m, const Step *s) {
    Forward f = {.job = {m->layers * PHASES + 1, forward_chunks, forward_run}};
    lay_out(&f, m, s);
    for (i64 i = 0; i < s->spans; i++)
        for (i64 row = s->span[i].begin; row < s->span[i].end; row += ROWS)
            f.tile[f.tiles++] = (RowTile){row, least(ROWS, s->span[i].end - row), i};
    i64 together = ROWS / (m->heads / m->groups);
    for (i64 b = 0; b < s->sequences; b++)
        for (i64 i = 0, count = s->starts[b + 1] - s->starts[b]; i < count; i += together)
            f.queries[f.tasks++] = (Queries){b, i, least(together, count - i)};
    run(&f.job, s->threads);
}

/* The kernel lends the matrix unit on request; 0 when it does. */
int prepare(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return (int)syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}
