/* See parallel.h. */
#include "parallel.h"

/* GOMP_parallel of libgomp and of LLVM's OpenMP: runs `run` on each of `threads` threads. */
typedef void (*parallel_region)(void (*run)(void *), void *data, unsigned threads, unsigned flags);

static parallel_region region = 0;

struct work {
    task run;
    const void *arguments;
    long count;
    long next;
};

static void take_tasks(void *data) {
    struct work *work = data;
    for (;;) {
        long index = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (index >= work->count) return;
        work->run(work->arguments, index);
    }
}

void use_parallel_region(parallel_region given) { region = given; }

void run_tasks(task run, const void *arguments, long count, long threads) {
    struct work work = {run, arguments, count, 0};
    /* All threads or none: a smaller team would make OpenMP end threads and start them again. */
    if (threads > 1 && count > 1 && region)
        region(take_tasks, &work, (unsigned)threads, 0);
    else
        take_tasks(&work);
}
