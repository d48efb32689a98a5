/* SPDX-License-Identifier: MIT */
/* Which job runs when: by order, processors, memory, and what is ready. */
#include <stdio.h>
#include <string.h>

#include "base/host.h"
#include "base/str.h"
#include "runner/internal.h"

/*
 * Jobs start in order. One whose images are not ready yet is passed over; one that does not fit
 * in makes all behind it wait, so that a big one is not put off for ever.
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

struct load {
	unsigned jobs, weight;
	uint64_t bytes;
};

static bool fits(const struct load *l, const struct limits *limits, const struct job *job)
{
	if (l->jobs == 0)
		return true;
	return l->jobs < limits->jobs && l->weight + job->weight <= limits->weight &&
	       l->bytes + job->cost_bytes <= limits->bytes;
}

static void start_job(struct run *run, struct job *job, struct load *l)
{
	struct job_call *call = xcalloc(1, sizeof(*call));

	*call = (struct job_call){.run = run, .job = job};
	fiber_start(job->tests[0].id, job_fiber, call, &job->fiber);
	l->jobs++;
	l->weight += job->weight;
	l->bytes += job->cost_bytes;
}

static void finish_unrun(struct run *run, struct job *job, const struct error *err)
{
	for (size_t i = 0; i < job->n_tests; i++)
		test_finish_unrun(run, job, &job->tests[i], err);
	job->is_over = true;
}

/* Starts what can be started. Returns how many jobs are left that have not been. */
static size_t start_jobs(struct run *run, const struct limits *limits, struct load *l)
{
	size_t left = 0;
	bool full = false;

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
		} else if (r > 0 && !full) {
			full = !fits(l, limits, job);
			if (!full) {
				start_job(run, job, l);
				left--;
			}
		}
	}
	return left;
}

static void reap_jobs(struct run *run, struct load *l)
{
	for (size_t i = 0; i < run->n_jobs; i++) {
		struct job *job = &run->jobs[i];

		if (!job->fiber || !job->is_over || !fiber_is_done(job->fiber))
			continue;
		job->fiber = fiber_unref(job->fiber);
		l->jobs--;
		l->weight -= job->weight;
		l->bytes -= job->cost_bytes;
	}
}

static void run_round(struct run *run)
{
	struct limits limits;
	struct load load = {};

	find_limits(run, &limits);
	for (;;) {
		size_t left;

		reap_jobs(run, &load);
		left = start_jobs(run, &limits, &load);
		if (load.jobs == 0 && (left == 0 || run->stopping))
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
	for (unsigned round = 2;; round++) {
		run_round(run);
		if (!run->opts->until_fail || run->stopping || run->counts.failed ||
		    run->counts.errored || run->counts.passed == 0)
			break;
		rewind_jobs(run, round);
	}
	images_stop(run);
}
