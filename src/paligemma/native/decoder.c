/* The work of a decoder layer between its matrices: norms, rotation, gates, attention of few queries with a cap. PyTorch
   does each in ten steps: for few rows most of the time is the stepping, for many each reads and writes everything.
   Threads take shares of rows in the functions whose names end in `_shared`. Sums in float32; what is stored between two steps is
   rounded to the tensors' type as PyTorch rounds it, but for attention, which keeps float32 until its result. */

#include "lanes.h"
#include "steps.h"
#include <math.h>
#include <stdlib.h>

/* --- norms ------------------------------------------------------------------------------------------------------ */

INLINE void norm_row(const void *x, const void *weight, float eps, int64_t width, void *out, int bfloat16) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; i++) squares += number(x, i, bfloat16) * number(x, i, bfloat16);
    float scale = 1 / sqrtf(squares / width + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
        put(out, i, number(x, i, bfloat16) * scale * (1 + number(weight, i, bfloat16)), bfloat16);
}

INLINE void add_rows(int64_t rows, int64_t width, const void *x, const void *change, const void *post, float post_eps,
                     const void *after, float eps, void *total, void *out, int bfloat16) {
    const int64_t bytes = width * (bfloat16 ? 2 : 4);
    for (int64_t row = 0; row < rows; row++) {
        const char *from = (const char *)x + row * bytes, *more = (const char *)change + row * bytes;
        char *sums = (char *)total + row * bytes;
        if (post) norm_row(more, post, post_eps, width, sums, bfloat16), more = sums;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) put(sums, i, number(from, i, bfloat16) + number(more, i, bfloat16), bfloat16);
        if (after) norm_row(sums, after, eps, width, (char *)out + row * bytes, bfloat16);
    }
}

/* out = norm(x) * (1 + weight), rows of `width`. */
void rms_norm(int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *weight, float eps, void *out) {
    const int64_t bytes = width * (bfloat16 ? 2 : 4);
    for (int64_t row = 0; row < rows; row++) {
        const void *from = (const char *)x + row * bytes;
        void *to = (char *)out + row * bytes;
        if (bfloat16) norm_row(from, weight, eps, width, to, 1);
        else norm_row(from, weight, eps, width, to, 0);
    }
}

/* total = x + norm(change), out = norm(total); without `post` the change is added as it is, without `after` no out.
   `total` may be `change`. */
void add_norm(int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *change, const void *post,
              float post_eps, const void *after, float eps, void *total, void *out) {
    if (bfloat16) add_rows(rows, width, x, change, post, post_eps, after, eps, total, out, 1);
    else add_rows(rows, width, x, change, post, post_eps, after, eps, total, out, 0);
}

void rms_norm_shared(int64_t threads, int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *weight,
                     float eps, void *out) {
    const int64_t bytes = width * (bfloat16 ? 2 : 4);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t share = 0; share < threads; share++) {
        int64_t first = rows * share / threads, count = rows * (share + 1) / threads - first, at = first * bytes;
        rms_norm(count, width, bfloat16, (const char *)x + at, weight, eps, (char *)out + at);
    }
}

void add_norm_shared(int64_t threads, int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *change,
                     const void *post, float post_eps, const void *after, float eps, void *total, void *out) {
    const int64_t bytes = width * (bfloat16 ? 2 : 4);
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t share = 0; share < threads; share++) {
        int64_t first = rows * share / threads, count = rows * (share + 1) / threads - first, at = first * bytes;
        add_norm(count, width, bfloat16, (const char *)x + at, (const char *)change + at, post, post_eps, after, eps,
                 (char *)total + at, (char *)out + at);
    }
}

/* --- rotation --------------------------------------------------------------------------------------------------- */

INLINE void turn_typed(const void *x, const float *cos, const float *sin, int64_t half, void *out, int bfloat16) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float first = number(x, i, bfloat16), second = number(x, half + i, bfloat16);
        put(out, i, first * cos[i] - second * sin[i], bfloat16);
        put(out, half + i, second * cos[i] + first * sin[i], bfloat16);
    }
}

/* One head; `out` may be x. */
void turn(const void *x, const float *cos, const float *sin, int64_t half, void *out, int64_t bfloat16) {
    if (bfloat16) turn_typed(x, cos, sin, half, out, 1);
    else turn_typed(x, cos, sin, half, out, 0);
}

/* x[batch, heads, length, 2 half] with strides in numbers -> out, contiguous; angles float32[batch, length, half]. */
void rotate_shared(int64_t threads, const int64_t *sizes, const int64_t *strides, int64_t bfloat16, const void *x,
                   const float *cos, const float *sin, void *out) {
    const int64_t heads = sizes[1], length = sizes[2], half = sizes[3] / 2, wide = bfloat16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t row = 0; row < sizes[0] * heads * length; row++) {
        int64_t b = row / (heads * length), n = row / length % heads, t = row % length, at = (b * length + t) * half;
        const char *from = (const char *)x + (b * strides[0] + n * strides[1] + t * strides[2]) * wide;
        char *to = (char *)out + row * 2 * half * wide;
        turn(from, cos + at, sin + at, half, to, bfloat16);
    }
}

/* --- gates, caps, attention -------------------------------------------------------------------------------------------- */

INLINE void geglu_typed(int64_t count, const void *gate, const void *up, void *out, int bfloat16) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        put(out, i, gelu(number(gate, i, bfloat16)), bfloat16);
        put(out, i, number(out, i, bfloat16) * number(up, i, bfloat16), bfloat16);
    }
}

/* gelu(gate) * up, GELU by tanh; `out` may be either. */
void geglu(int64_t count, int64_t bfloat16, const void *gate, const void *up, void *out) {
    if (bfloat16) geglu_typed(count, gate, up, out, 1);
    else geglu_typed(count, gate, up, out, 0);
}

void geglu_shared(int64_t threads, int64_t count, int64_t bfloat16, const void *gate, const void *up, void *out) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t share = 0; share < threads; share++) {
        int64_t first = count * share / threads, size = count * (share + 1) / threads - first, at = first * (bfloat16 ? 2 : 4);
        geglu(size, bfloat16, (const char *)gate + at, (const char *)up + at, (char *)out + at);
    }
}

INLINE void cap_typed(int64_t count, float cap, const void *x, void *out, int bfloat16) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        put(out, i, number(x, i, bfloat16) / cap, bfloat16);
        put(out, i, hyperbolic(number(out, i, bfloat16)), bfloat16);
        put(out, i, cap * number(out, i, bfloat16), bfloat16);
    }
}

/* cap * tanh(x / cap), for as many numbers as a vocabulary has. */
void softcap_shared(int64_t threads, int64_t count, int64_t bfloat16, const void *x, float cap, void *out) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t share = 0; share < threads; share++) {
        int64_t first = count * share / threads, size = count * (share + 1) / threads - first, at = first * (bfloat16 ? 2 : 4);
        if (bfloat16) cap_typed(size, cap, (const char *)x + at, (char *)out + at, 1);
        else cap_typed(size, cap, (const char *)x + at, (char *)out + at, 0);
    }
}

INLINE float dot(const void *a, const void *b, int64_t count, int bfloat16) {
    floats acc[2] = {floats_of(0), floats_of(0)};
    int64_t step = bfloat16 ? 2 * LANES : LANES, k = 0;
    for (; k + 2 * step <= count; k += 2 * step)
        for (int i = 0; i < 2; i++) {
            int64_t at = k + i * step;
            acc[i] = bfloat16 ? dot_bf16(acc[i], (const uint16_t *)a + at, (const uint16_t *)b + at)
                              : fma16(load_f32((const float *)a + at), load_f32((const float *)b + at), acc[i]);
        }
    float total = sum(add(acc[0], acc[1]));
    for (; k < count; k++) total += number(a, k, bfloat16) * number(b, k, bfloat16);
    return total;
}

/* One query of one head: softmax of capped scores, then the mean of the values. `scores`: float32[keys]. */
INLINE void attend_typed(const attention *a, const marks *m, int64_t b, int64_t n, int64_t t, const void *q,
                         const void *k, const void *v, float *scores, void *out, int bfloat16) {
    const int64_t wide = bfloat16 ? 2 : 4, kv = n / (a->heads / a->kv_heads), keys = a->keys;
    const char *query = (const char *)q + (b * a->q[0] + n * a->q[1] + t * a->q[2]) * wide;
    const char *key = (const char *)k + (b * a->k[0] + kv * a->k[1]) * wide;
    const char *value = (const char *)v + (b * a->v[0] + kv * a->v[1]) * wide;
    const int64_t *key_step = m->key_step + b * a->of_keys, *key_position = m->key_position + b * a->of_keys;
    const int64_t step = m->query_step[b * a->of_queries + t], position = m->query_position[b * a->of_queries + t];
    const uint8_t *valid = m->key_valid + b * a->of_keys;
    for (int64_t s = 0; s < keys; s++) scores[s] = a->scale * dot(query, key + s * a->k[2] * wide, a->head_dim, bfloat16);
    if (a->softcap > 0) for (int64_t s = 0; s < keys; s++) scores[s] = a->softcap * hyperbolic(scores[s] / a->softcap);
    float best = NONE, total = 0;
    for (int64_t s = 0; s < keys; s++) {
        int seen = valid[s] && key_step[s] <= step;
        seen = seen && (!a->window || position - key_position[s] < a->window || key_step[s] == step);
        scores[s] = seen ? scores[s] : NONE;
    }
    for (int64_t s = 0; s < keys; s++) best = scores[s] > best || scores[s] != scores[s] ? scores[s] : best;
#pragma omp simd reduction(+ : total)
    for (int64_t s = 0; s < keys; s++) {
        scores[s] = exponential(scores[s] - best) * (scores[s] > NONE || best <= NONE ? 1.0f : 0.0f);
        total += scores[s];
    }
    total = best == best ? total : NAN;
    char *to = (char *)out + ((b * a->length + t) * a->heads + n) * a->head_dim * wide; /* length before heads */
    int64_t h = 0;
    for (; h + 4 * LANES <= a->head_dim; h += 4 * LANES) {
        floats acc[4] = {floats_of(0), floats_of(0), floats_of(0), floats_of(0)};
        for (int64_t s = 0; s < keys; s++)
            for (int i = 0; i < 4; i++) {
                const char *at = value + (s * a->v[2] + h + i * LANES) * wide;
                floats x = bfloat16 ? load_bf16((const uint16_t *)at) : load_f32((const float *)at);
                acc[i] = fma16(x, floats_of(scores[s]), acc[i]);
            }
        float line[4 * LANES];
        for (int i = 0; i < 4; i++) store_f32(line + i * LANES, acc[i]);
        for (int i = 0; i < 4 * LANES; i++) put(to, h + i, line[i] / total, bfloat16);
    }
    for (; h < a->head_dim; h++) {
        float mean = 0;
        for (int64_t s = 0; s < keys; s++) mean += scores[s] * number(value, s * a->v[2] + h, bfloat16);
        put(to, h, mean / total, bfloat16);
    }
}

void attend_one(const attention *a, const marks *m, int64_t b, int64_t n, int64_t t, const void *q, const void *k,
                const void *v, float *scores, void *out) {
    if (a->bfloat16) attend_typed(a, m, b, n, t, q, k, v, scores, out, 1);
    else attend_typed(a, m, b, n, t, q, k, v, scores, out, 0);
}

/* out [batch, length, heads, head_dim]; scratch: float32[threads, keys]. */
void attend(const attention *a, const void *q, const void *k, const void *v, const marks *m, void *out, float *scratch) {
#pragma omp parallel for schedule(static) num_threads((int)a->threads)
    for (int64_t row = 0; row < a->batch * a->heads * a->length; row++) {
        int64_t b = row / (a->heads * a->length), n = row / a->length % a->heads, t = row % a->length;
        attend_one(a, m, b, n, t, q, k, v, scratch + THREAD * a->keys, out);
    }
}
