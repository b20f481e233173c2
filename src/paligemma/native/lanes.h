/* Sixteen numbers at a time: the only part of the kernels that knows the processor.

   Branches, chosen by what the compiler may use: AVX-512 with VNNI, AVX2 with FMA, and portable C, which compilers turn
   into whatever the machine has (NEON among others). All three compute the same whole numbers; float sums may differ in
   the last bits. A byte vector holds 16 groups of 4 bytes, one group for each lane. */

#include <stdint.h>
#include <string.h>

#define LANES 16

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(NO_AVX512)
#include <immintrin.h>
#define BRANCH "avx512vnni"

typedef __m512 floats;
typedef __m512i ints;
typedef __m512i bytes;

static inline floats floats_of(float x) { return _mm512_set1_ps(x); }
static inline floats load_f32(const float *p) { return _mm512_loadu_ps(p); }
static inline void store_f32(float *p, floats x) { _mm512_storeu_ps(p, x); }
static inline floats load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
#ifdef __AVX512BF16__
#define DOT_BF16
static inline floats dot_bf16(floats acc, const uint16_t *a, const uint16_t *b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
}
#endif
static inline floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
static inline floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
static inline floats fma16(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline float sum(floats x) { return _mm512_reduce_add_ps(x); }
static inline ints ints_of(int32_t x) { return _mm512_set1_epi32(x); }
static inline floats to_floats(ints x) { return _mm512_cvtepi32_ps(x); }
static inline bytes load_bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline void store_bytes(uint8_t *p, bytes x) { _mm512_storeu_si512(p, x); }

/* acc + the dot product of each lane's 4 unsigned bytes with the 4 signed bytes of x. */
static inline ints dot4(ints acc, bytes w, int32_t x) {
    /* As the intrinsic, but gcc 12 copies 24 sums to and fro with that one, which halves the speed. */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(_mm512_set1_epi32(x)));
    return acc;
}

/* The table's bytes that the low and the high halves of each byte name. */
static inline void look_up(bytes packed, const uint8_t *table, bytes *low, bytes *high) {
    const __m512i half = _mm512_set1_epi8(15);
    const __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    *low = _mm512_shuffle_epi8(t, _mm512_and_si512(packed, half));
    *high = _mm512_shuffle_epi8(t, _mm512_and_si512(_mm512_srli_epi16(packed, 4), half));
}

#elif defined(__AVX2__) && defined(__FMA__) && !defined(NO_AVX2)
#include <immintrin.h>
#define BRANCH "avx2"

typedef struct { __m256 a, b; } floats;
typedef struct { __m256i a, b; } ints;
typedef struct { __m256i a, b; } bytes;

static inline floats floats_of(float x) { return (floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline floats load_f32(const float *p) { return (floats){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store_f32(float *p, floats x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
static inline __m256 half_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline floats load_bf16(const uint16_t *p) { return (floats){half_bf16(p), half_bf16(p + 8)}; }
static inline floats add(floats x, floats y) { return (floats){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline floats mul(floats x, floats y) { return (floats){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline floats fma16(floats x, floats y, floats z) {
    return (floats){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline float sum(floats x) {
    __m256 both = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
static inline ints ints_of(int32_t x) { return (ints){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline floats to_floats(ints x) { return (floats){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline __m256i load_half(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline bytes load_bytes(const uint8_t *p) { return (bytes){load_half(p), load_half(p + 32)}; }
static inline void store_bytes(uint8_t *p, bytes x) {
    _mm256_storeu_si256((__m256i *)p, x.a), _mm256_storeu_si256((__m256i *)(p + 32), x.b);
}

/* In 16 bits: the one instruction for bytes would saturate at 32,767. */
static inline __m256i half_dot4(__m256i acc, __m256i w, __m256i even, __m256i odd) {
    __m256i of_even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even);
    __m256i of_odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd);
    return _mm256_add_epi32(acc, _mm256_add_epi32(of_even, of_odd));
}
static inline ints dot4(ints acc, bytes w, int32_t x) {
    __m256i all = _mm256_set1_epi32(x);
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), odd = _mm256_srai_epi16(all, 8);
    return (ints){half_dot4(acc.a, w.a, even, odd), half_dot4(acc.b, w.b, even, odd)};
}
static inline void look_up(bytes packed, const uint8_t *table, bytes *low, bytes *high) {
    const __m256i half = _mm256_set1_epi8(15);
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    low->a = _mm256_shuffle_epi8(t, _mm256_and_si256(packed.a, half));
    low->b = _mm256_shuffle_epi8(t, _mm256_and_si256(packed.b, half));
    high->a = _mm256_shuffle_epi8(t, _mm256_and_si256(_mm256_srli_epi16(packed.a, 4), half));
    high->b = _mm256_shuffle_epi8(t, _mm256_and_si256(_mm256_srli_epi16(packed.b, 4), half));
}

#else
#define BRANCH "portable" /* in the vectors of gcc and clang, which have any length on any processor */

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t bytes __attribute__((vector_size(64)));
typedef uint16_t shorts __attribute__((vector_size(32)));

static inline floats floats_of(float x) { return x - (floats){0}; }
static inline floats load_f32(const float *p) { floats r; memcpy(&r, p, sizeof r); return r; }
static inline void store_f32(float *p, floats x) { memcpy(p, &x, sizeof x); }
static inline floats load_bf16(const uint16_t *p) {
    shorts narrow;
    memcpy(&narrow, p, sizeof narrow);
    return (floats)(__builtin_convertvector(narrow, bytes) << 16);
}
static inline floats add(floats a, floats b) { return a + b; }
static inline floats mul(floats a, floats b) { return a * b; }
static inline floats fma16(floats a, floats b, floats c) { return a * b + c; }
static inline float sum(floats x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}
static inline ints ints_of(int32_t x) { return x - (ints){0}; }
static inline floats to_floats(ints x) { return __builtin_convertvector(x, floats); }
static inline bytes load_bytes(const uint8_t *p) { bytes r; memcpy(&r, p, sizeof r); return r; }
static inline void store_bytes(uint8_t *p, bytes x) { memcpy(p, &x, sizeof x); }
static inline ints dot4(ints acc, bytes w, int32_t x) {
    int8_t four[4];
    memcpy(four, &x, 4);
    for (int j = 0; j < 4; j++) acc += (ints)(w >> (8 * j) & 255) * four[j];
    return acc;
}
static inline void look_up(bytes packed, const uint8_t *table, bytes *low, bytes *high) {
    uint8_t from[64], a[64], b[64];
    memcpy(from, &packed, 64);
    for (int i = 0; i < 64; i++) a[i] = table[from[i] & 15], b[i] = table[from[i] >> 4];
    memcpy(low, a, 64), memcpy(high, b, 64);
}
#endif

/* acc + the products of 32 numbers, two for each lane. */
static inline floats widened_dot(floats acc, const uint16_t *a, const uint16_t *b) {
    return fma16(load_bf16(a + LANES), load_bf16(b + LANES), fma16(load_bf16(a), load_bf16(b), acc));
}
#ifndef DOT_BF16
#define dot_bf16 widened_dot
#endif
