/* What programs that run a kernel under sanitizers share. test_sanitizers.py compiles and runs each
 * check_*.c beside this file, which includes its kernel's C file and calls it with odd arguments.
 *
 * Arrays are allocated one by one, to the byte, so that a sanitizer sees an access beyond any of them.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native/parallel.h"

enum { MOST_THREADS = 8, MOST_RESULTS = 4 };

/* From parallel.c: who runs something on each of several threads. */
void use_parallel_region(void (*region)(void (*)(void *), void *, unsigned, unsigned));

struct start {
    void (*run)(void *);
    void *data;
};

static void *start_thread(void *start) {
    ((struct start *)start)->run(((struct start *)start)->data);
    return 0;
}

/* In the place of OpenMP's, whose synchronisation the thread sanitizer does not see. */
static void region_of_pthreads(void (*run)(void *), void *data, unsigned threads, unsigned flags) {
    pthread_t others[MOST_THREADS];
    struct start start = {run, data};
    (void)flags;
    for (unsigned k = 1; k < threads; k++)
        if (pthread_create(&others[k], 0, start_thread, &start)) abort();
    run(data);
    for (unsigned k = 1; k < threads; k++) pthread_join(others[k], 0);
}

/* An array of `count` elements of `size` bytes, whose address is `offset` bytes past an aligned one. */
struct array {
    char *block;
    void *data;
    size_t bytes;
};

static struct array array(long count, long size, long offset) {
    struct array a = {malloc((size_t)(count * size + offset)), 0, (size_t)(count * size)};
    if (!a.block) abort();
    a.data = a.block + offset;
    return a;
}

/* Memory for `count` vectors of `size` bytes, to the byte, aligned to a vector. */
static void *aligned_memory(long count, size_t size) {
    void *memory = aligned_alloc(size, (size_t)(count ? count : 1) * size);
    if (!memory) abort();
    return memory;
}

/* Numbers from -10 to 10, with some that are infinite, NaN or nearly 0, as float32 or bfloat16. */
static struct array numbers(long count, long size, long offset) {
    const float odd[] = {0.0f, -0.0f, 1e-40f, 3e38f, -3e38f, 1.0f / 0.0f, -1.0f / 0.0f, 0.0f / 0.0f};
    struct array a = array(count, size, offset);
    uint32_t state = 1;
    for (long k = 0; k < count; k++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
        float x = k % 11 == 10 ? odd[k / 11 % 8] : (float)(state >> 8) * (20.0f / (1 << 24)) - 10.0f;
        uint32_t u;
        memcpy(&u, &x, sizeof u);
        uint16_t half = (uint16_t)(u >> 16);
        memcpy((char *)a.data + k * size, size == 2 ? (void *)&half : (void *)&u, (size_t)size);
    }
    return a;
}

static void release(struct array *arrays, int count) {
    for (int k = 0; k < count; k++) free(arrays[k].block);
}

/* Runs a kernel once from aligned arrays on one thread, then with arrays that start an element later
 * and on more threads. Its results are to be the same to the bit.
 *
 * `run` makes arrays of what its kernel reads and writes, for `arguments` of its own, with addresses
 * `shift` elements past aligned ones. It leaves what the kernel wrote in up to MOST_RESULTS results.
 */
static void check(void (*run)(const long *arguments, long shift, long threads, struct array *results),
                  const long *arguments) {
    struct array expected[MOST_RESULTS] = {{0}};
    run(arguments, 0, 1, expected);
    for (long threads = 1; threads <= 3; threads += 2) {
        struct array found[MOST_RESULTS] = {{0}};
        run(arguments, 1, threads, found);
        for (int k = 0; k < MOST_RESULTS; k++)
            if (expected[k].bytes && memcmp(expected[k].data, found[k].data, expected[k].bytes)) {
                fprintf(stderr, "result %d differs on %ld threads: %ld %ld %ld...\n", k, threads,
                        arguments[0], arguments[1], arguments[2]);
                exit(1);
            }
        release(found, MOST_RESULTS);
    }
    release(expected, MOST_RESULTS);
}
