/* Depthwise convolutions: kernels of each side, wider than the map too, with a bias and turned. */
#include "driver.h"

#include "depthwise/convolution.c"

static void run(const long *s, long shift, long threads, struct array *results) {
    long images = s[0], height = s[1], width = s[2], channels = s[3], side = s[4];
    long size = s[6] == FLOAT32 ? 4 : 2, count = images * height * width * channels;
    struct array read[] = {numbers(count, size, shift * size),
                           numbers(channels * side * side, size, shift * size),
                           numbers(channels, size, shift * size)};
    long vectors = (least(s[5], height) + side - 1) * (width + side - 1) + side * side;
    vec *copies = aligned_memory(threads * vectors, sizeof(vec));
    results[0] = array(count, size, shift * size);
    struct convolution arguments = {.input = read[0].data, .weight = read[1].data,
                                    .bias = s[7] ? 0 : read[2].data, .output = results[0].data,
                                    .copies = copies, .vectors = vectors,
                                    .images = images, .height = height, .width = width,
                                    .channels = channels, .size = side, .dtype = s[6],
                                    .band = s[5], .turned = s[7], .threads = threads};
    depthwise_convolution(&arguments);
    release(read, 3);
    free(copies);
}

int main(void) {
    /* images, height, width, channels, side of the kernel, rows of a band */
    const long shapes[][6] = {{0, 4, 4, 8, 3, 8},   {1, 1, 1, 1, 7, 1},  {1, 1, 1, 1, 1, 1},
                              {2, 3, 5, 5, 5, 2},   {1, 9, 8, 16, 7, 8}, {1, 2, 9, 31, 3, 1},
                              {2, 17, 19, 33, 7, 8}, {1, 8, 8, 67, 9, 3}, {3, 5, 4, 17, 11, 5}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long kind = 0; kind < 4; kind++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], s[3], s[4], s[5],
                                kind % 2 ? BFLOAT16 : FLOAT32, kind / 2});
        }
    return 0;
}
