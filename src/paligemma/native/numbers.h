/* Numbers of the two types that tensors have here, one at a time, and functions of one. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

INLINE float from_bf16(uint16_t x) {
    uint32_t wide = (uint32_t)x << 16;
    float r;
    memcpy(&r, &wide, 4);
    return r;
}

INLINE uint16_t to_bf16(float x) { /* nearest, ties to even; NaN stays NaN */
    uint32_t wide;
    memcpy(&wide, &x, 4);
    uint32_t nearest = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    return (uint16_t)(x == x ? nearest : (wide >> 16 | 64));
}

INLINE float number(const void *p, int64_t i, int bfloat16) {
    return bfloat16 ? from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

INLINE void put(void *p, int64_t i, float x, int bfloat16) {
    if (bfloat16) ((uint16_t *)p)[i] = to_bf16(x);
    else ((float *)p)[i] = x;
}

INLINE float exponential(float x) { /* within 2e-7 of e^x; made so that compilers compute many at once */
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    float whole = rintf(x * 1.44269504f), rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float power = 1.0f / 720;
    power = power * rest + 1.0f / 120, power = power * rest + 1.0f / 24, power = power * rest + 1.0f / 6;
    power = power * rest + 0.5f, power = power * rest + 1, power = power * rest + 1;
    int32_t bits = ((int32_t)whole + 127) << 23;
    float two;
    memcpy(&two, &bits, 4);
    return power * two;
}

INLINE float gelu(float x) { /* by tanh */
    float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1 + exponential(-2 * inner));
}

INLINE float hyperbolic(float x) { return 1 - 2 / (1 + exponential(2 * x)); }
