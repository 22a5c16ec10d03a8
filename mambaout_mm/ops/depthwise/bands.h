/* WIDTH channels of a band of rows of an image, copied to a float32 map with zeros around. */
#ifndef MAMBAOUT_MM_BANDS_H
#define MAMBAOUT_MM_BANDS_H

#include "../native/vector.h"

struct band {
    long image, number;  /* of the band in its image */
    long top, rows;      /* of its rows */
    long channel, count; /* of its channels, WIDTH or the rest */
};

/* How many bands there are in all. */
INLINE long bands_of(long images, long height, long channels, long rows) {
    return images * ((height + rows - 1) / rows) * ((channels + WIDTH - 1) / WIDTH);
}

INLINE struct band band_at(long index, long height, long channels, long rows) {
    long blocks = (channels + WIDTH - 1) / WIDTH, bands = (height + rows - 1) / rows;
    struct band band = {.image = index / blocks / bands, .number = index / blocks % bands};
    band.top = band.number * rows;
    band.rows = least(height - band.top, rows);
    band.channel = index % blocks * WIDTH;
    band.count = least(channels - band.channel, WIDTH);
    return band;
}

/* Vectors of the band with the rows and columns around it that a kernel of `size` reaches. */
INLINE long padded_vectors(const struct band *band, long width, long size) {
    return (band->rows + size - 1) * (width + size - 1);
}

/* Copies `count` channels of a row of pixels, from element `at` on, to whole vectors. */
INLINE void copy_row(vec *to, const void *from, long at, long width, long channels, long count,
                     enum dtype dtype) {
    for (long x = 0; x < width; x++, at += channels)
        to[x] = count == WIDTH ? load(from, at, dtype) : load_part(from, at, count, dtype);
}

/* Copies the band of a map (images, height, width, channels). */
INLINE void copy_padded(vec *to, const void *map, const struct band *band, long height, long width,
                        long channels, long size, enum dtype dtype) {
    long pad = size / 2, padded = width + size - 1;
    memset(to, 0, (size_t)padded_vectors(band, width, size) * sizeof(vec));
    for (long y = 0; y < band->rows + size - 1; y++) {
        long from = band->top + y - pad;
        if (from < 0 || from >= height) continue;
        copy_row(to + y * padded + pad, map,
                 ((band->image * height + from) * width) * channels + band->channel, width, channels,
                 band->count, dtype);
    }
}

#endif
