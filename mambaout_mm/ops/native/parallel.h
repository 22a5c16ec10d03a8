/* Independent tasks on the threads of PyTorch's OpenMP.
 *
 * A second OpenMP in the process would bring threads of its own, which PyTorch's spinning threads
 * slow down. So this library links none: Python hands over the function that PyTorch's has.
 * Threads take the next task as they come free; a task's result may not depend on other tasks.
 */
#ifndef MAMBAOUT_MM_PARALLEL_H
#define MAMBAOUT_MM_PARALLEL_H

typedef void (*task)(const void *arguments, long index);

/* Run tasks 0 to count - 1 on up to `threads` threads. */
void run_tasks(task run, const void *arguments, long count, long threads);

/* In a task: the number of its thread, from 0 to threads - 1, for memory of its own. */
long worker_number(void);

#endif
