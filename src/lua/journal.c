/* SPDX-License-Identifier: MIT */
/* The guest's journal: read, and waited for. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "lua/lua-internal.h"

/*
 * Theory of operation
 *
 * Both are journalctl in the guest. The wait runs it with --follow and all lines of this boot, so
 * that no message is missed between looking and waiting, and notices a new one as soon as journald
 * has it; the expression is matched here, by PCRE2, on whole lines. journalctl is killed when the
 * wait ends, in whatever way.
 */
struct journal_options {
	struct time_options time;
	const char *unit, *since;
	int64_t lines, boot;
};

static const struct option journal_options[] = {
	TIME_OPTIONS,
	{"unit", OPT_STRING, offsetof(struct journal_options, unit)},
	{"since", OPT_STRING, offsetof(struct journal_options, since)},
	{"lines", OPT_INT, offsetof(struct journal_options, lines)},
	{"boot", OPT_INT, offsetof(struct journal_options, boot)},
	{NULL},
};
static const struct option wait_options[] = {
	TIME_OPTIONS,
	{"unit", OPT_STRING, offsetof(struct journal_options, unit)},
	{"since", OPT_STRING, offsetof(struct journal_options, since)},
	{NULL},
};

/* The program's arguments in c->env, which is free for that. */
static char *const *journalctl(struct call *c, const struct journal_options *o, bool follow)
{
	strv_push(&c->env, "journalctl");
	strv_push(&c->env, "--no-pager");
	strv_pushf(&c->env, "--boot=%lld", (long long)o->boot);
	if (follow) {
		strv_push(&c->env, "--follow");
		strv_push(&c->env, "--lines=all");
		strv_push(&c->env, "--output=cat");
	} else if (o->lines > 0) {
		strv_pushf(&c->env, "--lines=%lld", (long long)o->lines);
	}
	if (o->unit)
		strv_pushf(&c->env, "--unit=%s", o->unit);
	if (o->since)
		strv_pushf(&c->env, "--since=%s", o->since);
	return c->env;
}

/* Of this boot unless `boot` says otherwise: an image may have a journal of its own past. */
static int journal_read(lua_State *L)
{
	struct journal_options o = {};
	struct agent_command cmd = {};
	struct call *c;
	int r;

	if (!to_handle(L, 1))
		call_machine(L, "journal"); /* raises */
	lua_settop(L, 2);
	read_options(L, 2, "journal", journal_options, &o);
	c = call_machine(L, "journal");
	call_timeout(c, &o.time, DEFAULT_TIMEOUT_NS);
	call_agent(L, c);
	cmd.argv = journalctl(c, &o, false);
	r = agent_run(c->agent, &cmd, c->timeout_ns, &c->result, &c->err);
	if (r == 0 && c->result.code != 0) {
		r = error_set(&c->err, ERROR_EXPECT, EPROTO, "journalctl failed with exit code %d",
			      c->result.code);
		call_detail_result(c, &c->result);
	}
	if (r < 0)
		call_raise(L, c);
	lua_pushlstring(L, buf_str(&c->result.out), c->result.out.len);
	call_done(c);
	return 1;
}

/* Drops what is before the last `keep` bytes; returns how much that was. */
static size_t keep_tail(struct buf *b, size_t keep)
{
	size_t gone = b->len > keep ? b->len - keep : 0;

	buf_consume(b, gone);
	return gone;
}

/* The next output of journalctl: the journal into c->buf, what it says itself into its result. */
static int read_more(struct call *c, struct agent_process *p, uint64_t deadline)
{
	_cleanup_buf_ struct buf part = {};
	int stream, r;

	r = agent_process_read(p, &part, &stream, timeout_left(deadline), &c->err);
	if (r < 0)
		return r;
	if (r == 0)
		return error_set(&c->err, ERROR_EXPECT, EPIPE,
				 "journalctl ended before there was %s", c->what);
	buf_append(stream == 2 ? &c->result.err : &c->buf, part.data, part.len);
	keep_tail(&c->result.err, TAIL_BYTES);
	return 0;
}

/* Reads journalctl --follow until the expression matches a text of whole lines. */
static int follow(struct call *c, struct agent_process *p, uint64_t deadline)
{
	size_t from = 0, gone;
	int r;

	for (;;) {
		char *newline;

		r = read_more(c, p, deadline);
		if (r < 0)
			return r;
		newline = memrchr(buf_str(&c->buf), '\n', c->buf.len);
		if (!newline)
			continue;
		r = regex_match_growing(c->regex, c->buf.data, (size_t)(newline - c->buf.data),
					&from, NULL, &c->json, &c->err);
		if (r != 0)
			return r;
		/* A long journal: what was looked at goes, but for a tail that a match over
		 * several lines may begin in. */
		if (c->buf.len > MIB) {
			gone = keep_tail(&c->buf, 64 * KIB);
			from = from > gone ? from - gone : 0;
		}
	}
}

static int journal_wait_for(lua_State *L)
{
	struct agent_process *p = NULL;
	struct journal_options o = {};
	struct agent_command cmd = {};
	const char *pattern;
	uint64_t deadline;
	struct call *c;
	int r;

	if (!to_handle(L, 1))
		call_machine(L, "wait_for_journal"); /* raises */
	pattern = check_text(L, 2, "wait_for_journal", "the pattern", NULL);
	lua_settop(L, 3);
	read_options(L, 3, "wait_for_journal", wait_options, &o);
	c = call_machine(L, "wait_for_journal");
	call_timeout(c, &o.time, DEFAULT_TIMEOUT_NS);
	if (regex_compile(pattern, &c->regex, &c->err) < 0)
		call_raise(L, c);
	call_agent(L, c);
	cmd.argv = journalctl(c, &o, true);
	call_wait_start(c, "a journal entry that matches /%.120s/", pattern);
	deadline = deadline_in(c->timeout_ns);
	r = agent_process_start(c->agent, &cmd, &p, &c->err);
	/* Freed before anything is raised: a longjmp would leave it running in the guest. */
	if (r == 0) {
		r = follow(c, p, deadline);
		agent_process_free(p);
	}
	if (r < 0) {
		char duration[FORMAT_MAX];

		/* The last look had only what was left of the time: tell what the user gave. */
		if (c->err.kind == ERROR_TIMEOUT) {
			error_clear(&c->err);
			error_set(&c->err, ERROR_TIMEOUT, ETIMEDOUT,
				  "timed out after %s waiting for %s",
				  format_duration(c->timeout_ns, duration), c->what);
		}
		call_detail(c, "journal", json_text(c->buf.data, c->buf.len, TAIL_BYTES));
		if (c->result.err.len > 0)
			call_detail(c, "stderr",
				    json_text(c->result.err.data, c->result.err.len, TAIL_BYTES));
	}
	call_wait_end(L, c, r < 0 ? r : 0);
	push_captures(L, c->json);
	call_done(c);
	return 1;
}

const struct binding journal_bindings[] = {
	{"machine:journal", journal_read},
	{"machine:wait_for_journal", journal_wait_for},
	{NULL},
};
