/* LayerNorm, from each dtype to each, with every remainder and alignment. */
#include "driver.h"

#include "gated_cnn/layer_norm.c"

static void run(const long *s, long shift, long threads, struct array *results) {
    long pixels = s[0], channels = s[1], rows = s[2], tasks = (pixels + rows - 1) / rows;
    long size_x = s[3] == FLOAT32 ? 4 : 2, size_y = s[4] == FLOAT32 ? 4 : 2;
    struct array read[] = {numbers(pixels * channels, size_x, shift * size_x),
                           numbers(channels, 4, shift * 4), numbers(channels, 4, shift * 4),
                           numbers(pixels * channels, size_y, shift * size_y)};
    results[0] = array(pixels * channels, size_y, shift * size_y);
    results[1] = array(pixels * channels, size_x, shift * size_x);
    results[2] = array(tasks * 2 * channels, 4, shift * 4);
    struct norm forward = {.x = read[0].data, .weight = read[1].data, .bias = read[2].data,
                           .y = results[0].data, .pixels = pixels, .channels = channels,
                           .dtype_x = s[3], .dtype_y = s[4], .rows = rows, .threads = threads,
                           .eps = 1e-6f};
    layer_norm_forward(&forward);
    struct norm backward = forward;
    backward.bias = backward.y = 0;
    backward.grad = read[3].data;
    backward.grad_x = results[1].data;
    backward.sums = results[2].data;
    layer_norm_backward(&backward);
    release(read, 4);
}

int main(void) {
    /* pixels, channels, pixels of a task */
    const long shapes[][3] = {{0, 8, 1},   {1, 1, 1},   {3, 5, 2},    {9, 16, 8},   {17, 31, 9},
                              {5, 33, 10}, {19, 64, 9}, {40, 67, 17}, {2, 2000, 1}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long kind = 0; kind < 4; kind++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], kind % 2 ? BFLOAT16 : FLOAT32,
                                kind / 2 ? BFLOAT16 : FLOAT32});
        }
    return 0;
}
