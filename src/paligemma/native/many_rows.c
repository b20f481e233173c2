/* y = step(x W' + b) in bfloat16 for any number of rows, as fast as the processor multiplies: prompts and batches.
   Half a megabyte of x stays in the second cache while 32 outputs are made; see tiles.h. */

#include "steps.h"
#include "tiles.h"

enum { AS_IT_IS, GELU, GATED }; /* what is done to a sum: nothing, gelu(sum), gelu(sum) * another sum */

#define NEAR 18 /* vectors of rows whose inputs stay near */
#define LINE (NEAR * LANES)

#ifdef TILES

INLINE float stored(float x) { return from_bf16(to_bf16(x)); }

/* Sums of some outputs and rows -> what will be stored, rounded in between wherever PyTorch's separate steps round. */
static void take_step(int64_t step, int64_t outs, int64_t rows, const uint16_t *bias, float *sums, const float *up) {
    for (int64_t n = 0; n < outs; n++, sums += LINE, up += LINE) {
        const float b = bias ? from_bf16(bias[n]) : 0;
        if (step == AS_IT_IS && !bias) continue;
#pragma omp simd
        for (int64_t m = 0; m < rows; m++) sums[m] = stored(sums[m] + b);
        if (step == AS_IT_IS) continue;
#pragma omp simd
        for (int64_t m = 0; m < rows; m++) sums[m] = stored(gelu(sums[m]));
        if (step == GELU) continue;
#pragma omp simd
        for (int64_t m = 0; m < rows; m++) sums[m] *= stored(up[m]);
    }
}

/* Bytes of scratch that many_rows needs; 0 where it does not take these sizes, or this processor. */
int64_t many_rows_bytes(const shape *s) {
    if (s->in % 2 || s->out % OUTS || !s->bfloat16) return 0;
    return (s->rows + LANES - 1) / LANES * LANES * s->in * 2 + s->threads * 2 * STRIP * LINE * 4;
}

/* y[rows, out] = step(x[rows, in] w[out, in]' + bias[out]); `up` [out, in] is the other matrix of a gate. */
void many_rows(const shape *s, int64_t step, const uint16_t *x, const uint16_t *w, const uint16_t *up,
               const uint16_t *bias, uint16_t *y, void *scratch) {
    const int64_t in = s->in, vectors = (s->rows + LANES - 1) / LANES;
    uint16_t *lanes = scratch;
    float *room = (float *)(lanes + vectors * LANES * in);
#pragma omp parallel for schedule(static) num_threads((int)s->threads)
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t left = s->rows - v * LANES;
        as_lanes(x + v * LANES * in, left < LANES ? left : LANES, in, in, lanes + v * LANES * in);
    }
#pragma omp parallel for schedule(guided, 1) num_threads((int)s->threads)
    for (int64_t first = 0; first < s->out; first += STRIP) {
        const int64_t outs = s->out - first < STRIP ? s->out - first : STRIP;
        float *sums = room + THREAD * 2 * STRIP * LINE, *others = sums + STRIP * LINE;
        for (int64_t v = 0; v < vectors; v += NEAR) {
            const int64_t many = vectors - v < NEAR ? vectors - v : NEAR, left = s->rows - v * LANES;
            const int64_t rows = left < many * LANES ? left : many * LANES;
            const uint16_t *near = lanes + v * LANES * in;
            strip_sums(near, many, in, w + first * in, outs, in, sums, LINE);
            if (step == GATED) strip_sums(near, many, in, up + first * in, outs, in, others, LINE);
            take_step(step, outs, rows, bias ? bias + first : NULL, sums, others);
            put_strip(sums, LINE, outs, rows, s->out, y + v * LANES * s->out + first);
        }
    }
}

#else
int64_t many_rows_bytes(const shape *s) { return 0; }
void many_rows(const shape *s, int64_t step, const uint16_t *x, const uint16_t *w, const uint16_t *up,
               const uint16_t *bias, uint16_t *y, void *scratch) {}
#endif
