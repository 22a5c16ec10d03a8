/* Sums over the pixels of a map, for the gradient of a bias.
 *
 * Layout: x is (pixels, channels). A task takes `rows` pixels, and has a row of its own in `sums`, so
 * that the sums do not depend on threads.
 */
#include "../native/columns.h"
#include "../native/parallel.h"

/* Pixels between two additions to the sums in memory. */
enum { PIXELS = 32 };

struct columns {
    const void *x; /* (pixels, channels) */
    float *sums;   /* (tasks, channels) */
    long pixels, channels, dtype, rows, threads;
};

static void task_of(const void *arguments, long index) {
    const struct columns *a = arguments;
    long first = index * a->rows, last = first + a->rows, channels = a->channels;
    if (last > a->pixels) last = a->pixels;
    float *sums = a->sums + index * channels;
    memset(sums, 0, (size_t)channels * sizeof *sums);
    for (long p = first; p < last; p += PIXELS) {
        long count = last - p < PIXELS ? last - p : PIXELS;
        if (a->dtype == FLOAT32)
            add_columns(sums, a->x, p * channels, count, channels, FLOAT32);
        else
            add_columns(sums, a->x, p * channels, count, channels, BFLOAT16);
    }
}

/* Writes sums. */
void column_sums(const struct columns *a) {
    run_tasks(task_of, a, (a->pixels + a->rows - 1) / a->rows, a->threads);
}
