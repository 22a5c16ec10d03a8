/* Sums over rows. */
#ifndef MAMBAOUT_MM_COLUMNS_H
#define MAMBAOUT_MM_COLUMNS_H

#include "vector.h"

/* Adds `rows` rows of `width` elements, from element `at` of `base` on, to `sums`. */
INLINE void add_columns(float *sums, const void *base, long at, long rows, long width,
                        enum dtype dtype) {
    long k = 0;
    for (; k + WIDTH <= width; k += WIDTH) {
        vec total = load(sums, k, FLOAT32);
        for (long row = 0; row < rows; row++) total += load(base, at + row * width + k, dtype);
        store(sums, k, total, FLOAT32);
    }
    for (; k < width; k++)
        for (long row = 0; row < rows; row++) {
            long index = at + row * width + k;
            sums[k] += dtype == FLOAT32 ? ((const float *)base)[index]
                                        : bfloat16_to_float(((const uint16_t *)base)[index]);
        }
}

#endif
