/* Depthwise convolution with zeros around the map.
 *
 *     output[y, x] = bias + sum over v, u of weight[v, u] input[y + v - k/2, x + u - k/2]
 *
 * for each channel; k is the odd side of the kernel. With `turned` the weight is turned by 180
 * degrees, which gives the gradient of the input from that of the output.
 *
 * Layout: maps are (images, height, width, channels), the weight (channels, k, k). A task takes WIDTH
 * channels of a band of rows of an image. It copies them to a float32 map with the zeros around, and
 * keeps COLUMNS neighbouring sums in registers. Arithmetic is float32.
 */
#include "../native/parallel.h"
#include "bands.h"

enum { COLUMNS = 8 };

struct convolution {
    const void *input;  /* (images, height, width, channels) */
    const void *weight; /* (channels, size, size) */
    const void *bias;   /* (channels), or NULL */
    void *output;       /* (images, height, width, channels) */
    void *copies;       /* (threads, vectors): memory for what tasks copy; aligned to vectors */
    long images, height, width, channels, size, dtype, band, turned, vectors, threads;
};

/* `columns` neighbouring sums of WIDTH channels. `input` is their upper left tap. */
INLINE void sums_of(vec *sums, const vec *input, const vec *weight, vec bias, long padded, long size,
                    long columns) {
    for (long k = 0; k < columns; k++) sums[k] = bias;
    for (long v = 0; v < size; v++)
        for (long u = 0; u < size; u++) {
            vec tap = weight[v * size + u];
            for (long k = 0; k < columns; k++) sums[k] += input[v * padded + u + k] * tap;
        }
}

INLINE void row_of(const struct convolution *a, const vec *input, const vec *weight, vec bias, long at,
                   long count, long size, enum dtype dtype) {
    long padded = a->width + size - 1;
    for (long x = 0; x < a->width;) {
        vec sums[COLUMNS];
        long columns = x + COLUMNS <= a->width ? COLUMNS : 1;
        if (columns == COLUMNS)
            sums_of(sums, input + x, weight, bias, padded, size, COLUMNS);
        else
            sums_of(sums, input + x, weight, bias, padded, size, 1);
        for (long k = 0; k < columns; k++, x++) {
            if (count == WIDTH)
                store(a->output, at + x * a->channels, sums[k], dtype);
            else
                store_part(a->output, at + x * a->channels, count, sums[k], dtype);
        }
    }
}

/* WIDTH channels' weights, a vector for each tap. */
INLINE void copy_weight(const struct convolution *a, vec *to, long first, long count,
                        enum dtype dtype) {
    long taps = a->size * a->size;
    for (long tap = 0; tap < taps; tap++) {
        vec x = {0};
        long from = a->turned ? taps - 1 - tap : tap;
        for (long k = 0; k < count; k++) x[k] = element(a->weight, (first + k) * taps + from, dtype);
        to[tap] = x;
    }
}

INLINE void band_of(const struct convolution *a, long index, enum dtype dtype) {
    struct band band = band_at(index, a->height, a->channels, a->band);
    vec *input = (vec *)a->copies + worker_number() * a->vectors, bias = {0};
    vec *weight = input + padded_vectors(&band, a->width, a->size);
    copy_padded(input, a->input, &band, a->height, a->width, a->channels, a->size, dtype);
    copy_weight(a, weight, band.channel, band.count, dtype);
    if (a->bias) bias = load_part(a->bias, band.channel, band.count, dtype);
    for (long y = 0; y < band.rows; y++) {
        const vec *row = input + y * (a->width + a->size - 1);
        long at = ((band.image * a->height + band.top + y) * a->width) * a->channels + band.channel;
        if (a->size == 7)
            row_of(a, row, weight, bias, at, band.count, 7, dtype);
        else if (a->size == 3)
            row_of(a, row, weight, bias, at, band.count, 3, dtype);
        else
            row_of(a, row, weight, bias, at, band.count, a->size, dtype);
    }
}

static void task_of(const void *arguments, long index) {
    const struct convolution *a = arguments;
    if (a->dtype == FLOAT32)
        band_of(a, index, FLOAT32);
    else
        band_of(a, index, BFLOAT16);
}

/* Writes output. */
void depthwise_convolution(const struct convolution *a) {
    run_tasks(task_of, a, bands_of(a->images, a->height, a->channels, a->band), a->threads);
}
