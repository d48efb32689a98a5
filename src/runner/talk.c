/* SPDX-License-Identifier: MIT */
/* The runner's side of one worker: given its job, listened to, held to its deadlines. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

/*
 * Theory of operation
 *
 * The calling fiber reads the worker's events until the socket ends, and then waits for its
 * process. A timer stands behind it all the while: each phase that the worker announces sets it to
 * the phase's time-out and 15 s, so a worker that does not keep its own deadlines (a script in an
 * endless loop inside one C function) is killed.
 *
 * Bounds: a line is at most 1 MiB, the events file at most EVENTS_MAX_BYTES; an event is handled
 * before the next one is read, so a flood fills the socket and makes the worker wait.
 */
#define FIRST_PHASE_NS	 (60 * NS_PER_SEC)
#define OVERTIME_NS	 (15 * NS_PER_SEC)
#define INTERRUPT_NS	 (1500 * NS_PER_MS)
#define EVENTS_MAX_BYTES (64 * MIB)

/* --- deadlines ------------------------------------------------------------------------------- */

static void on_overtime(void *userdata)
{
	struct talk *t = userdata;

	t->overtime = true;
	child_kill(&t->child, &t->run->ns);
}

static void set_phase(struct talk *t, const char *name, uint64_t timeout_ns)
{
	snprintf(t->phase, sizeof(t->phase), "%s", name);
	if (!timeout_ns || t->is_cancelled)
		return;
	t->phase_ns = timeout_ns;
	timer_free(t->timer);
	t->timer = timer_start(deadline_in(timeout_ns + OVERTIME_NS), on_overtime, t);
}

/* Waits for somebody to stop the run; then asks the worker to end, and soon makes it. Its message
 * must not come into the middle of the job's, which a worker may be slow to take. */
static int canceller_fiber(void *userdata)
{
	struct talk *t = userdata;
	json_t *msg;

	while (!t->run->cancel && !(t->stops_early && t->run->stopping))
		if (fiber_wait(&t->run->changed, NS_FOREVER, "the run's end", NULL) < 0)
			return 0;
	t->is_cancelled = true;
	timer_free(t->timer);
	t->timer = timer_start(deadline_in(INTERRUPT_NS), on_overtime, t);
	while (!t->job_sent)
		if (fiber_wait(&t->sent, NS_FOREVER, "the job to be sent", NULL) < 0)
			return 0;
	msg = json_pack("{s:s}", "cmd", "cancel");
	(void)wire_write(t->child.control, msg, INTERRUPT_NS, NULL);
	json_decref(msg);
	return 0;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Those that a report cannot do without come through whatever was dropped before. */
static bool is_essential(const char *type)
{
	static const char *const types[] = {"attempt-start",  "attempt-end", "error",
					    "diagnostic",     "phase",	     "output",
					    "events-dropped", NULL};

	return strv_contains((char *const *)types, type);
}

void talk_write(struct talk *t, json_t *event)
{
	const char *type = json_string_value(json_object_get(event, "type"));
	_cleanup_free_ char *line = NULL;
	struct error err = {};
	size_t len;

	if (!t->events)
		return;
	if (t->events_bytes > EVENTS_MAX_BYTES && !is_essential(type)) {
		t->dropped++;
		return;
	}
	line = wire_format(event, &len);
	t->events_bytes += len;
	/* For whoever follows the file; and a crash of ours loses none. */
	if (fwrite(line, 1, len, t->events) != len ||
	    (!wire_has_line(&t->child.reader) && fflush(t->events) != 0)) {
		error_set_errno(&err, ERROR_INFRA, errno, "cannot write to '%s/events.jsonl'",
				t->dir);
		fclose(TAKE_PTR(t->events));
		run_break(t->run, &err);
	}
}

static int open_folder(struct talk *t, struct error *err)
{
	_cleanup_free_ char *file = path_join(t->dir, "events.jsonl");
	int r = path_make_dirs(t->dir, 0755, err);

	if (r < 0)
		return r;
	t->events = fopen(file, "ae");
	if (!t->events)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", file);
	return 0;
}

static void take_event(struct talk *t, json_t *event)
{
	if (str_eq(json_string_value(json_object_get(event, "type")), "phase"))
		set_phase(t, json_string_value(json_object_get(event, "name")) ?: "",
			  (uint64_t)(json_number_value(json_object_get(event, "timeout")) *
				     (double)NS_PER_SEC));
	t->on_event(t, event);
}

/* Feeds the worker and reads what it tells, to the end. */
static int converse(struct talk *t, json_t *job, struct error *err)
{
	json_t *event;
	int r;

	r = wire_write(t->child.control, job, FIRST_PHASE_NS, err);
	t->job_sent = r == 0;
	waiters_wake_all(&t->sent);
	if (r == -EPIPE || r == -ECONNRESET) {
		/* It is gone already; how it ended says more. */
		error_clear(err);
		r = 0;
	}
	while (r >= 0 && (r = wire_read(&t->child.reader, &event, NS_FOREVER, err)) > 0) {
		take_event(t, event);
		json_decref(event);
	}
	if (r == -ECONNRESET) {
		error_clear(err);
		r = 0;
	}
	return r < 0 ? r : process_wait(t->child.process, NS_FOREVER, NULL, err);
}

/* Nobody wants to know any more: all of it ends now, and is gone when this returns. */
static void end_early(struct talk *t)
{
	struct fiber_shield shield;

	t->is_cancelled = true;
	child_kill(&t->child, &t->run->ns);
	fiber_shield_enter(&shield, OVERTIME_NS);
	(void)process_wait(t->child.process, NS_FOREVER, NULL, NULL);
	fiber_shield_leave(&shield);
}

int talk_run(struct talk *t, const char *name, json_t *job, struct error *err)
{
	int r = open_folder(t, err);

	t->start_ns = now_ns();
	if (r < 0)
		run_break(t->run, err);
	if (r == 0)
		r = child_start(&t->child, name, &t->run->ns, err);
	if (r < 0)
		return r;
	set_phase(t, "load", FIRST_PHASE_NS);
	fiber_start("canceller", canceller_fiber, t, &t->canceller);
	r = converse(t, job, err);
	if (fiber_is_cancelled(fiber_self()))
		end_early(t);
	fiber_stop(t->canceller);
	t->canceller = fiber_unref(t->canceller);
	child_settle(&t->child);
	return r;
}

void talk_done(struct talk *t)
{
	timer_free(t->timer);
	child_done(&t->child);
	if (t->events && fclose(t->events) != 0) {
		struct error err = {};

		error_set_errno(&err, ERROR_INFRA, errno, "cannot write to '%s/events.jsonl'",
				t->dir);
		run_break(t->run, &err);
	}
	free(t->dir);
}

/* Why running workers are told to end: a user's wish, or what the runner itself cannot go on with.
 */
void run_explain_cancel(const struct run *run, struct error *ret)
{
	if (run->interrupted || !error_is_set(&run->broken)) {
		error_set(ret, ERROR_CANCELLED, ECANCELED, "interrupted");
		return;
	}
	*ret = run->broken;
	error_prefix(ret, "the run cannot go on");
}

void talk_explain_end(struct talk *t, const struct error *failed, struct error *ret)
{
	_cleanup_free_ char *how = NULL;
	char text[FORMAT_MAX];

	if (t->is_cancelled || t->run->cancel) {
		run_explain_cancel(t->run, ret);
	} else if (t->overtime) {
		error_set(ret, ERROR_DEADLINE, ETIMEDOUT,
			  "'%s' did not end 15 s after its time-out of %s and was killed", t->phase,
			  format_duration(t->phase_ns, text));
		error_hint(ret, "a script that computes inside one call cannot be stopped in any "
				"other way");
	} else if (error_is_set(failed)) {
		*ret = *failed;
	} else if (!t->child.process || !process_is_done(t->child.process)) {
		error_set(ret, ERROR_INFRA, EIO, "the worker could not be started");
	} else {
		how = process_describe_status(process_status(t->child.process));
		error_set(ret, ERROR_BUG, EPROTO, "the worker %s without a verdict", how);
		error_hint(ret, "this is a bug of Assay's; please report it with the folder of "
				"this test");
	}
}
