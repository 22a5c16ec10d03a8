/* See parallel.h. */
#include "parallel.h"

/* GOMP_parallel of libgomp and of LLVM's OpenMP: runs `run` on each of `threads` threads. */
typedef void (*parallel_region)(void (*run)(void *), void *data, unsigned threads, unsigned flags);

static parallel_region region = 0;

struct work {
    task run;
    const void *arguments;
    long count;
    long together; /* tasks that a thread takes at once, neighbours in memory */
    long next;
    long workers;
};

static _Thread_local long number;

long worker_number(void) { return number; }

static void take_tasks(void *data) {
    struct work *work = data;
    number = __atomic_fetch_add(&work->workers, 1, __ATOMIC_RELAXED);
    for (;;) {
        long index = __atomic_fetch_add(&work->next, work->together, __ATOMIC_RELAXED);
        if (index >= work->count) return;
        long end = index + work->together < work->count ? index + work->together : work->count;
        for (; index < end; index++) work->run(work->arguments, index);
    }
}

void use_parallel_region(parallel_region given) { region = given; }

void run_tasks(task run, const void *arguments, long count, long threads) {
    /* Eight turns of each thread leave none waiting for long. */
    long turns = threads * 8, together = count > turns ? count / turns : 1;
    struct work work = {run, arguments, count, together, 0, 0};
    /* All threads or none: a smaller team would make OpenMP end threads and start them again. */
    if (threads > 1 && count > 1 && region)
        region(take_tasks, &work, (unsigned)threads, 0);
    else
        take_tasks(&work);
}
