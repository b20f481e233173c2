/* Attention of many queries in bfloat16: the scores of 48 queries with all keys, softmax, the mean of values, by tiles.h.
   Sums, scores and the softmax are float32; its weights are rounded for the second product, as PyTorch's are. */

#include "steps.h"
#include "tiles.h"

#define QUERIES (TALL * LANES) /* at a time */

#ifdef TILES

typedef struct {
    float *scores;     /* [keys, rounded up to 8][QUERIES] */
    float *sums;       /* [head_dim][QUERIES] */
    uint16_t *weights; /* [TALL][keys / 2, rounded up][16][2] */
    uint16_t *q;       /* [TALL][head_dim / 2][16][2] */
} room;

static int64_t even(int64_t keys) { return (keys + 1) / 2 * 2; }
static int64_t whole(int64_t keys) { return (keys + OUTS - 1) / OUTS * OUTS; }

static int64_t room_bytes(const attention *a) {
    return QUERIES * (4 * (whole(a->keys) + a->head_dim) + 2 * (even(a->keys) + a->head_dim));
}

static room room_in(const attention *a, void *start) {
    float *scores = start, *sums = scores + whole(a->keys) * QUERIES;
    uint16_t *weights = (uint16_t *)(sums + a->head_dim * QUERIES);
    return (room){scores, sums, weights, weights + QUERIES * even(a->keys)};
}

/* Values [keys, head_dim] -> [head_dim][keys, rounded up to 2]. */
static void turn_values(const attention *a, const uint16_t *v, uint16_t *to) {
    const int64_t keys = a->keys, line = even(keys);
    for (int64_t h = 0; h < a->head_dim; h += LANES)
        for (int64_t s = 0; s < line; s++)
            for (int64_t i = h; i < h + LANES && i < a->head_dim; i++) to[i * line + s] = s < keys ? v[s * a->v[2] + i] : 0;
}

/* scores[keys][QUERIES]: products of queries and keys. */
static void score(const attention *a, const uint16_t *k, int64_t vectors, const room *r) {
    const int64_t most = a->keys / OUTS * OUTS, in = a->head_dim, rest = a->keys - most;
    strip_sums(r->q, vectors, in, k, most, a->k[2], r->scores, QUERIES);
    if (!rest) return;
    uint16_t last[OUTS * in];
    memset(last, 0, sizeof last);
    for (int64_t s = 0; s < rest; s++) memcpy(last + s * in, k + (most + s) * a->k[2], 2 * in);
    strip_sums(r->q, vectors, in, last, OUTS, in, r->scores + most * QUERIES, QUERIES);
}

/* Scores -> capped, those of unseen keys NONE; `best` of each query. */
static void cap_and_mask(const attention *a, const marks *m, int64_t b, int64_t first, int64_t rows, float *scores,
                         float *best) {
    const int64_t lanes = (rows + LANES - 1) / LANES * LANES;
    int32_t step[QUERIES] = {0}, position[QUERIES] = {0};
    for (int64_t i = 0; i < rows && m; i++) {
        step[i] = (int32_t)m->query_step[b * a->of_queries + first + i];
        position[i] = (int32_t)m->query_position[b * a->of_queries + first + i];
    }
    for (int64_t i = 0; i < lanes; i++) best[i] = NONE;
    for (int64_t s = 0; s < a->keys; s++) {
        float *x = scores + s * QUERIES;
        if (a->softcap > 0)
#pragma omp simd
            for (int64_t i = 0; i < lanes; i++) x[i] = a->softcap * hyperbolic(x[i] * a->scale / a->softcap);
        else
#pragma omp simd
            for (int64_t i = 0; i < lanes; i++) x[i] *= a->scale;
        if (m) {
            const int64_t at = b * a->of_keys + s;
            const int32_t of_key = m->key_valid[at] ? (int32_t)m->key_step[at] : INT32_MAX, window = (int32_t)a->window;
            const int32_t after = (int32_t)m->key_position[at] + (window ? window : INT32_MAX / 2);
#pragma omp simd
            for (int64_t i = 0; i < lanes; i++)
                x[i] = of_key <= step[i] && (position[i] < after || of_key == step[i]) ? x[i] : NONE;
        }
#pragma omp simd
        for (int64_t i = 0; i < lanes; i++) best[i] = x[i] > best[i] ? x[i] : best[i];
    }
}

/* Scores -> e^(score - best) as pairs of keys, and what those of a query add up to. */
static void weigh(const attention *a, int64_t rows, const room *r, const float *best, float *total) {
    const int64_t lanes = (rows + LANES - 1) / LANES * LANES, pairs = even(a->keys) / 2;
    for (int64_t i = 0; i < lanes; i++) total[i] = 0;
    for (int64_t p = 0; p < pairs; p++) {
        const float *x = r->scores + 2 * p * QUERIES, *y = x + QUERIES;
        const float there = 2 * p + 1 < a->keys;
        uint32_t two[QUERIES];
#pragma omp simd
        for (int64_t i = 0; i < lanes; i++) {
            float low = exponential(x[i] - best[i]), high = exponential(y[i] - best[i]) * there;
            low = x[i] > NONE || best[i] <= NONE || x[i] != x[i] ? low : 0;
            high = y[i] > NONE || best[i] <= NONE || y[i] != y[i] ? high : 0;
            total[i] += low + high;
            two[i] = to_bf16(low) | (uint32_t)to_bf16(high) << 16;
        }
        for (int64_t v = 0; v < lanes / LANES; v++)
            memcpy(r->weights + (v * pairs + p) * 2 * LANES, two + v * LANES, 4 * LANES);
    }
}

/* At most 48 queries of one head, from `first` on. */
static void attend_block(const attention *a, const marks *m, int64_t b, int64_t n, int64_t first, const uint16_t *q,
                         const uint16_t *k, const uint16_t *values, uint16_t *out, const room *r) {
    const int64_t left = a->length - first, rows = left < QUERIES ? left : QUERIES, width = a->heads * a->head_dim;
    const int64_t vectors = (rows + LANES - 1) / LANES;
    float best[QUERIES], total[QUERIES];
    for (int64_t v = 0; v < vectors; v++) {
        const uint16_t *from = q + b * a->q[0] + n * a->q[1] + (first + v * LANES) * a->q[2];
        const int64_t here = rows - v * LANES < LANES ? rows - v * LANES : LANES;
        as_lanes(from, here, a->q[2], a->head_dim, r->q + v * LANES * a->head_dim);
    }
    score(a, k, vectors, r);
    cap_and_mask(a, m, b, first, rows, r->scores, best);
    weigh(a, rows, r, best, total);
    strip_sums(r->weights, vectors, even(a->keys), values, a->head_dim, even(a->keys), r->sums, QUERIES);
    for (int64_t h = 0; h < a->head_dim; h++)
#pragma omp simd
        for (int64_t i = 0; i < rows; i++) r->sums[h * QUERIES + i] /= total[i];
    for (int64_t h = 0; h < a->head_dim; h += STRIP) {
        const int64_t outs = a->head_dim - h < STRIP ? a->head_dim - h : STRIP;
        put_strip(r->sums + h * QUERIES, QUERIES, outs, rows, width,
                  out + (b * a->length + first) * width + n * a->head_dim + h);
    }
}

/* Bytes of scratch that attend_many needs; 0 where it does not take these sizes, or this processor. */
int64_t attend_many_bytes(const attention *a) {
    if (a->head_dim % OUTS || !a->bfloat16) return 0;
    return a->batch * a->kv_heads * a->head_dim * even(a->keys) * 2 + a->threads * room_bytes(a);
}

/* out [batch, length, heads, head_dim]; `m` may be NULL, then every query sees every key. */
void attend_many(const attention *a, const uint16_t *q, const uint16_t *k, const uint16_t *v, const marks *m, uint16_t *out,
                 void *scratch) {
    const int64_t of_head = a->head_dim * even(a->keys), blocks = (a->length + QUERIES - 1) / QUERIES;
    char *rooms = scratch;
    uint16_t *values = (uint16_t *)(rooms + a->threads * room_bytes(a));
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)a->threads)
    for (int64_t i = 0; i < a->batch * a->kv_heads; i++)
        turn_values(a, v + i / a->kv_heads * a->v[0] + i % a->kv_heads * a->v[1], values + i * of_head);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)a->threads)
    for (int64_t i = 0; i < a->batch * a->heads * blocks; i++) {
        const int64_t b = i / (a->heads * blocks), n = i / blocks % a->heads, kv = n / (a->heads / a->kv_heads);
        const room here = room_in(a, rooms + THREAD * room_bytes(a));
        attend_block(a, m, b, n, i % blocks * QUERIES, q, k + b * a->k[0] + kv * a->k[1],
                     values + (b * a->kv_heads + kv) * of_head, out, &here);
    }
}

#else
int64_t attend_many_bytes(const attention *a) { return 0; }
void attend_many(const attention *a, const uint16_t *q, const uint16_t *k, const uint16_t *v, const marks *m, uint16_t *out,
                 void *scratch) {}
#endif
