/* Matrix products for few rows against large weights, the work of generating text, where memory is the limit.

   plain_product   y = x W' + b with W as PyTorch keeps it, float32 or bfloat16, for 1 to 4 rows of x
   coded_product   the same with W in 8-bit or 4-bit codes, for any number of rows
   pack            W as PyTorch keeps it -> codes

   Codes lie in panels of 64 outputs, so that one pass reads memory from front to back:
     8 bits  [out / 64][in / 4][64][4]      byte = code + 128
     4 bits  [out / 64][in / 8][64][4]      low half: input 8 i + j, high half: input 8 i + 4 + j; a place in a table
   and stand for scale * (byte - 128): with one scale for an output, float32[out / 64][64], or one for an output and group
   of inputs, bfloat16[out / 64][groups][64]. The inputs of a token are rounded to 8 bits as well, in the same groups, each with a
   scale of its own; all sums within a group are exact whole numbers. */

#include "lanes.h"
#include "steps.h"
#include <math.h>

#define VECTORS (PANEL / LANES) /* in a panel */
#define TILE 6                  /* most rows of x at a time: 24 sums, 4 weights and an input fill 32 registers */
#define BLOCK 510               /* rows of x whose sums with a panel stay near; a multiple of TILE */
#define CHUNK 256               /* inputs whose weights stay near while all rows pass: 16 KiB of a panel */
#define NEAR_BYTES 12288        /* of an input that stays in the first cache beside a row of weights */

const char *branch(void) { return BRANCH; }

/* --- plain weights ---------------------------------------------------------------------------------------------- */

/* `outs` neighbouring outputs, 1 or 4, for each of `rows` inputs x[rows, in] -> y[rows, outs]; four sums for each input
   either way. Memory is fastest read front to back: one row of w at a time, as long as one x stays in the first cache. */
INLINE void plain_tile(int rows, int outs, int bfloat16, const void *x, const void *w, int64_t in, float *y) {
    const int64_t step = bfloat16 ? 2 * LANES : LANES, stride = outs == 4 ? step : 4 * step, whole = in / stride * stride;
    const uint16_t *w16 = w, *x16 = x;
    const float *w32 = w, *x32 = x;
    floats acc[4][4];
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < 4; i++) acc[m][i] = floats_of(0);
    for (int64_t k = 0; k < whole; k += stride)
        for (int i = 0; i < 4; i++)
            for (int m = 0; m < rows; m++) {
                int64_t at = outs == 4 ? k : k + i * step, at_w = (outs == 4 ? i * in : 0) + at, at_x = m * in + at;
                acc[m][i] = bfloat16 && outs == 1 ? widened_dot(acc[m][i], w16 + at_w, x16 + at_x) /* was faster */
                            : bfloat16            ? dot_bf16(acc[m][i], w16 + at_w, x16 + at_x)
                                                  : fma16(load_f32(w32 + at_w), load_f32(x32 + at_x), acc[m][i]);
            }
    for (int m = 0; m < rows; m++) {
        if (outs == 1) acc[m][0] = add(add(acc[m][0], acc[m][1]), add(acc[m][2], acc[m][3]));
        for (int n = 0; n < outs; n++) {
            float total = sum(acc[m][n]);
            for (int64_t k = whole; k < in; k++)
                total += number(w, n * in + k, bfloat16) * number(x, m * in + k, bfloat16);
            y[m * outs + n] = total;
        }
    }
}

#define CASE(rows, bfloat16)                                                                            \
    case 10 * rows + bfloat16:                                                                          \
        if (outs == 4) plain_tile(rows, 4, bfloat16, x, w, in, y);                                      \
        else plain_tile(rows, 1, bfloat16, x, w, in, y);                                                \
        break;

static void plain_tiles(int rows, int outs, int bfloat16, const void *x, const void *w, int64_t in, float *y) {
    switch (10 * rows + bfloat16) { CASE(1, 0) CASE(2, 0) CASE(3, 0) CASE(4, 0) CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) }
}

/* Outputs from `first`, a multiple of 4, up to `last`. */
void plain_outputs(const shape *s, int64_t rows, const void *x, const void *w, const void *bias, int64_t first,
                   int64_t last, void *y) {
    const int64_t in = s->in;
    const int bfloat16 = s->bfloat16 != 0, wide = bfloat16 ? 2 : 4, outs = rows > 1 || in * wide > NEAR_BYTES ? 4 : 1;
    for (int64_t n = first, count; n < last; n += count) {
        float sums[4 * 4] = {0};
        count = last - n < outs ? 1 : outs;
        plain_tiles((int)rows, (int)count, bfloat16, x, (const char *)w + n * in * wide, in, sums);
        for (int64_t m = 0; m < rows; m++)
            for (int64_t i = 0; i < count; i++) {
                float b = bias ? number(bias, n + i, bfloat16) : 0;
                put(y, m * s->out + n + i, sums[m * count + i] + b, bfloat16);
            }
    }
}

/* y[rows, out] = x[rows, in] w[out, in]' + bias, all of one type; 1 to 4 rows. */
void plain_product(const shape *s, const void *x, const void *w, const void *bias, void *y) {
#pragma omp parallel for schedule(guided, 4) num_threads((int)s->threads)
    for (int64_t first = 0; first < s->out; first += 16)
        plain_outputs(s, s->rows, x, w, bias, first, s->out - first < 16 ? s->out : first + 16, y);
}

/* --- inputs as 8-bit codes -------------------------------------------------------------------------------------- */

int64_t inputs_bytes(const shape *s, int64_t rows) { return rows * (s->padded_in + 8 * (s->padded_in / s->group)); }

inputs inputs_in(const shape *s, int64_t rows, void *room) {
    float *scales = room;
    int32_t *starts = (int32_t *)(scales + rows * (s->padded_in / s->group));
    return (inputs){(int8_t *)(starts + rows * (s->padded_in / s->group)), scales, starts};
}

/* Row `row` of x and of the codes. */
void code_row(const shape *s, const void *x, int64_t row, const inputs *to, float *line) {
    const int64_t in = s->in, groups = s->padded_in / s->group;
    if (s->bfloat16) for (int64_t k = 0; k < in; k++) line[k] = from_bf16(((const uint16_t *)x)[row * in + k]);
    else memcpy(line, (const float *)x + row * in, in * sizeof(float));
    for (int64_t k = in; k < s->padded_in; k++) line[k] = 0;
    for (int64_t g = 0; g < groups; g++) {
        const float *from = line + g * s->group;
        int8_t *codes = to->codes + row * s->padded_in + g * s->group;
        float largest = 0, strange = 0; /* NaN or infinity make `strange` NaN, and with it every output */
        int32_t total = 0;
#pragma omp simd reduction(max : largest) reduction(+ : strange)
        for (int64_t k = 0; k < s->group; k++) {
            float size = fabsf(from[k]);
            largest = size > largest ? size : largest;
            strange += from[k] * 0.0f;
        }
        float step = largest / 127, inverse = largest > 0 && strange == 0 ? 127 / largest : 0;
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < s->group; k++) {
            int32_t code = (int32_t)rintf(from[k] * inverse);
            codes[k] = (int8_t)code;
            total += code;
        }
        to->scales[row * groups + g] = step + strange;
        to->starts[row * groups + g] = -128 * total;
    }
}

/* --- products of codes ------------------------------------------------------------------------------------------ */

/* sums[rows, 64] += x codes * weight codes over `groups` groups; weights as 8-bit codes, or as 4-bit ones looked up. */
INLINE void tile(int rows, int bits, const shape *s, const inputs *x, int64_t first_row, int64_t first_group,
                 int64_t groups, const uint8_t *w, const uint16_t *scales, const uint8_t *table, float *sums) {
    const int64_t all_groups = s->padded_in / s->group, step = bits == 8 ? 4 : 8;
    const int8_t *codes = x->codes + first_row * s->padded_in;
    for (int64_t g = first_group; g < first_group + groups; g++) {
        ints acc[TILE][VECTORS];
        for (int m = 0; m < rows; m++)
            for (int v = 0; v < VECTORS; v++) acc[m][v] = ints_of(x->starts[(first_row + m) * all_groups + g]);
        for (int64_t k = g * s->group; k < (g + 1) * s->group; k += step, w += 4 * PANEL) {
            bytes low[VECTORS], high[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                low[v] = load_bytes(w + v * 4 * LANES);
                if (bits == 4) look_up(low[v], table, &low[v], &high[v]);
            }
            for (int m = 0; m < rows; m++) {
                int32_t four[2];
                memcpy(four, codes + m * s->padded_in + k, step);
                for (int v = 0; v < VECTORS; v++) acc[m][v] = dot4(acc[m][v], low[v], four[0]);
                if (bits == 4) for (int v = 0; v < VECTORS; v++) acc[m][v] = dot4(acc[m][v], high[v], four[1]);
            }
        }
        __asm__ volatile("" ::: "memory"); /* or compilers keep `sums` in the registers that the loop above needs */
        for (int v = 0; v < VECTORS; v++) {
            floats of_weight = scales ? load_bf16(scales + g * PANEL + v * LANES) : floats_of(1);
            for (int m = 0; m < rows; m++) {
                float *to = sums + m * PANEL + v * LANES;
                floats scale = mul(of_weight, floats_of(x->scales[(first_row + m) * all_groups + g]));
                store_f32(to, fma16(to_floats(acc[m][v]), scale, load_f32(to)));
            }
        }
    }
}

#define TILES(bits)                                                                                              \
    switch (rows) {                                                                                              \
        case 1: tile(1, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;              \
        case 2: tile(2, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;              \
        case 3: tile(3, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;              \
        case 4: tile(4, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;              \
        case 5: tile(5, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;              \
        default: tile(6, bits, s, x, first_row, first_group, groups, w, scales, table, sums); break;             \
    }

static void tiles_8(int rows, const shape *s, const inputs *x, int64_t first_row, int64_t first_group, int64_t groups,
                    const uint8_t *w, const uint16_t *scales, const uint8_t *table, float *sums) { TILES(8) }
static void tiles_4(int rows, const shape *s, const inputs *x, int64_t first_row, int64_t first_group, int64_t groups,
                    const uint8_t *w, const uint16_t *scales, const uint8_t *table, float *sums) { TILES(4) }

/* 4-bit codes of `count` inputs of a panel -> 8-bit ones. */
static void widen(const uint8_t *packed, int64_t count, const uint8_t *table, uint8_t *to) {
    for (int64_t k = 0; k < count; k += 8, packed += 4 * PANEL, to += 8 * PANEL)
        for (int v = 0; v < VECTORS; v++) {
            bytes low, high;
            look_up(load_bytes(packed + v * 4 * LANES), table, &low, &high);
            store_bytes(to + v * 4 * LANES, low), store_bytes(to + 4 * PANEL + v * 4 * LANES, high);
        }
}

/* `rows` rows of x from `first` on against one panel. `sums`: float32[rows, 64]. */
static void panel_product(const shape *s, const inputs *x, int64_t first, int64_t rows, const uint8_t *w,
                          const uint16_t *scales, const uint8_t *table, float *sums) {
    const int64_t all = s->padded_in / s->group;
    const int look = s->bits == 4 && rows > 2 * TILE; /* looked up once for all rows, not by each tile */
    const int64_t near = rows <= TILE ? all : CHUNK > s->group ? CHUNK / s->group : 1;
    const int64_t tiles = (rows + TILE - 1) / TILE;
    uint8_t wide[look ? near * s->group * PANEL : 1];
    memset(sums, 0, rows * PANEL * sizeof(float));
    for (int64_t g = 0; g < all; g += near) {
        int64_t groups = g + near < all ? near : all - g;
        const uint8_t *part = w + g * s->group * PANEL * s->bits / 8;
        if (look) widen(part, groups * s->group, table, wide), part = wide;
        for (int64_t i = 0; i < tiles; i++) {
            int64_t m = rows * i / tiles;
            int count = (int)(rows * (i + 1) / tiles - m);
            (s->bits == 4 && !look ? tiles_4 : tiles_8)(count, s, x, first + m, g, groups, part, scales, table,
                                                        sums + m * PANEL);
        }
    }
}

/* y of some rows and a panel: sums times the outputs' scales, where these do not belong to groups, plus bias. */
static void put_sums(const shape *s, int64_t first, int64_t rows, int64_t panel, const float *scales, const void *bias,
                     const float *sums, void *y) {
    const int64_t start = panel * PANEL, count = s->out - start < PANEL ? s->out - start : PANEL;
    const int bfloat16 = s->bfloat16 != 0;
    float scale[PANEL], add[PANEL];
    for (int64_t n = 0; n < count; n++) {
        scale[n] = scales ? scales[start + n] : 1;
        add[n] = bias ? number(bias, start + n, bfloat16) : 0;
    }
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < count; n++)
            put(y, (first + m) * s->out + start + n, sums[m * PANEL + n] * scale[n] + add[n], bfloat16);
}

/* Outputs of one panel, for all rows. */
void coded_panel(const shape *s, const matrix *w, int64_t panel, const inputs *x, int64_t rows, const void *bias,
                 float *sums, void *y) {
    const int64_t first = panel * PANEL, groups = s->padded_in / s->group;
    const uint8_t *codes = w->codes + first * s->padded_in * s->bits / 8;
    const uint16_t *by_group = s->grouped ? (const uint16_t *)w->scales + first * groups : NULL;
    for (int64_t m = 0; m < rows; m += BLOCK) {
        int64_t count = rows - m < BLOCK ? rows - m : BLOCK;
        panel_product(s, x, m, count, codes, by_group, w->table, sums);
        put_sums(s, m, count, panel, s->grouped ? NULL : w->scales, bias, sums, y);
    }
}

INLINE int64_t block_rows(const shape *s) { return s->rows < BLOCK ? s->rows : BLOCK; }

/* Bytes of scratch that coded_product needs. */
int64_t scratch_bytes(const shape *s) {
    return inputs_bytes(s, s->rows) + s->threads * 4 * (block_rows(s) * PANEL + s->padded_in);
}

/* y[rows, out] = x[rows, in] W' + bias; x, bias and y of one type. */
void coded_product(const shape *s, const void *x, const matrix *w, const void *bias, void *y, void *scratch) {
    const int64_t panels = (s->out + PANEL - 1) / PANEL;
    float *lines = scratch, *sums = lines + s->threads * s->padded_in;
    inputs coded = inputs_in(s, s->rows, sums + s->threads * block_rows(s) * PANEL);
    if (s->rows < 4) for (int64_t m = 0; m < s->rows; m++) code_row(s, x, m, &coded, lines);
    else
#pragma omp parallel for schedule(static) num_threads((int)s->threads)
        for (int64_t m = 0; m < s->rows; m++) code_row(s, x, m, &coded, lines + THREAD * s->padded_in);
#pragma omp parallel for schedule(guided, 2) num_threads((int)s->threads)
    for (int64_t p = 0; p < panels; p++)
        coded_panel(s, w, p, &coded, s->rows, bias, sums + THREAD * block_rows(s) * PANEL, y);
}

/* --- making codes ----------------------------------------------------------------------------------------------- */

#define MOST 256 /* numbers in a group */

/* float32[group] -> places in `levels`, and the bfloat16 scale by which the largest number becomes the largest level. */
static uint16_t code_group(const float *from, int64_t group, const float *levels, uint8_t *codes) {
    float extreme = 0, share[MOST];
    int32_t place[MOST];
    for (int64_t k = 0; k < group; k++) extreme = fabsf(from[k]) > fabsf(extreme) ? from[k] : extreme;
    uint16_t stored = to_bf16(-levels[0] > levels[15] ? extreme / levels[0] : fabsf(extreme) / levels[15]);
    float scale = from_bf16(stored);
    if (scale == 0) scale = 1;
    for (int64_t k = 0; k < group; k++) share[k] = from[k] / scale, place[k] = 0;
    for (int i = 0; i < 15; i++) {
        float middle = (levels[i] + levels[i + 1]) / 2;
        for (int64_t k = 0; k < group; k++) place[k] += share[k] > middle;
    }
    for (int64_t k = 0; k < group; k++) codes[k] = (uint8_t)place[k];
    return stored;
}

/* The same for a row of bytes, which are numbers + 128; returns the scale. */
static float code_bytes(const float *line, int64_t in, uint8_t *codes) {
    float largest = 1e-38f;
#pragma omp simd reduction(max : largest)
    for (int64_t k = 0; k < in; k++) {
        float size = fabsf(line[k]);
        largest = size > largest ? size : largest;
    }
    float scale = largest / 127;
    for (int64_t k = 0; k < in; k++) codes[k] = (uint8_t)((int32_t)rintf(line[k] / scale) + 128);
    return scale;
}

/* Square of how far some codes are off. */
static double missed(const float *line, const uint8_t *codes, int64_t count, const float *levels, float scale) {
    float off = 0;
#pragma omp simd reduction(+ : off)
    for (int64_t k = 0; k < count; k++) {
        float miss = line[k] - (levels ? levels[codes[k]] : codes[k] - 128) * scale;
        off += miss * miss;
    }
    return off;
}

/* One row of a panel; `line`: its numbers as float32[padded_in], `row`: room for its codes. Returns how far they are
   off, squared. */
static double pack_row(const shape *s, const float *line, int64_t place, const float *levels, uint8_t *codes,
                       void *scales, uint8_t *row) {
    uint8_t *to = codes + place * 4;
    double off = 0;
    if (levels) {
        for (int64_t g = 0; g * s->group < s->padded_in; g++) {
            int64_t at = g * s->group;
            uint16_t stored = code_group(line + at, s->group, levels, row + at);
            ((uint16_t *)scales)[g * PANEL + place] = stored;
            off += missed(line + at, row + at, s->group, levels, from_bf16(stored));
        }
        for (int64_t k = 0; k < s->padded_in; k += 8, to += 4 * PANEL)
            for (int j = 0; j < 4; j++) to[j] = (uint8_t)(row[k + j] | row[k + 4 + j] << 4);
        return off;
    }
    float scale = code_bytes(line, s->padded_in, row);
    ((float *)scales)[place] = scale;
    for (int64_t k = 0; k < s->padded_in; k += 4, to += 4 * PANEL) memcpy(to, row + k, 4);
    return missed(line, row, s->padded_in, NULL, scale);
}

/* w[out, in] -> whole panels of codes and scales; `levels`: float32[16], for 4-bit codes. Returns |w - decoded|^2, and in
   `size` |w|^2. Scratch: float32[threads, 2, padded_in]. */
double pack(const shape *s, const void *w, const float *levels, uint8_t *codes, uint8_t *scales, double *size,
            float *scratch) {
    const int64_t panels = (s->out + PANEL - 1) / PANEL, groups = s->padded_in / s->group;
    const int64_t scale_bytes = levels ? groups * PANEL * 2 : PANEL * 4, code_bytes = PANEL * s->padded_in * s->bits / 8;
    double off = 0, all = 0;
#pragma omp parallel for schedule(static) num_threads((int)s->threads) reduction(+ : off, all)
    for (int64_t p = 0; p < panels; p++) {
        float *line = scratch + THREAD * 2 * s->padded_in;
        for (int64_t place = 0; place < PANEL; place++) {
            int64_t n = p * PANEL + place;
            memset(line, 0, s->padded_in * sizeof(float));
            if (n < s->out) {
                if (s->bfloat16) for (int64_t k = 0; k < s->in; k++) line[k] = from_bf16(((const uint16_t *)w)[n * s->in + k]);
                else memcpy(line, (const float *)w + n * s->in, s->in * sizeof(float));
            }
            float squares = 0;
#pragma omp simd reduction(+ : squares)
            for (int64_t k = 0; k < s->in; k++) squares += line[k] * line[k];
            all += squares;
            double miss = pack_row(s, line, place, levels, codes + p * code_bytes, scales + p * scale_bytes,
                                   (uint8_t *)(line + s->padded_in));
            off += n < s->out ? miss : 0;
            if (n >= s->out && !levels) ((float *)(scales + p * scale_bytes))[place] = 0;
        }
    }
    *size = all;
    return off;
}
