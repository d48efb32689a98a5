/* SPDX-License-Identifier: MIT */
/* Memory for the stacks of fibers. */
#include "loop/fiber-stack.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/str.h"
#include "loop/fiber.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef VALGRIND_STACK_REGISTER
#define VALGRIND_STACK_REGISTER(start, end) 0
#define VALGRIND_STACK_DEREGISTER(id)	    ((void)(id))
#endif

/* As many as a busy worker has at once; more are given back to the kernel. */
#define POOL_MAX 32

static struct {
	struct fiber_stack *first;
	size_t n;
} pool;

/* LeakSanitizer does not know mmap'ed memory: what only a parked fiber points to would count as
 * lost. Only stacks in use are registered; a pooled one has nothing but old values. */
static void mark_in_use(struct fiber_stack *s)
{
#ifdef WITH_ASAN
	__lsan_register_root_region(s->bounds.bottom, s->bounds.size);
#endif
}

static void mark_unused(struct fiber_stack *s)
{
#ifdef WITH_ASAN
	__lsan_unregister_root_region(s->bounds.bottom, s->bounds.size);
	/* The last frames never returned, so their red zones are still there. */
	ASAN_UNPOISON_MEMORY_REGION(s->bounds.bottom, s->bounds.size);
#endif
}

static struct fiber_stack *stack_new(void)
{
	struct fiber_stack *s = xcalloc(1, sizeof(*s));
	size_t guard = (size_t)sysconf(_SC_PAGESIZE);
	char *map;

	map = mmap(NULL, guard + FIBER_STACK_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (map == MAP_FAILED || mprotect(map, guard, PROT_NONE) < 0) {
		dprintf(STDERR_FILENO, "assay: cannot get a fiber's stack of %d bytes: %s\n",
			FIBER_STACK_BYTES, strerror(errno));
		abort();
	}
	s->bounds.bottom = map + guard;
	s->bounds.size = FIBER_STACK_BYTES;
	s->valgrind_id = VALGRIND_STACK_REGISTER(s->bounds.bottom, map + guard + FIBER_STACK_BYTES);
	return s;
}

static void stack_free(struct fiber_stack *s)
{
	size_t guard = (size_t)sysconf(_SC_PAGESIZE);

	VALGRIND_STACK_DEREGISTER(s->valgrind_id);
	munmap((char *)s->bounds.bottom - guard, guard + s->bounds.size);
	free(s);
}

struct fiber_stack *stack_acquire(void)
{
	struct fiber_stack *s = pool.first;

	if (s) {
		pool.first = s->next;
		pool.n--;
		s->next = NULL;
	} else {
		s = stack_new();
	}
	mark_in_use(s);
	return s;
}

void stack_release(struct fiber_stack *s)
{
	if (!s)
		return;
	mark_unused(s);
	if (pool.n >= POOL_MAX) {
		stack_free(s);
		return;
	}
	s->next = pool.first;
	pool.first = s;
	pool.n++;
}

void stack_pool_done(void)
{
	while (pool.first) {
		struct fiber_stack *s = pool.first;

		pool.first = s->next;
		stack_free(s);
	}
	pool.n = 0;
}

void switch_begin(void **fake_stack, const struct stack_bounds *to)
{
#ifdef WITH_ASAN
	__sanitizer_start_switch_fiber(fake_stack, to->bottom, to->size);
#endif
}

void switch_end(void *fake_stack, struct stack_bounds *ret_from)
{
#ifdef WITH_ASAN
	const void *bottom = NULL;
	size_t size = 0;

	__sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
	if (ret_from) {
		ret_from->bottom = (void *)bottom;
		ret_from->size = size;
	}
#endif
}
