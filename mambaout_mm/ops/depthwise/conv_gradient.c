/* Gradient of a depthwise convolution's weight and bias.
 *
 *     grad_weight[v, u] = sum over y, x of input[y + v - k/2, x + u - k/2] grad[y, x]
 *     grad_bias = sum over y, x of grad[y, x]
 *
 * for each channel, with zeros around the map; k is the odd side of the kernel.
 *
 * Layout: maps are (images, height, width, channels). A task takes WIDTH channels of a band of rows
 * of an image. It copies them to float32 maps with the zeros around, and runs over these once for
 * every two rows of the kernel, whose sums stay in registers. Each band has its own sums in memory,
 * so that results do not depend on threads.
 */
#include "../native/parallel.h"
#include "bands.h"

struct conv_gradient {
    const void *input; /* (images, height, width, channels) */
    const void *grad;  /* (images, height, width, channels) */
    float *sums;       /* (images * bands, size * size + 1, channels): grad_weight, grad_bias */
    void *copies;      /* (threads, vectors): memory for what tasks copy; aligned to vectors */
    long images, height, width, channels, size, dtype, band, vectors, threads;
};

/* The band's sums over columns and rows for kernel rows v to v + count - 1. */
INLINE void taps(const vec *input, const vec *grad, vec *sums, long rows, long width, long v,
                 long count, long size) {
    vec total[2][7] = {{{0}}};
    long padded = width + size - 1;
    for (long y = 0; y < rows; y++) {
        /* A row of the input meets kernel row v of one row of the gradient, v + 1 of the next. */
        const vec *above = input + (y + v) * padded, *g = grad + y * width;
        const vec *below = above + padded;
        for (long x = 0; x < width; x++) {
            vec here = g[x];
            for (long u = 0; u < size; u++) {
                total[0][u] += above[x + u] * here;
                if (count == 2) total[1][u] += below[x + u] * here;
            }
        }
    }
    for (long i = 0; i < count; i++)
        for (long u = 0; u < size; u++) sums[(v + i) * size + u] = total[i][u];
}

INLINE void all_taps(const vec *input, const vec *grad, vec *sums, long rows, long width,
                     long size) {
    long v = 0;
    for (; v + 2 <= size; v += 2) taps(input, grad, sums, rows, width, v, 2, size);
    taps(input, grad, sums, rows, width, v, 1, size);
}

/* Any size: a tap at a time. */
static void single_taps(const vec *input, const vec *grad, vec *sums, long rows, long width,
                        long size) {
    for (long tap = 0; tap < size * size; tap++) {
        vec total = {0};
        for (long y = 0; y < rows; y++) {
            const vec *row = input + (y + tap / size) * (width + size - 1) + tap % size;
            for (long x = 0; x < width; x++) total += row[x] * grad[y * width + x];
        }
        sums[tap] = total;
    }
}

INLINE void band_of(const struct conv_gradient *a, long index, enum dtype dtype) {
    struct band band = band_at(index, a->height, a->channels, a->band);
    long size = a->size, rows = band.rows, bands = (a->height + a->band - 1) / a->band;
    vec *input = (vec *)a->copies + worker_number() * a->vectors;
    vec *grad = input + padded_vectors(&band, a->width, size), bias = {0};
    vec *sums = grad + rows * a->width;
    copy_padded(input, a->input, &band, a->height, a->width, a->channels, size, dtype);
    for (long y = 0; y < rows; y++) {
        vec *row = grad + y * a->width;
        copy_row(row, a->grad,
                 ((band.image * a->height + band.top + y) * a->width) * a->channels + band.channel,
                 a->width, a->channels, band.count, dtype);
        for (long x = 0; x < a->width; x++) bias += row[x];
    }
    if (size == 7)
        all_taps(input, grad, sums, rows, a->width, 7);
    else if (size == 5)
        all_taps(input, grad, sums, rows, a->width, 5);
    else if (size == 3)
        all_taps(input, grad, sums, rows, a->width, 3);
    else
        single_taps(input, grad, sums, rows, a->width, size);

    float *to = a->sums + band.channel +
                (band.image * bands + band.number) * (size * size + 1) * a->channels;
    for (long tap = 0; tap < size * size; tap++)
        store_part(to, tap * a->channels, band.count, sums[tap], FLOAT32);
    store_part(to, size * size * a->channels, band.count, bias, FLOAT32);
}

static void task_of(const void *arguments, long index) {
    const struct conv_gradient *a = arguments;
    if (a->dtype == FLOAT32)
        band_of(a, index, FLOAT32);
    else
        band_of(a, index, BFLOAT16);
}

/* Writes sums. */
void conv_weight_gradient(const struct conv_gradient *a) {
    run_tasks(task_of, a, bands_of(a->images, a->height, a->channels, a->band), a->threads);
}
