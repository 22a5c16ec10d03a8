/* Tiles: WIDTH channels of a series over the steps of a segment, a vector for each step.
 *
 * Memory with channels or time innermost is read and written by vectors; the latter is transposed
 * in squares of WIDTH by WIDTH. Any other strides are right, one element at a time.
 */
#ifndef MAMBAOUT_MM_TILE_H
#define MAMBAOUT_MM_TILE_H

#include "scan.h"

/* Transpose: log2 WIDTH times, shuffle the first half of the square's elements with the second. */
static inline void transpose(vec *rows) {
    float a[WIDTH * WIDTH], b[WIDTH * WIDTH];
    memcpy(a, rows, sizeof a);
    for (int round = 1; round < WIDTH; round *= 2) {
        for (int k = 0; k < WIDTH * WIDTH / 2; k++) {
            b[2 * k] = a[k];
            b[2 * k + 1] = a[k + WIDTH * WIDTH / 2];
        }
        memcpy(a, b, sizeof a);
    }
    memcpy(rows, a, sizeof a);
}

INLINE void read_as(vec *tile, const struct series *x, long at, long count, long steps,
                    enum dtype dtype) {
    if (x->channel == 1 && count >= WIDTH) {
        for (long t = 0; t < steps; t++) tile[t] = load(x->data, at + t * x->time, dtype);
    } else if (x->time == 1) {
        for (long t = 0; t < steps; t += WIDTH) {
            vec *rows = tile + t; /* a row for each channel, then for each step */
            for (long c = 0; c < WIDTH; c++) {
                long i = at + c * x->channel + t;
                rows[c] = c >= count           ? splat(0)
                          : t + WIDTH <= steps ? load(x->data, i, dtype)
                                               : load_part(x->data, i, steps - t, dtype);
            }
            transpose(rows);
        }
    } else {
        for (long t = 0; t < steps; t++) {
            float row[WIDTH] = {0};
            for (long c = 0; c < least(count, WIDTH); c++)
                row[c] = load_part(x->data, at + c * x->channel + t * x->time, 1, dtype)[0];
            tile[t] = load(row, 0, FLOAT32);
        }
    }
}

INLINE void write_as(vec *tile, const struct series *x, long at, long count, long steps,
                     enum dtype dtype) {
    if (x->channel == 1 && count >= WIDTH) {
        for (long t = 0; t < steps; t++) store(x->data, at + t * x->time, tile[t], dtype);
    } else if (x->time == 1) {
        for (long t = 0; t < steps; t += WIDTH) {
            vec *rows = tile + t;
            transpose(rows);
            for (long c = 0; c < least(count, WIDTH); c++) {
                long i = at + c * x->channel + t;
                if (t + WIDTH <= steps)
                    store(x->data, i, rows[c], dtype);
                else
                    store_part(x->data, i, steps - t, rows[c], dtype);
            }
        }
    } else {
        for (long t = 0; t < steps; t++)
            for (long c = 0; c < least(count, WIDTH); c++)
                store_part(x->data, at + c * x->channel + t * x->time, 1, splat(tile[t][c]), dtype);
    }
}

/* Read `count` channels, zeros in the place of others, from element `at` on. */
static inline void read_tile(vec *tile, const struct series *x, long at, long count, long steps) {
    if (x->dtype == FLOAT32)
        read_as(tile, x, at, count, steps, FLOAT32);
    else
        read_as(tile, x, at, count, steps, BFLOAT16);
}

/* Bring a row of a tile into the cache, `steps` after element `at`. Rows lie too far apart for the
 * processor to foresee; all at once they would wait for each other. */
INLINE void fetch_row(const struct series *x, long at, long steps) {
    long bytes = x->dtype == FLOAT32 ? 4 : 2;
    __builtin_prefetch((const char *)x->data + (at + steps * x->time) * bytes);
}

/* Write `count` channels; the tile is not what it was afterwards. */
static inline void write_tile(vec *tile, const struct series *x, long at, long count, long steps) {
    if (x->dtype == FLOAT32)
        write_as(tile, x, at, count, steps, FLOAT32);
    else
        write_as(tile, x, at, count, steps, BFLOAT16);
}

#endif
