/* Causal convolutions: parts of vectors, slabs, tiles and chunks; rows with a gap between them. */
#include "driver.h"

#include "causal_conv/causal_conv.c"

/* A (batches, groups, length, channels) array whose steps lie `gap` elements further apart. */
static struct steps steps_of(void *data, const long *s, long gap) {
    long time = s[3] + gap;
    return (struct steps){.data = data, .batch = s[1] * s[2] * time, .group = s[2] * time,
                          .time = time};
}

static void run(const long *s, long shift, long threads, struct array *results) {
    long batches = s[0], groups = s[1], length = s[2], channels = s[3], size = s[4], gap = s[6];
    long bytes = s[5] == FLOAT32 ? 4 : 2, width = groups * channels;
    long count = batches * groups * length * channels, rows = batches * groups * length;
    long read = rows * (channels + gap) - gap; /* none after the last */
    struct array arrays[] = {numbers(read, bytes, shift * bytes),
                             numbers(read, bytes, shift * bytes),
                             numbers(size * width, 4, shift * 4), numbers(width, 4, shift * 4)};
    long chunks = (length + CHUNK - 1) / CHUNK;
    results[0] = array(count, bytes, shift * bytes);
    results[1] = array(count, bytes, shift * bytes);
    results[2] = array(batches * chunks * (size + 1) * width, 4, shift * 4);
    struct causal_conv a = {.batches = batches, .groups = groups, .length = length,
                            .channels = channels, .size = size, .dtype = s[5], .chunk = CHUNK,
                            .threads = threads, .weight = arrays[2].data, .bias = arrays[3].data,
                            .sums = results[2].data};
    a.x = steps_of(arrays[0].data, s, gap);
    a.grad_y = steps_of(arrays[1].data, s, gap);
    a.y = steps_of(results[0].data, s, 0);
    a.grad_x = steps_of(results[1].data, s, 0);
    if (causal_conv_forward(&a) || causal_conv_backward(&a)) abort();
    release(arrays, 4);
}

int main(void) {
    /* batches, groups, length, channels, taps */
    const long shapes[][5] = {{1, 1, 1, 1, 1},   {2, 3, 2, 5, 4},    {1, 2, 8, 16, 4},
                              {2, 1, 13, 33, 3}, {1, 4, 129, 17, 4}, {2, 1, 256, 32, 4},
                              {1, 1, 140, 270, 8}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long kind = 0; kind < 4; kind++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], s[3], s[4], kind % 2 ? BFLOAT16 : FLOAT32,
                                kind / 2 * 3});
        }
    return 0;
}
