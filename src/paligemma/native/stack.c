/* All layers of a decoder for a few rows in one call: what model/gemma.py does layer by layer. Weights are in codes, or
   for at most 4 rows as PyTorch keeps them.

   The threads are sent out once for a token, not once for each product, and meet ten times a layer. Matrices with the
   same input are one pass over memory. What goes from step to step is rounded to the tensors' type, so that the result
   is that of the steps one by one. */

#include "steps.h"
#include <stdlib.h>

#define SHARES 4 /* of each thread in a product: panels that lie one behind the other, for memory is read ahead */

typedef struct {
    shape s;
    matrix w;
} linear;

typedef struct {
    const void *pre_attention, *post_attention, *pre_ffw, *post_ffw; /* weights of norms; there may be none after */
    linear qkv[3], o, gate_up[2], down;
    void *keys, *values; /* of the cache, with the strides of `attention` */
    int64_t window;
} layer;

typedef struct {
    attention a; /* of all layers, but for the window; `keys` counts the new ones */
    int64_t depth, width;
    const layer *layers; /* alike but for their numbers and windows */
    const void *norm;    /* the last one's weight */
    float eps;
} stack;

/* What goes from step to step, [rows, ...] in the tensors' type; inputs as codes; and each thread's own float32. */
typedef struct {
    void *x, *change, *normed, *qkv[3], *attended, *gate_up[2], *coded, *line, *sums, *scores;
} work;

static int64_t rows_of(const stack *d) { return d->a.batch * d->a.length; }
static int64_t panels_of(const linear *m) { return (m->s.out + PANEL - 1) / PANEL; }

static int is_plain(const linear *m) { return m->s.bits > 8; }

/* Rows of `from` as codes for `m`, if it has some. */
static void code_rows(const stack *d, const linear *m, const void *from, const work *w) {
    if (is_plain(m)) return;
    inputs coded = inputs_in(&m->s, rows_of(d), w->coded);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows_of(d); row++) code_row(&m->s, from, row, &coded, w->line);
}

/* Outputs of panel `p` of a matrix, for the rows of x. */
static void panel(const stack *d, const linear *m, int64_t p, const void *x, const inputs *coded, void *y, const work *w) {
    const int64_t first = p * PANEL, last = first + PANEL < m->s.out ? first + PANEL : m->s.out;
    if (is_plain(m)) plain_outputs(&m->s, rows_of(d), x, m->w.codes, NULL, first, last, y);
    else coded_panel(&m->s, &m->w, p, coded, rows_of(d), NULL, w->sums, y);
}

/* y = x W' for `count` matrices; whoever is done takes the next share. */
static void products(const stack *d, const linear *m, int count, const void *x, void *const *y, const work *w) {
    code_rows(d, m, x, w);
    const int64_t shares = d->a.threads * SHARES;
    inputs coded = inputs_in(&m->s, rows_of(d), w->coded);
    int64_t panels = 0;
    for (int i = 0; i < count; i++) panels += panels_of(m + i);
#pragma omp for schedule(dynamic, 1)
    for (int64_t share = 0; share < shares; share++)
        for (int64_t p = panels * share / shares; p < panels * (share + 1) / shares; p++) {
            int64_t i = 0, at = p;
            while (at >= panels_of(m + i)) at -= panels_of(m + i++);
            panel(d, m + i, at, x, &coded, y[i], w);
        }
}

/* The stream goes on with what `post` makes of the change; `after` norms it, into `to`. */
static void add_rows(const stack *d, const void *post, const void *after, void *to, work *w) {
    const int64_t bytes = d->width * (d->a.bfloat16 ? 2 : 4);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows_of(d); row++) {
        char *x = (char *)w->x + row * bytes, *change = (char *)w->change + row * bytes;
        add_norm(1, d->width, d->a.bfloat16, x, change, post, d->eps, after, d->eps, change, (char *)to + row * bytes);
    }
    void *sums = w->change;
    w->change = w->x, w->x = sums;
}

/* New keys, turned, and values go where `slots`, int64[batch, length], says; then each query sees what it may. */
static void attend_rows(const stack *d, const layer *l, const marks *m, const int64_t *slots, const float *cos,
                        const float *sin, const work *w) {
    attention a = d->a;
    a.window = l->window;
    const int64_t wide = a.bfloat16 ? 2 : 4, bytes = a.head_dim * wide, half = a.head_dim / 2;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows_of(d) * a.kv_heads; i++) {
        int64_t row = i / a.kv_heads, n = i % a.kv_heads, b = row / a.length;
        char *key = (char *)l->keys + (b * a.k[0] + n * a.k[1] + slots[row] * a.k[2]) * wide;
        char *value = (char *)l->values + (b * a.v[0] + n * a.v[1] + slots[row] * a.v[2]) * wide;
        turn((char *)w->qkv[1] + i * bytes, cos + row * half, sin + row * half, half, key, a.bfloat16);
        memcpy(value, (char *)w->qkv[2] + i * bytes, bytes);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows_of(d) * a.heads; i++) {
        int64_t row = i / a.heads, n = i % a.heads;
        char *query = (char *)w->qkv[0] + i * bytes;
        turn(query, cos + row * half, sin + row * half, half, query, a.bfloat16);
        attend_one(&a, m, row / a.length, n, row % a.length, w->qkv[0], l->keys, l->values, w->scores, w->attended);
    }
}

static void gate_rows(const stack *d, const layer *l, const work *w) {
    const int64_t count = rows_of(d) * l->down.s.in, shares = d->a.threads, wide = d->a.bfloat16 ? 2 : 4;
#pragma omp for schedule(static)
    for (int64_t share = 0; share < shares; share++) {
        int64_t first = count * share / shares, last = count * (share + 1) / shares;
        char *gate = (char *)w->gate_up[0] + first * wide, *up = (char *)w->gate_up[1] + first * wide;
        geglu(last - first, d->a.bfloat16, gate, up, gate);
    }
}

static void run_layers(const stack *d, const marks *m, const int64_t *slots, const float *cos, const float *sin,
                       void *out, work w) {
#pragma omp single
    rms_norm(rows_of(d), d->width, d->a.bfloat16, w.x, d->layers->pre_attention, d->eps, w.normed);
    for (const layer *l = d->layers, *last = l + d->depth - 1; l <= last; l++) {
        products(d, l->qkv, 3, w.normed, w.qkv, &w);
        attend_rows(d, l, m, slots, cos, sin, &w);
        products(d, &l->o, 1, w.attended, &w.change, &w);
        add_rows(d, l->post_attention, l->pre_ffw, w.normed, &w);
        products(d, l->gate_up, 2, w.normed, w.gate_up, &w);
        gate_rows(d, l, &w);
        products(d, &l->down, 1, w.gate_up[0], &w.change, &w);
        if (l < last) add_rows(d, l->post_ffw, l[1].pre_attention, w.normed, &w);
        else add_rows(d, l->post_ffw, d->norm, out, &w);
    }
}

static int64_t longest_line(const layer *l) {
    int64_t most = l->qkv->s.padded_in;
    most = l->o.s.padded_in > most ? l->o.s.padded_in : most;
    return l->down.s.padded_in > most ? l->down.s.padded_in : most;
}

/* Gives each part of `w` its place from `room` on; returns the bytes taken. */
static int64_t lay_out(const stack *d, char *room, work *w) {
    const layer *l = d->layers;
    const int64_t rows = rows_of(d), wide = d->a.bfloat16 ? 2 : 4, of_row = rows * wide, line = longest_line(l);
    const struct { void **part; int64_t bytes; } parts[] = {
        {&w->x, d->width * of_row},
        {&w->change, d->width * of_row},
        {&w->normed, d->width * of_row},
        {&w->qkv[0], l->qkv[0].s.out * of_row},
        {&w->qkv[1], l->qkv[1].s.out * of_row},
        {&w->qkv[2], l->qkv[2].s.out * of_row},
        {&w->attended, l->o.s.in * of_row},
        {&w->gate_up[0], l->down.s.in * of_row},
        {&w->gate_up[1], l->down.s.in * of_row},
        {&w->coded, rows * 2 * line}, /* numbers, and scales of at least 8 of them */
        {&w->line, d->a.threads * line * 4},
        {&w->sums, d->a.threads * rows * PANEL * 4},
        {&w->scores, d->a.threads * d->a.keys * 4},
    };
    int64_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = room + at;
        at += (parts[i].bytes + 63) / 64 * 64;
    }
    return at;
}

/* Bytes of scratch that run_stack needs. */
int64_t stack_bytes(const stack *d) {
    work w;
    return lay_out(d, NULL, &w);
}

/* x[batch, length, width] -> out, after the last norm; angles float32[batch, length, head_dim / 2]. */
void run_stack(const stack *d, const marks *m, const int64_t *slots, const float *cos, const float *sin, const void *x,
               void *out, void *scratch) {
    work all;
    lay_out(d, scratch, &all);
    memcpy(all.x, x, rows_of(d) * d->width * (d->a.bfloat16 ? 2 : 4));
#pragma omp parallel num_threads((int)d->a.threads)
    {
        work own = all;
        own.line = (float *)all.line + THREAD * longest_line(d->layers);
        own.sums = (float *)all.sums + THREAD * rows_of(d) * PANEL;
        own.scores = (float *)all.scores + THREAD * d->a.keys;
        run_layers(d, m, slots, cos, sin, out, own);
    }
}
