/* SPDX-License-Identifier: MIT */
/* Waits until a file exists, or none is left, that matches a pattern. */
#include <limits.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/pathwatch.h"
#include "base/str.h"

struct wait_file {
	struct agent_call *call;
	struct path_watch watch;
	char *pattern;
	uint32_t gone;
	int matches;
};

/*
 * All is in pathwatch.c: what is there is looked at now and whenever it says that something may
 * have changed. A dangling link does not exist, as for test -e.
 */

#define ENOUGH 100 /* more are not counted, only told of */

static void look(struct wait_file *f)
{
	f->matches = path_watch_look(&f->watch, f->pattern, false, ENOUGH, NULL);
	if (f->matches < 0)
		call_reply_error(f->call, ERROR_INFRA, -f->matches,
				 "cannot look for '%s' in the machine: %s", f->pattern,
				 strerror(-f->matches));
	else if (f->gone ? f->matches == 0 : f->matches > 0)
		call_reply(f->call, NULL);
}

static void on_change(struct path_watch *w)
{
	look(container_of(w, struct wait_file, watch));
}

static void start(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_file *f = call_state(c);

	f->call = c;
	f->pattern = wire_dup_str(in, TAG_PATH, PATH_MAX);
	if (!f->pattern) {
		call_reply_error(c, ERROR_USAGE, EINVAL, "no path to wait for");
		return;
	}
	wire_get_u32(in, TAG_NEGATED, &f->gone);
	path_watch_init(&f->watch, on_change);
	look(f);
}

static void on_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_file *f = call_state(c);
	char seen[PATH_MAX + 128];

	if (f->gone)
		snprintf(seen, sizeof(seen), "%s%d file%s of that name %s still there",
			 f->matches >= ENOUGH ? "at least " : "", f->matches,
			 f->matches == 1 ? "" : "s", f->matches == 1 ? "is" : "are");
	else if (strpbrk(f->pattern, "*?["))
		snprintf(seen, sizeof(seen), "nothing matches '%s'", f->pattern);
	else
		path_describe_missing(f->pattern, seen, sizeof(seen));
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s", seen);
}

static void end(struct agent_call *c)
{
	struct wait_file *f = call_state(c);

	path_watch_done(&f->watch);
	free(f->pattern);
}

const struct agent_op agent_op_wait_file = {
	.op = WIRE_OP_WAIT_FILE,
	.name = "wait-file",
	.size = sizeof(struct wait_file),
	.start = start,
	.on_cancel = on_cancel,
	.end = end,
};
