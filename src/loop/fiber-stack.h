/* SPDX-License-Identifier: MIT */
/* Stacks of fibers: memory with a guard page, a pool, and what sanitizers must know of them. */
#pragma once

#include <stddef.h>

struct stack_bounds {
	void *bottom; /* lowest address */
	size_t size;
};

struct fiber_stack {
	struct stack_bounds bounds; /* without the guard page */
	unsigned valgrind_id;
	struct fiber_stack *next; /* in the pool */
};

/* From the pool or new; aborts when memory is gone. */
struct fiber_stack *stack_acquire(void);
/* Nothing may stand on it any more. */
void stack_release(struct fiber_stack *s);
void stack_pool_done(void);

/*
 * To be called right before a switch to another stack, and as the first thing on arrival.
 * `fake_stack` is ASan's: stored by the one who leaves (NULL: he never comes back), handed in
 * again when he resumes. On a fiber's first arrival, ret_from receives the bounds of the stack
 * that it came from. All of it is nothing without ASan.
 */
void switch_begin(void **fake_stack, const struct stack_bounds *to);
void switch_end(void *fake_stack, struct stack_bounds *ret_from);
