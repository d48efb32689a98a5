/* SPDX-License-Identifier: MIT */
/* Commands in a guest that is not there: scripted answers, and a few that work for themselves. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "backend/fake/fake.h"
#include "base/str.h"
#include "console/console.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 * A command is looked up in the script (as it is, then by the regular expressions in their order),
 * else it is one that works for itself, else it is "not found". Either way it goes on as a process
 * would: stdout and stderr are streams with credit, stdin arrives in pieces, a signal, the host's
 * time-out or the guest's end stops it at its next step (stopped()).
 */

struct run {
	struct fake_call *c;
	struct fake *f;
	char *command;
	char *user, *cwd;
	char **env;
	uint32_t flags;
	uint64_t start_ns;
	struct buf in;
	int code, signal;
	bool ignores_term;
};

static void run_done(struct run *r)
{
	free(r->command);
	free(r->user);
	free(r->cwd);
	strv_free(r->env);
	buf_done(&r->in);
}

/* True if a signal, the host's giving up or the guest's end stops it. */
static bool stopped(struct run *r)
{
	if (r->c->gone)
		return true;
	if (r->c->signal && !(r->c->signal == SIGTERM && r->ignores_term)) {
		r->signal = r->c->signal;
		return true;
	}
	if (r->c->cancelled)
		r->signal = r->ignores_term ? SIGKILL : SIGTERM;
	return r->c->cancelled != 0;
}

static bool pass(struct run *r, uint64_t ns)
{
	uint64_t until = deadline_in(ns);

	while (!stopped(r) && now_ns() < until)
		(void)fake_call_wait(r->c, until);
	return !stopped(r);
}

static bool write_out(struct run *r, unsigned stream, const char *data, size_t len)
{
	return fake_call_write(r->c, stream, data, len) && !stopped(r);
}

static bool read_stdin(struct run *r)
{
	if (!(r->flags & WIRE_EXEC_STDIN))
		return true;
	while (!stopped(r)) {
		if (r->c->in.len == 0 && !r->c->in_fin) {
			(void)fake_call_wait(r->c, NS_FOREVER);
			continue;
		}
		if (!fake_call_read(r->c, &r->in))
			return !stopped(r);
	}
	return false;
}

/* --- answers --- */

static const char *env_value(const struct run *r, const char *name, size_t len)
{
	for (char **e = r->env; e && *e; e++)
		if (strncmp(*e, name, len) == 0 && (*e)[len] == '=')
			return *e + len + 1;
	return "";
}

/* Puts values for "%stdin%", "%user%", "%cwd%", "%env:X%". */
static void expand(const struct run *r, const char *text, struct buf *ret)
{
	while (*text) {
		const char *end = *text == '%' ? strchr(text + 1, '%') : NULL;
		size_t len = end ? (size_t)(end - text - 1) : 0;

		if (len == 5 && strncmp(text + 1, "stdin", 5) == 0)
			buf_append(ret, r->in.data, r->in.len);
		else if (len == 4 && strncmp(text + 1, "user", 4) == 0)
			buf_puts(ret, r->user ?: "root");
		else if (len == 3 && strncmp(text + 1, "cwd", 3) == 0)
			buf_puts(ret, r->cwd ?: "/tmp");
		else if (len > 4 && strncmp(text + 1, "env:", 4) == 0)
			buf_puts(ret, env_value(r, text + 5, len - 4));
		else {
			buf_putc(ret, *text++);
			continue;
		}
		text = end + 1;
	}
}

static bool put_text(struct run *r, unsigned stream, json_t *answer, const char *key)
{
	const char *text =
		json_is_string(answer) ? json_string_value(answer) : fake_text(answer, key);
	json_int_t repeat = json_integer_value(json_object_get(answer, "repeat"));
	_cleanup_buf_ struct buf b = {};

	if (!text)
		return true;
	expand(r, text, &b);
	if (stream != WIRE_STREAM_OUT || repeat < 1)
		repeat = 1;
	for (json_int_t i = 0; i < repeat; i++)
		if (!write_out(r, stream, b.data, b.len))
			return false;
	return true;
}

static void change_guest(struct run *r, json_t *answer)
{
	json_t *files = json_object_get(answer, "write"), *v;
	const char *path;
	size_t i;

	json_object_foreach(files, path, v)
	{
		struct fake_file *file = guest_file_make(r->f, path);

		buf_truncate(&file->data, 0);
		buf_append(&file->data, json_string_value(v) ?: "", json_string_length(v));
	}
	json_array_foreach(json_object_get(answer, "remove"), i, v)
		guest_file_remove(r->f, json_string_value(v) ?: "");
	guest_set_units(r->f, json_object_get(answer, "units"));
	if ((v = json_object_get(answer, "open_port")))
		guest_port_set(r->f, (unsigned)json_integer_value(v), true);
	if ((v = json_object_get(answer, "close_port")))
		guest_port_set(r->f, (unsigned)json_integer_value(v), false);
	if (fake_text(answer, "console"))
		fake_console_write(r->f, fake_text(answer, "console"));
}

static void reset_by_guest(struct fake *f)
{
	fake_reset(f, true);
}

static void hang(struct fake *f)
{
	f->hung = true;
}

/* What ends more than the command. True if something does: then there is no reply, except before
 * an orderly end. */
static bool mishap(struct run *r, json_t *answer)
{
	static const struct {
		const char *key;
		void (*fn)(struct fake *f);
	} mishaps[] = {
		{"panic", fake_panic},
		{"reset", reset_by_guest},
		{"die", fake_die},
		{"close", fake_close_agent},
		{"violate", fake_session_violate},
		{"hang", hang},
		{"poweroff", fake_init_poweroff},
		{"reboot", fake_init_reboot},
	};

	for (size_t i = 0; i < ARRAY_SIZE(mishaps); i++) {
		if (!json_is_true(json_object_get(answer, mishaps[i].key)))
			continue;
		fake_later(r->f, mishaps[i].fn);
		while (!stopped(r)) /* as a command does whose machine goes away under it */
			(void)fake_call_wait(r->c, NS_FOREVER);
		return true;
	}
	return false;
}

static void give_answer(struct run *r, json_t *answer)
{
	json_t *v;

	r->ignores_term = json_is_true(json_object_get(answer, "ignore_term"));
	if (json_is_true(json_object_get(answer, "stdin")) && !read_stdin(r))
		return;
	if (!pass(r, fake_time(answer, "delay", 0)))
		return;
	if (!put_text(r, WIRE_STREAM_OUT, answer, "stdout") ||
	    (json_is_object(answer) && !put_text(r, WIRE_STREAM_ERR, answer, "stderr")))
		return;
	change_guest(r, answer);
	if (mishap(r, answer) || stopped(r))
		return;
	if ((v = json_object_get(answer, "code")))
		r->code = (int)json_integer_value(v);
	if ((v = json_object_get(answer, "signal")))
		r->signal = (int)json_integer_value(v);
}

/* The n-th run of a key gets the n-th of its answers. */
static json_t *pick(struct run *r, const char *key, json_t *answer)
{
	json_t *list = json_object_get(answer, "answers");
	json_int_t n = json_integer_value(json_object_get(r->f->guest.runs, key));

	json_object_set_new(r->f->guest.runs, key, json_integer(n + 1));
	if (!json_is_array(list) || json_array_size(list) == 0)
		return answer;
	return json_array_get(list, MIN((size_t)n, json_array_size(list) - 1));
}

static json_t *find_answer(struct run *r)
{
	json_t *table = json_object_get(r->f->script, "exec");
	json_t *answer = json_object_get(table, r->command);
	const char *key;

	if (answer)
		return pick(r, r->command, answer);
	json_object_foreach(table, key, answer)
	{
		struct regex *re;
		bool found;

		if (*key != '~' || regex_compile(key + 1, &re, NULL) < 0)
			continue;
		found = regex_match(re, r->command, strlen(r->command), 0, NULL, NULL, NULL, NULL) >
			0;
		regex_free(re);
		if (found)
			return pick(r, key, answer);
	}
	return NULL;
}

/* --- commands that work for themselves --- */

/* Without the quotes around words; "$X" and the like stay as they are. */
static char *unquote(const char *text)
{
	char *ret = xstrdup(text), *to = ret;

	for (const char *from = text; *from; from++)
		if (*from != '"' && *from != '\'')
			*to++ = *from;
	*to = '\0';
	return ret;
}

static void run_echo(struct run *r, const char *args)
{
	_cleanup_free_ char *text = unquote(args);
	bool to_stderr = str_ends(text, " >&2") || str_ends(text, " 1>&2");
	size_t len = strlen(text);

	if (to_stderr)
		len = (size_t)(strrchr(text, ' ') - text);
	text = xrealloc(text, len + 2);
	memcpy(text + len, "\n", 2);
	write_out(r, to_stderr ? WIRE_STREAM_ERR : WIRE_STREAM_OUT, text, len + 1);
}

/* stdin to stdout as it comes, or a file. */
static void run_cat(struct run *r, const char *path)
{
	struct fake_file *file = *path ? guest_file(r->f, path) : NULL;
	_cleanup_buf_ struct buf b = {};

	if (*path && !file) {
		buf_printf(&b, "cat: %s: No such file or directory\n", path);
		write_out(r, WIRE_STREAM_ERR, b.data, b.len);
		r->code = 1;
		return;
	}
	if (file) {
		buf_append(&b, file->data.data, file->data.len);
		write_out(r, WIRE_STREAM_OUT, b.data, b.len);
		return;
	}
	while ((r->flags & WIRE_EXEC_STDIN) && !stopped(r)) {
		if (r->c->in.len == 0 && !r->c->in_fin) {
			(void)fake_call_wait(r->c, NS_FOREVER);
			continue;
		}
		buf_truncate(&b, 0);
		if (!fake_call_read(r->c, &b) || !write_out(r, WIRE_STREAM_OUT, b.data, b.len))
			return;
	}
}

static void run_sleep(struct run *r, const char *args)
{
	uint64_t ns = 0;

	(void)parse_duration(args, &ns);
	(void)pass(r, ns);
}

static void print_line(struct run *r, const char *text)
{
	_cleanup_free_ char *line = xasprintf("%s\n", text);

	write_out(r, WIRE_STREAM_OUT, line, strlen(line));
}

static void run_power(struct run *r, void (*fn)(struct fake *f))
{
	fake_later(r->f, fn);
	while (!stopped(r))
		(void)fake_call_wait(r->c, NS_FOREVER);
}

static bool run_builtin(struct run *r)
{
	_cleanup_buf_ struct buf out = {}, err = {};
	const char *space = strchr(r->command, ' '), *args = space ? space + 1 : "";
	_cleanup_free_ char *word =
		space ? xstrndup(r->command, (size_t)(space - r->command)) : xstrdup(r->command);
	int code;

	if (str_eq(word, "true") || str_eq(word, ":"))
		return true;
	if (str_eq(word, "false"))
		return r->code = 1, true;
	if (str_eq(word, "exit"))
		return r->code = atoi(args), true;
	if (str_eq(word, "echo"))
		return run_echo(r, args), true;
	if (str_eq(word, "cat"))
		return run_cat(r, args), true;
	if (str_eq(word, "sleep"))
		return run_sleep(r, args), true;
	if (str_eq(word, "whoami"))
		return print_line(r, r->user ?: "root"), true;
	if (str_eq(word, "pwd"))
		return print_line(r, r->cwd ?: "/tmp"), true;
	if (str_eq(word, "hostname") || str_eq(r->command, "uname -n"))
		return print_line(r, r->f->vm.init.spec->name), true;
	if (str_eq(word, "reboot"))
		return run_power(r, fake_init_reboot), true;
	if (str_eq(word, "poweroff"))
		return run_power(r, fake_init_poweroff), true;
	code = fake_systemctl(r->f, r->command, &out, &err);
	if (code < 0)
		return false;
	r->code = code;
	if (write_out(r, WIRE_STREAM_OUT, out.data, out.len))
		write_out(r, WIRE_STREAM_ERR, err.data, err.len);
	return true;
}

/* --- the call --- */

static void no_answer(struct run *r)
{
	_cleanup_buf_ struct buf b = {};

	buf_printf(&b, "%s: command not found (the fake machine has no answer for it)\n",
		   r->command);
	write_out(r, WIRE_STREAM_ERR, b.data, b.len);
	r->code = 127;
}

static char *command_text(const struct wire_fields *in)
{
	_cleanup_strv_ char **argv = NULL;
	char *script = wire_dup_str(in, TAG_SCRIPT, WIRE_CALL_MAX);

	if (script)
		return script;
	if (!wire_dup_strv(in, TAG_ARG, 4096, &argv) || !argv)
		return xstrdup("");
	return strv_join(argv, " ");
}

void fake_exec(struct fake_call *c, const struct wire_fields *in)
{
	static unsigned last_pid = 1000;
	struct run r = {.c = c, .f = c->f, .start_ns = now_ns()};
	_cleanup_buf_ struct buf started = {}, ended = {};
	json_t *answer;

	r.command = command_text(in);
	r.user = wire_dup_str(in, TAG_USER, 256);
	r.cwd = wire_dup_str(in, TAG_CWD, 4096);
	(void)wire_dup_strv(in, TAG_ENV, 4096, &r.env);
	wire_get_u32(in, TAG_EXEC_FLAGS, &r.flags);
	wire_put_u32(&started, TAG_PID, ++last_pid);
	fake_call_message(c, &started);

	answer = find_answer(&r);
	if (answer)
		give_answer(&r, answer);
	else if (!run_builtin(&r))
		no_answer(&r);
	(void)stopped(&r);
	if (r.signal)
		wire_put_u32(&ended, TAG_SIGNAL, (uint32_t)r.signal);
	else
		wire_put_u32(&ended, TAG_EXIT_CODE, (uint32_t)r.code);
	wire_put_u64(&ended, TAG_WALL_NS, now_ns() - r.start_ns);
	while (c->f->hung && !c->gone) /* the answer does not get out */
		if (fiber_wait(&c->f->changed, NS_FOREVER, "the fake guest", NULL) < 0)
			break;
	fake_call_reply(c, &ended);
	run_done(&r);
}
