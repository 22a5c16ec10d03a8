/* Sums over pixels, of each dtype, with every remainder and alignment. */
#include "driver.h"

#include "gated_cnn/column_sums.c"

static void run(const long *s, long shift, long threads, struct array *results) {
    long pixels = s[0], channels = s[1], rows = s[2], size = s[3] == FLOAT32 ? 4 : 2;
    struct array x = numbers(pixels * channels, size, shift * size);
    results[0] = array((pixels + rows - 1) / rows * channels, 4, shift * 4);
    struct columns arguments = {.x = x.data, .sums = results[0].data, .pixels = pixels,
                                .channels = channels, .dtype = s[3], .rows = rows,
                                .threads = threads};
    column_sums(&arguments);
    release(&x, 1);
}

int main(void) {
    /* pixels, channels, pixels of a task */
    const long shapes[][3] = {{0, 8, 1},    {1, 1, 1},    {3, 5, 2},     {33, 16, 40},
                              {70, 31, 33}, {65, 33, 32}, {100, 67, 17}, {2, 2000, 1}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long dtype = 0; dtype < 2; dtype++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], dtype ? BFLOAT16 : FLOAT32});
        }
    return 0;
}
