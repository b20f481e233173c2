/* Tiles of sums in bfloat16: what products and attention of many rows are made of.

   Lanes are rows of x, of which 16 lie together, [rows / 16][in / 2][16][2]; two inputs of one output go to all lanes, W
   stays as PyTorch keeps it. A row's sums are made in one order whoever is beside it, so that its bits are its own. */

#pragma once
#include "lanes.h"

#define OUTS 8     /* a tile: so many outputs, 48 rows: 24 sums, 3 vectors of x and a weight in 32 registers */
#define TALL 3     /* vectors of rows in a tile */
#define DEPTH 1024 /* inputs that are gone through at a time, 16 KiB of W */
#define STRIP 32   /* outputs that are stored together, 64 bytes of a row of y */

#if defined(DOT_BF16) && !defined(__AMX_BF16__) /* with AMX oneDNN is several times faster */
#define TILES

/* Column i of 16 rows of 16 -> row i. */
INLINE void transpose(__m512i r[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2)
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        __m512i even = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88), odd = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        __m512i even2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        __m512i odd2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
        r[i] = _mm512_shuffle_i32x4(even, even2, 0x88), r[8 + i] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(odd, odd2, 0x88), r[12 + i] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
}

INLINE __mmask16 first_of(int64_t count) { return count >= 16 ? 0xffff : (__mmask16)((1 << count) - 1); }

/* `rows` rows of x, at most 16, `apart` numbers from one to the next, as lanes. */
INLINE void as_lanes(const uint16_t *x, int64_t rows, int64_t apart, int64_t in, uint16_t *to) {
    for (int64_t k = 0; k < in; k += 32) {
        __m512i r[16];
        for (int i = 0; i < 16; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi32(first_of((in - k) / 2), x + i * apart + k) : _mm512_setzero_si512();
        transpose(r);
        for (int i = 0; i < 16 && k + 2 * i < in; i++) _mm512_storeu_si512(to + (k + 2 * i) * LANES, r[i]);
    }
}

/* sums[OUTS][line] of `vectors` times 16 rows, over `depth` of the inputs, of which w has `apart` from one output to the
   next; `fresh`: from 0 on, not from what is there. */
INLINE void tile(int vectors, const uint16_t *x, int64_t in, const uint16_t *w, int64_t apart, int64_t depth, int fresh,
                 float *sums, int64_t line) {
    floats acc[TALL][OUTS];
    for (int v = 0; v < vectors; v++)
        for (int n = 0; n < OUTS; n++) acc[v][n] = fresh ? floats_of(0) : load_f32(sums + n * line + v * LANES);
    for (int64_t k = 0; k < depth; k += 2) {
        __m512i rows[TALL];
        for (int v = 0; v < vectors; v++) rows[v] = _mm512_loadu_si512(x + v * in * LANES + k * LANES);
        for (int n = 0; n < OUTS; n++) {
            int32_t two;
            memcpy(&two, w + n * apart + k, 4);
            __m512i weight = _mm512_set1_epi32(two);
            for (int v = 0; v < vectors; v++) /* as in lanes.h, gcc 12 makes copies with the intrinsic */
                __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc[v][n]) : "v"(rows[v]), "v"(weight));
        }
    }
    for (int v = 0; v < vectors; v++)
        for (int n = 0; n < OUTS; n++) store_f32(sums + n * line + v * LANES, acc[v][n]);
}

/* sums[outs][line] = W x of `vectors` times 16 rows; a multiple of 8 outputs. */
static inline void strip_sums(const uint16_t *x, int64_t vectors, int64_t in, const uint16_t *w, int64_t outs, int64_t apart,
                              float *sums, int64_t line) {
    for (int64_t k = 0; k < in; k += DEPTH)
        for (int64_t n = 0; n < outs; n += OUTS)
            for (int64_t v = 0, tall; v < vectors; v += tall) {
                const int64_t left = vectors - v, depth = in - k < DEPTH ? in - k : DEPTH;
                const uint16_t *rows = x + (v * in + k) * LANES, *weights = w + n * apart + k;
                float *to = sums + n * line + v * LANES;
                tall = left == 4 || left == 2 ? 2 : left == 1 ? 1 : TALL;
                if (tall == 1) tile(1, rows, in, weights, apart, depth, k == 0, to, line);
                else if (tall == 2) tile(2, rows, in, weights, apart, depth, k == 0, to, line);
                else tile(TALL, rows, in, weights, apart, depth, k == 0, to, line);
            }
}

/* sums[outs][line] -> y[rows, all], at most 32 outputs, an even number. */
static inline void put_strip(const float *sums, int64_t line, int64_t outs, int64_t rows, int64_t all, uint16_t *y) {
    for (int64_t m = 0; m < rows; m += LANES) {
        __m512i r[16];
        for (int i = 0; i < 16; i++) {
            const float *pair = sums + 2 * i * line + m;
            if (2 * i >= outs) { r[i] = _mm512_setzero_si512(); continue; }
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load_f32(pair)));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load_f32(pair + line)));
            r[i] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
        }
        transpose(r);
        for (int i = 0; i < 16 && m + i < rows; i++)
            _mm512_mask_storeu_epi32(y + (m + i) * all, first_of(outs / 2), r[i]);
    }
}
#endif
