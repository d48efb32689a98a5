/* SPDX-License-Identifier: MIT */
/* Which job runs when: by order, processors, memory, and what is ready. */
#include <stdio.h>
#include <string.h>

#include "base/host.h"
#include "base/str.h"
#include "runner/internal.h"

/*
 * Jobs start in order. One whose images or templates are not ready yet is passed over; one that
 * does not fit in makes all behind it wait, so that a big one is not put off for ever.
 *
 * Limits: with -j N, N jobs; else two units for each processor, of which a machine takes two and a
 * test without one takes one. Memory: what the machines of all running jobs cost together stays
 * below what was free at the start, less a reserve. A lone job always starts: a limit that is
 * estimated must not forbid what may well work.
 */
#define MEMORY_RESERVE_BYTES (256 * MIB)

struct limits {
	unsigned jobs, weight;
	uint64_t bytes;
};

static void find_limits(const struct run *run, struct limits *ret)
{
	uint64_t bytes = host_memory_available_bytes();

	ret->jobs = run->opts->jobs > 0 ? (unsigned)run->opts->jobs : UINT32_MAX;
	ret->weight = run->opts->jobs > 0 ? UINT32_MAX : 2 * host_cpus();
	ret->bytes = bytes > MEMORY_RESERVE_BYTES ? bytes - MEMORY_RESERVE_BYTES : 0;
}

unsigned schedule_jobs(const struct run *run)
{
	return run->opts->jobs > 0 ? (unsigned)run->opts->jobs : host_cpus();
}

static bool fits(const struct run *run, const struct limits *limits, unsigned weight,
		 uint64_t bytes)
{
	const struct load *l = &run->load;

	if (l->jobs == 0)
		return true;
	return l->jobs < limits->jobs && l->weight + weight <= limits->weight &&
	       l->bytes + bytes <= limits->bytes;
}

static void load_add(struct run *run, unsigned weight, uint64_t bytes)
{
	run->load.jobs++;
	run->load.weight += weight;
	run->load.bytes += bytes;
}

static void load_remove(struct run *run, unsigned weight, uint64_t bytes)
{
	run->load.jobs--;
	run->load.weight -= weight;
	run->load.bytes -= bytes;
}

static void start_job(struct run *run, struct job *job)
{
	struct job_call *call = xcalloc(1, sizeof(*call));

	*call = (struct job_call){.run = run, .job = job};
	fiber_start(job->tests[0].id, job_fiber, call, &job->fiber);
	load_add(run, job->weight, job->cost_bytes);
}

/* --- what tests wait for -----------------------------------------------------------------------
 */

int schedule_enter(struct run *run, struct build *b, struct error *err)
{
	struct build **p = &run->builds;

	while (*p)
		p = &(*p)->next;
	*p = b;
	waiters_wake_all(&run->changed);
	while (!b->is_running) {
		int r = fiber_wait(&run->changed, NS_FOREVER, "room for another worker", err);

		if (r < 0)
			return r;
		if (run->stopping)
			return error_set(err, ERROR_CANCELLED, ECANCELED, "interrupted");
	}
	return 0;
}

void schedule_leave(struct run *run, struct build *b)
{
	struct build **p = &run->builds;

	while (*p && *p != b)
		p = &(*p)->next;
	if (*p)
		*p = b->next;
	if (b->is_running)
		load_remove(run, b->weight, b->cost_bytes);
	waiters_wake_all(&run->changed);
}

/* They come before the jobs: somebody waits for them. False: one does not fit in. */
static bool start_builds(struct run *run, const struct limits *limits)
{
	for (struct build *b = run->builds; b && !run->stopping; b = b->next) {
		if (b->is_running)
			continue;
		if (!fits(run, limits, b->weight, b->cost_bytes))
			return false;
		b->is_running = true;
		load_add(run, b->weight, b->cost_bytes);
		waiters_wake_all(&run->changed);
	}
	return true;
}

/* --- jobs ------------------------------------------------------------------------------------- */

static void finish_unrun(struct run *run, struct job *job, const struct error *err)
{
	for (size_t i = 0; i < job->n_tests; i++)
		test_finish_unrun(run, job, &job->tests[i], err);
	job->is_over = true;
}

/* Starts what can be started. Returns how many jobs are left that have not been. */
static size_t start_jobs(struct run *run, const struct limits *limits)
{
	bool full = !start_builds(run, limits);
	size_t left = 0;

	for (size_t i = 0; i < run->n_jobs && !run->stopping; i++) {
		struct job *job = &run->jobs[i];
		struct error err = {};
		int r;

		if (job->fiber || job->is_over)
			continue;
		left++;
		r = job->refusal ? error_propagate(&err, job->refusal) : images_ready(job, &err);
		if (r < 0) {
			finish_unrun(run, job, &err);
			left--;
			continue;
		}
		if (r > 0)
			r = templates_ready(job);
		if (r < 0) {
			templates_finish(run, job);
			left--;
		} else if (r > 0 && !full) {
			full = !fits(run, limits, job->weight, job->cost_bytes);
			if (!full) {
				start_job(run, job);
				left--;
			}
		}
	}
	return left;
}

static void reap_jobs(struct run *run)
{
	for (size_t i = 0; i < run->n_jobs; i++) {
		struct job *job = &run->jobs[i];

		if (!job->fiber || !job->is_over || !fiber_is_done(job->fiber))
			continue;
		job->fiber = fiber_unref(job->fiber);
		load_remove(run, job->weight, job->cost_bytes);
		job->is_over = !job->requeue;
		job->requeue = false;
	}
}

static void run_round(struct run *run)
{
	struct limits limits;

	find_limits(run, &limits);
	for (;;) {
		size_t left;

		reap_jobs(run);
		left = start_jobs(run, &limits);
		if (run->load.jobs == 0 && (left == 0 || run->stopping))
			break;
		/* Cannot be cancelled: interruptions come through run->interrupted. */
		(void)fiber_wait(&run->changed, NS_FOREVER, "tests to end", NULL);
	}
}

/* The same once more, for --until-fail. */
static void rewind_jobs(struct run *run, unsigned round)
{
	for (size_t i = 0; i < run->n_jobs; i++) {
		struct job *job = &run->jobs[i];

		job->is_over = false;
		job->n_broken = 0;
		for (size_t k = 0; k < job->n_tests; k++) {
			struct test_case *t = &job->tests[k];

			json_decref(TAKE_PTR(t->result));
			json_array_clear(t->attempts);
			t->is_started = false;
			t->repeat = round;
		}
		free(job->dir);
		job->dir = outdir_test_name(run, job->tests[0].file, job->tests[0].id, round);
	}
}

void schedule_run(struct run *run)
{
	images_start(run);
	templates_start(run);
	for (unsigned round = 2;; round++) {
		run_round(run);
		if (!run->opts->until_fail || run->stopping || run->counts.failed ||
		    run->counts.errored || run->counts.passed == 0)
			break;
		rewind_jobs(run, round);
	}
	templates_stop(run);
	images_stop(run);
}
