/* The work on one row or one panel, of which callers make loops and give threads their shares. */

#pragma once
#include "numbers.h"

#define NONE (-2.3819763e38f) /* score of a key that is not seen */
#define PANEL 64 /* outputs whose codes lie together */

/* Sizes of a product and the kind of its codes, which are told in kernels.c. */
typedef struct {
    int64_t rows, in, out; /* true sizes */
    int64_t padded_in;     /* a multiple of group */
    int64_t group;         /* inputs that share a scale, a multiple of 8 */
    int64_t bits;          /* 8 or 4; of numbers that are no codes 16 or 32 */
    int64_t grouped;       /* whether a weight's scale belongs to its group too, not to the output alone */
    int64_t bfloat16;      /* type of x, bias and y; float32 otherwise */
    int64_t threads;
} shape;

/* A weight in codes; `table`: 16 bytes, for 4-bit codes. */
typedef struct {
    const uint8_t *codes;
    const void *scales;
    const uint8_t *table;
} matrix;

/* Rows of x as 8-bit codes. */
typedef struct {
    int8_t *codes;   /* [rows, padded_in] */
    float *scales;   /* [rows, groups] */
    int32_t *starts; /* [rows, groups]: -128 * sum of the codes, which takes the weights' offset back */
} inputs;

typedef struct {
    int64_t batch, heads, length, head_dim, kv_heads, keys; /* of q [batch, heads, length, head_dim], k and v */
    int64_t q[3], k[3], v[3];                               /* strides in numbers, but the last, which is 1 */
    int64_t of_queries, of_keys;                            /* strides of a row's steps, positions, valid marks */
    int64_t window;                                         /* 0 is none */
    int64_t bfloat16, threads;
    float scale, softcap; /* a cap of 0 is none */
} attention;

typedef struct {
    const int64_t *query_step, *query_position, *key_step, *key_position;
    const uint8_t *key_valid;
} marks;

/* Of kernels.c: products of at most 4 rows with numbers that are no codes. */
void plain_outputs(const shape *s, int64_t rows, const void *x, const void *w, const void *bias, int64_t first,
                   int64_t last, void *y);

/* Of kernels.c. `line`: float32[padded_in]; `sums`: float32[rows, 64], at most 510 rows. */
inputs inputs_in(const shape *s, int64_t rows, void *room); /* takes inputs_bytes of it */
int64_t inputs_bytes(const shape *s, int64_t rows);
void code_row(const shape *s, const void *x, int64_t row, const inputs *to, float *line);
void coded_panel(const shape *s, const matrix *w, int64_t panel, const inputs *x, int64_t rows, const void *bias,
                 float *sums, void *y);

/* Of decoder.c, each with the whole row. */
void rms_norm(int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *weight, float eps, void *out);
void add_norm(int64_t rows, int64_t width, int64_t bfloat16, const void *x, const void *change, const void *post,
              float post_eps, const void *after, float eps, void *total, void *out);
void turn(const void *x, const float *cos, const float *sin, int64_t half, void *out, int64_t bfloat16);
void geglu(int64_t count, int64_t bfloat16, const void *gate, const void *up, void *out);
void attend_one(const attention *a, const marks *m, int64_t b, int64_t n, int64_t t, const void *q, const void *k,
                const void *v, float *scores, void *out);
