/* Numbers of the two types that tensors have here, one at a time. */

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
