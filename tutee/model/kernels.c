/* The decoder's forward pass, its head and its sampler on one machine's matrix units (AMX tiles, AVX-512), for tokens
whose keys and values live in a paged cache.

One call computes all layers, so nothing but this code runs between a step's first and last instruction. Every sum runs
in an order that depends on its own row alone: a row's numbers never depend on the other rows, on how a prompt was cut
into pieces, nor on the number of threads. */

#include "paged_attention.h"
#include "head.h"
#include "product.h"
#include "sampling.h"

enum { NORM_IN, HEADS, ATTEND, LOWER_OUT, ADD_OUT, NORM_MID, INNER, LOWER_DOWN, ADD_DOWN, PHASES };

static void norm_tile(const Forward *f, i64 layer, int which, i64 t, float *c) {
    const Model *m = f->model;
    const float *weight = which == QKV ? m->layer[layer].norm_in : m->layer[layer].norm_mid;
    for (i64 row = f->tile[t].row; row < f->tile[t].row + f->tile[t].count; row++) {
        float *x = f->x + row * f->x_stride;
        if (layer == 0 && which == QKV) memcpy(x, m->embedding + f->step->ids[row] * m->width, m->width * 4);
        __m512 by = _mm512_set1_ps(inverse_rms(x, m->width, m->eps));
        for (i64 d = 0; d < m->width; d += 16) {
            __mmask16 here = first(m->width - d); /* behind the end may be NaN of an earlier step */
            __m512 v = _mm512_maskz_loadu_ps(here, x + d), w = _mm512_maskz_loadu_ps(here, weight + d);
            store_half(f->normed + row * f->normed_stride + d, _mm512_mul_ps(_mm512_mul_ps(v, by), w));
        }
    }
    lower(f, layer, which, t, c);
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
    case ATTEND: return attend_chunks(f);
    case ADD_OUT: return product_chunks(f, OUT);
    case INNER: return product_chunks(f, GLU);
    case ADD_DOWN: return product_chunks(f, DOWN);
    case LOWER_OUT:
    case LOWER_DOWN: return f->step->cap_rank || f->model->bits < 16 ? f->tiles : 0;
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
    case LOWER_OUT: lower(f, layer, OUT, chunk, c); break;
    case ADD_OUT: product_chunk(f, layer, OUT, chunk, c); break;
    case NORM_MID: norm_tile(f, layer, GLU, chunk, c); break;
    case INNER: product_chunk(f, layer, GLU, chunk, c); break;
    case LOWER_DOWN: lower(f, layer, DOWN, chunk, c); break;
    case ADD_DOWN: product_chunk(f, layer, DOWN, chunk, c); break;
    }
}

void forward(const Model *m, const Step *s) {
    Forward f = {.job = {m->layers * PHASES + 1, forward_chunks, forward_run, least(ROWS, s->tokens)}};
    lay_out(&f, m, s);
    for (i64 row = 0, span = 0; row < s->tokens; row += ROWS) {
        RowTile tile = {.row = row, .count = least(ROWS, s->tokens - row)};
        while (s->span[span].end <= row) span++;
        tile.first = tile.last = span;
        while (s->span[tile.last].end < row + tile.count) tile.last++;
        f.tile[f.tiles++] = tile;
    }
    i64 together = queries_together(m);
    for (i64 b = 0; b < s->sequences; b++)
        for (i64 i = 0, count = s->starts[b + 1] - s->starts[b]; i < count; i += together)
            f.queries[f.tasks++] = (Queries){b, i, least(together, count - i)};
    f.fetch_cache = s->tokens < 4 * s->sequences;
    f.groups_at_once = f.fetch_cache && f.tasks >= 16 * s->threads ? m->groups : 1;
    run(&f.job, s->threads);
}

/* To be called first. The kernel lends the matrix unit on request; 0 when it does. */
int prepare(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    fill_mantissas();
    return (int)syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}
