/* Gradients of a depthwise convolution: kernels of each side, wider than the map too. */
#include "driver.h"

#include "depthwise/conv_gradient.c"

static void run(const long *s, long shift, long threads, struct array *results) {
    long images = s[0], height = s[1], width = s[2], channels = s[3], side = s[4], band = s[5];
    long size = s[6] == FLOAT32 ? 4 : 2, count = images * height * width * channels;
    long bands = (height + band - 1) / band;
    struct array read[] = {numbers(count, size, shift * size), numbers(count, size, shift * size)};
    long rows = least(band, height);
    long vectors = (rows + side - 1) * (width + side - 1) + rows * width + side * side;
    vec *copies = aligned_memory(threads * vectors, sizeof(vec));
    results[0] = array(images * bands * (side * side + 1) * channels, 4, shift * 4);
    struct conv_gradient arguments = {.input = read[0].data, .grad = read[1].data,
                                      .sums = results[0].data, .copies = copies,
                                      .vectors = vectors, .images = images, .height = height,
                                      .width = width, .channels = channels, .size = side,
                                      .dtype = s[6], .band = band, .threads = threads};
    conv_weight_gradient(&arguments);
    release(read, 2);
    free(copies);
}

int main(void) {
    /* images, height, width, channels, side of the kernel, rows of a band */
    const long shapes[][6] = {{0, 4, 4, 8, 3, 8},  {1, 1, 1, 1, 7, 8},   {1, 1, 1, 1, 1, 1},
                              {2, 3, 5, 5, 5, 2},  {1, 9, 2, 16, 7, 8},  {1, 2, 9, 31, 3, 1},
                              {2, 17, 6, 33, 7, 8}, {1, 8, 8, 67, 9, 3}, {3, 5, 4, 17, 11, 8}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long dtype = 0; dtype < 2; dtype++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], s[3], s[4], s[5], dtype ? BFLOAT16 : FLOAT32});
        }
    return 0;
}
