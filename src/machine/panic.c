/* SPDX-License-Identifier: MIT */
/* Kernel panics: found in the console's lines, told by the VMM, consumed by the test. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "machine/machine-internal.h"

/*
 * A panic on the console (kernel/panic.c) is a first line, registers and a call trace, and an end
 *mark:
 *
 *	[    3.1] Kernel panic - not syncing: sysrq triggered crash
 *	[    3.1] CPU: 0 PID: 1 …
 *	[    3.2] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---
 *
 * When an oops led to it, its report stands before the first line. The machine counts as
 * crashed when the end mark came, or SETTLE_NS after the first line without one, so that the error
 *has all of it. pvpanic tells the VMM in between; alone it is enough, for kernels with another
 *console.
 */
#define FIRST	  "Kernel panic - not syncing"
#define END	  "---[ end Kernel panic"
#define SETTLE_NS (300 * NS_PER_MS)
#define TRACE_MAX 400 /* lines */

/* What a report that leads to a panic begins with. */
static const char *const openings[] = {
	"BUG: ",
	"Oops: ",
	"Internal error: ",
	"general protection fault",
	"Unable to handle kernel",
	"invalid opcode: ",
	"PANIC: ",
	NULL,
};

/* The kernel's words behind its time stamp: "[    1.234567] ", perhaps "[  T123] " too. The marks
 * count only there, so that a test may print them. */
static const char *kernel_text(const char *line, const char *mark)
{
	const char *at = strstr(line, mark);

	if (!at || at == line)
		return at;
	return at >= line + 2 && at[-1] == ' ' && at[-2] == ']' ? at : NULL;
}

static void remember(struct panic *p, const char *line)
{
	snprintf(p->recent[p->recent_head], PANIC_LINE_MAX, "%s", line);
	p->recent_head = (p->recent_head + 1) % PANIC_RECENT_LINES;
	if (p->n_recent < PANIC_RECENT_LINES)
		p->n_recent++;
}

static const char *recent_line(const struct panic *p, unsigned i)
{
	return p->recent[(p->recent_head + PANIC_RECENT_LINES - p->n_recent + i) %
			 PANIC_RECENT_LINES];
}

/* The report before the first line, if there is one. */
static void take_report(struct panic *p)
{
	for (unsigned i = 0; i < p->n_recent; i++) {
		bool opens = false;

		for (const char *const *o = openings; *o && !opens; o++)
			opens = kernel_text(recent_line(p, i), *o) != NULL;
		if (!opens)
			continue;
		for (; i < p->n_recent; i++)
			buf_printf(&p->trace, "%s\n", recent_line(p, i));
	}
	p->n_recent = 0;
}

static void on_settled(void *userdata)
{
	panic_finish(userdata);
}

static void begin(struct machine *m, const char *message)
{
	struct panic *p = &m->panic;

	if (!p->collecting) {
		p->collecting = true;
		p->lines = 0;
		buf_truncate(&p->trace, 0);
		take_report(p);
		timer_free(p->settle);
		p->settle = timer_start(now_ns() + SETTLE_NS, on_settled, m);
	}
	snprintf(p->message, sizeof(p->message), "%s", message);
}

void panic_finish(struct machine *m)
{
	struct panic *p = &m->panic;
	struct error why = {};

	if (!p->collecting)
		return;
	p->collecting = false;
	p->present = true;
	timer_free(TAKE_PTR(p->settle));
	machine_emit(m, "panic",
		     json_pack("{so, so}", "message", machine_json_text(p->message), "trace",
			       machine_json_text(buf_str(&p->trace))));
	error_set(&why, ERROR_CRASH, ECONNRESET, "machine '%s': %s", m->spec->name, p->message);
	machine_crash(m, &why);
}

void panic_line(struct machine *m, const char *line)
{
	struct panic *p = &m->panic;
	const char *first;

	first = kernel_text(line, FIRST); /* the end mark has these words too, but not there */
	if (first)
		begin(m, first);
	if (!p->collecting) {
		remember(p, line);
		return;
	}
	buf_printf(&p->trace, "%s\n", line);
	if (kernel_text(line, END) || ++p->lines >= TRACE_MAX)
		panic_finish(m);
}

void panic_from_vmm(struct machine *m)
{
	if (m->state != MACHINE_CRASHED && !m->panic.collecting)
		begin(m, "Kernel panic (told by the VMM; the console does not say why)");
}

void panic_done(struct machine *m)
{
	timer_free(m->panic.settle);
	buf_done(&m->panic.trace);
	free(m->panic.recent);
}

int machine_wait_panic(struct machine *m, uint64_t timeout_ns, json_t **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);
	struct panic *p = &m->panic;
	char what[128];
	int r;

	snprintf(what, sizeof(what), "a kernel panic of machine '%s'", m->spec->name);
	while (!p->present) {
		if (!p->collecting && !m->vmm_runs && !m->vmm_starting) {
			error_set(err, ERROR_EXPECT, ESRCH,
				  "machine '%s' is %s: it cannot panic any more", m->spec->name,
				  machine_state_name(m->state));
			return -ESRCH;
		}
		r = fiber_wait_until(&m->changed, deadline, timeout_ns, what, err);
		if (r < 0)
			return r;
	}
	p->present = false;
	if (ret)
		*ret = json_pack("{so, so}", "message", machine_json_text(p->message), "trace",
				 machine_json_text(buf_str(&p->trace)));
	return 0;
}

int machine_check_panic(struct machine *m, struct error *err)
{
	uint64_t deadline = deadline_in(SETTLE_NS);
	struct panic *p = &m->panic;

	/* What has just begun is told in full: the VMM's word for it may overtake the console's. */
	while (p->collecting &&
	       fiber_wait_until(&m->changed, deadline, SETTLE_NS, "the rest of a panic", NULL) >= 0)
		;
	panic_finish(m);
	if (!p->present)
		return 0;
	p->present = false;
	error_set(err, ERROR_CRASH, ECONNRESET,
		  "machine '%s' panicked, and no one waited for it: %s", m->spec->name, p->message);
	error_hint(err, "if it is meant to, use m:expect_panic(fn) or m:wait_for_panic()");
	return -ECONNRESET;
}
