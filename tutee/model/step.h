/* What the forward pass works on: the model, the step, and where everything lies. `kernels.py` fills Model and Step.

Axes: T tokens (rows), D hidden, H query heads, G groups (kv heads), K head width, F inner width, V vocabulary. */

#pragma once
#include "team.h"

enum { MAX_HEAD = 256, BLOCK = 32 }; /* numbers of a head; tokens of a block of keys and values */

typedef struct {
    const byte *a, *b;      /* of one matrix, tiles; NULL: it has none */
    i64 parts, ranks, steps; /* matrices multiplied together; their rank in sixteens; inputs in steps of 32 */
} Adapter;
enum { QKV, OUT, GLU, DOWN, MATRICES };

typedef struct {
    Matrix matrix[MATRICES];
    const float *norm_in, *norm_mid, *q_norm, *k_norm; /* the last two may be NULL */
} Layer;

typedef struct {
    i64 layers, width, heads, groups, head, inner, window; /* window 0: all */
    i64 bits;                                              /* of a weight: 16 (bfloat16), 8, 4 */
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
    half *const *keys, *const *values;  /* of each layer, as `product.h` places them */
    float *hidden;                      /* out: [T, D] */
    byte *finite;                       /* out: [T] */
    byte *workspace;                    /* zeros when new, for the capacities below */
    i64 cap_tokens, cap_rank, cap_threads;
} Step;

typedef struct { i64 row, count, first, last; } RowTile; /* up to 16 rows, and the spans that they belong to */
typedef struct { i64 sequence, query, count; } Queries; /* neighbours of one sequence, attended together */

typedef struct {
    Job job;
    const Model *model;
    const Step *step;
    i64 padded_head, value_rows; /* K to 32, to 16 */
    float query_scale;           /* makes scores powers of two, times 128 (`paged_attention.h`) */
    float *x;                    /* [T, x_stride]: the residual stream */
    half *normed, *q, *attended, *inner, *low;
    i64 x_stride, normed_stride, q_stride, attended_stride, inner_stride, low_stride; /* in numbers */
    int8_t *digits;     /* rows as integers: [2][T + 16, digit_stride], the high digits first; one matrix's at a time */
    float *digit_scale; /* [T + 16] */
    i64 digit_stride, digit_plane;
    RowTile *tile;
    Queries *queries;
    i64 tiles, tasks;
    i64 groups_at_once; /* kv heads of a chunk of attention: all when decoding, unless there are few queries */
    int fetch_cache;    /* whether keys and values are fetched ahead: decoding reads each once */
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

/* Of one matrix: what a chunk of a product multiplies at a time. */
static i64 panel_pairs(const Model *m) { return parts(m->head, 32); }

static i64 most_steps(const Model *m) {
    i64 steps = 0;
    for (int which = 0; which < MATRICES; which++) steps = most(steps, m->layer[0].matrix[which].steps);
    return steps;
}

enum { RESULTS = 64 * MAX_HEAD * 4 }; /* bytes of a product's results; behind them its weights, where they are unpacked */

static i64 attention_bytes(const Forward *f);

/* Where everything lies in the workspace; returns its size. */
static i64 lay_out(Forward *f, const Model *m, const Step *s) {
    i64 rows = s->cap_tokens + ROWS; /* a tile is read whole */
    byte *at = s->workspace;
    f->model = m;
    f->step = s;
    f->padded_head = parts(m->head, 32) * 32;
    f->value_rows = parts(m->head, 16) * 16;
    f->query_scale = 128 * LOG2_E / sqrtf((float)m->head);
    f->x_stride = parts(m->width, 32) * 32;
    f->normed_stride = stride_of(m->width);
    f->q_stride = m->heads * f->padded_head;
    f->attended_stride = stride_of(m->heads * m->head);
    f->inner_stride = stride_of(m->inner);
    f->low_stride = stride_of(s->cap_rank + 32);
    f->x = carve(&at, rows * f->x_stride * 4);
    f->normed = carve(&at, rows * f->normed_stride * 2);
    f->q = carve(&at, rows * f->q_stride * 2);
    f->attended = carve(&at, rows * f->attended_stride * 2);
    f->inner = carve(&at, rows * f->inner_stride * 2);
    f->low = carve(&at, rows * f->low_stride * 2);
    if (m->bits < 16) {
        f->digit_stride = 2 * stride_of(most(most(m->width, m->inner), m->heads * m->head) / 2 + 32);
        f->digit_plane = rows * f->digit_stride;
        f->digits = carve(&at, 2 * f->digit_plane);
        f->digit_scale = carve(&at, rows * 4);
    }
    f->tile = carve(&at, s->cap_tokens * sizeof(RowTile));
    f->queries = carve(&at, s->cap_tokens * sizeof(Queries));
    i64 attention = attention_bytes(f);
    i64 product = RESULTS + (m->bits == 4 ? panel_pairs(m) * most_steps(m) * STEP : 0);
    f->scratch_bytes = parts(most(product, attention), 4096) * 4096 + 256; /* not in the same sets */
    f->scratch = carve(&at, s->cap_threads * f->scratch_bytes);
    return at - s->workspace;
}

i64 workspace_bytes(const Model *m, const Step *s) {
    Forward f;
    return lay_out(&f, m, s);
}

static const Adapter *adapter_of(const Forward *f, i64 span, i64 layer, int which) {
    const Adapter *adapter = f->step->span[span].adapter;
    if (!adapter) return NULL;
    adapter += layer * MATRICES + which;
    return adapter->a ? adapter : NULL;
}
