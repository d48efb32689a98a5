/* SPDX-License-Identifier: MIT */
/* One run of QEMU: its events translated, its end explained. */
#include "backend/qemu/run.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"

/* QEMU answers QMP 40 ms after its exec; a host that needs longer than this is ill. */
#define GREETING_TIMEOUT_NS (60 * NS_PER_SEC)
/* After the process has ended its sockets are at their end too, unless a child of its has them. */
#define DRAIN_TIMEOUT_NS (2 * NS_PER_SEC)
/* A QEMU that closed QMP is on its way out, or of no use any more. */
#define CLOSED_GRACE_NS (10 * NS_PER_SEC)
/* What is kept of stderr: the beginning (arguments refused) and the end (last words). */
#define STDERR_HALF_BYTES 8192
#define LAST_LINES	  10

/* SeaBIOS resets again 0.1 s after a reset, and then every 10 to 40 ms. */
#define RESET_ECHO_NS NS_PER_SEC

/* A migration under way, on the stack of the one who waits for it. */
struct migration {
	char status[24]; /* as in the event MIGRATION */
	bool ended;	 /* QEMU is gone, and the run with it */
	struct waiters changed;
};

struct qemu_run {
	struct qemu_run **slot;
	const struct vm_events *events;
	void *userdata;
	char *hint_args;

	struct process *process;
	struct qmp *qmp;
	struct timer *closed_timer;
	struct fiber *undertaker, *stderr_reader;
	struct io *stderr_io;
	struct buf stderr_head, stderr_tail;

	bool greeted;
	bool booted;		     /* start() has succeeded: from now on on_exit is due */
	bool stopped;		     /* as STOP and RESUME have it */
	bool quiet;		     /* we stop it and let it go on ourselves */
	struct migration *migration; /* NULL: none */
	bool guest_shutdown;	     /* SHUTDOWN said that the guest wanted it */
	bool resets_echo;
	uint64_t last_reset_ns;	  /* 0: none yet */
	char *stop_reason;	  /* of a BLOCK_IO_ERROR, for the STOP that follows it */
	struct error *boot_error; /* where the undertaker leaves the reason of a failed start */
};

/* --- Events --------------------------------------------------------------------------------- */

static const char *string_of(json_t *data, const char *key)
{
	return json_string_value(json_object_get(data, key));
}

static bool is_by_guest(json_t *data)
{
	return json_is_true(json_object_get(data, "guest"));
}

/* Nodes of disks are called disk-NAME, and after a snapshot o<number>-NAME. */
static const char *disk_of_node(const char *node)
{
	const char *dash = node ? strchr(node, '-') : NULL;

	if (!node)
		return "a disk";
	return dash && (str_starts(node, "disk-") || node[0] == 'o') ? dash + 1 : node;
}

/* QEMU's docs: BLOCK_IO_ERROR, then STOP, if the action is "stop" (it is, see argv.c). */
static void on_block_io_error(struct qemu_run *run, json_t *data)
{
	const char *reason = string_of(data, "reason");
	const char *operation = string_of(data, "operation");

	if (!str_eq(string_of(data, "action"), "stop"))
		return;
	free(run->stop_reason);
	run->stop_reason = xasprintf(
		"io-error: cannot %s '%s' on the host: %s", operation ? operation : "access",
		disk_of_node(string_of(data, "node-name")), reason ? reason : "no reason given");
}

static void on_reset(struct qemu_run *run, json_t *data, uint64_t at_ns)
{
	bool echo = run->resets_echo && is_by_guest(data) && run->last_reset_ns &&
		    at_ns - run->last_reset_ns < RESET_ECHO_NS;

	run->last_reset_ns = at_ns;
	if (!echo)
		run->events->on_reset(is_by_guest(data), string_of(data, "reason"), run->userdata);
}

static void translate_event(struct qemu_run *run, const char *name, json_t *data, uint64_t at_ns)
{
	const struct vm_events *e = run->events;

	if (str_eq(name, "STOP") || str_eq(name, "RESUME"))
		run->stopped = str_eq(name, "STOP");
	if (str_eq(name, "RESET")) {
		on_reset(run, data, at_ns);
	} else if (str_eq(name, "SHUTDOWN")) {
		run->guest_shutdown = is_by_guest(data);
		e->on_shutdown(run->guest_shutdown, string_of(data, "reason"), run->userdata);
	} else if (str_eq(name, "GUEST_PANICKED") || str_eq(name, "GUEST_CRASHLOADED")) {
		e->on_panic(json_object_get(data, "info"), run->userdata);
	} else if (str_eq(name, "BLOCK_IO_ERROR")) {
		on_block_io_error(run, data);
	} else if (str_eq(name, "STOP")) {
		_cleanup_free_ char *reason = TAKE_PTR(run->stop_reason);

		if (reason || !run->quiet)
			e->on_stopped(true, reason, run->userdata);
	} else if (str_eq(name, "RESUME") && run->booted && !run->quiet) {
		e->on_stopped(false, NULL, run->userdata);
	} else if (str_eq(name, "MIGRATION") && run->migration) {
		(void)snprintf(run->migration->status, sizeof(run->migration->status), "%s",
			       string_of(data, "status") ?: "");
		waiters_wake_all(&run->migration->changed);
	}
}

static void on_event(const char *name, json_t *data, uint64_t at_ns, void *userdata)
{
	struct qemu_run *run = userdata;

	run->events->on_event(name, data, at_ns, run->userdata);
	translate_event(run, name, data, at_ns);
}

static void on_closed_too_long(void *userdata)
{
	struct qemu_run *run = userdata;

	process_kill(run->process, SIGKILL);
}

static void on_qmp_closed(const struct error *err, void *userdata)
{
	struct qemu_run *run = userdata;

	if (!run->closed_timer)
		run->closed_timer =
			timer_start(deadline_in(CLOSED_GRACE_NS), on_closed_too_long, run);
}

static const struct qmp_callbacks qmp_callbacks = {
	.on_event = on_event,
	.on_closed = on_qmp_closed,
};

/* --- What it says on stderr ----------------------------------------------------------------- */

static void keep_stderr(struct qemu_run *run, const char *data, size_t len)
{
	size_t n = MIN(len, STDERR_HALF_BYTES - run->stderr_head.len);

	buf_append(&run->stderr_head, data, n);
	buf_append(&run->stderr_tail, data + n, len - n);
	if (run->stderr_tail.len > 2 * STDERR_HALF_BYTES)
		buf_consume(&run->stderr_tail, run->stderr_tail.len - STDERR_HALF_BYTES);
}

static int stderr_main(void *userdata)
{
	struct qemu_run *run = userdata;
	struct fiber_shield shield;
	char chunk[1024];
	ssize_t n;

	fiber_shield_enter(&shield, NS_FOREVER);
	while ((n = io_read(run->stderr_io, chunk, sizeof(chunk), NS_FOREVER, NULL)) > 0)
		keep_stderr(run, chunk, (size_t)n);
	fiber_shield_leave(&shield);
	return 0;
}

/* The last n lines, joined by newlines; "" if it said nothing. */
static char *last_lines(const struct qemu_run *run, size_t n)
{
	_cleanup_buf_ struct buf all = {};
	_cleanup_strv_ char **lines = NULL;
	size_t total;
	char *text;

	buf_append(&all, run->stderr_head.data, run->stderr_head.len);
	buf_append(&all, run->stderr_tail.data, run->stderr_tail.len);
	lines = strv_split(buf_str(&all), "\r\n");
	total = strv_len(lines);
	text = strv_join(total > n ? lines + (total - n) : lines, "\n");
	return text ? text : xstrdup("");
}

/* --- Its end -------------------------------------------------------------------------------- */

/* Whether one of the user's own arguments is what QEMU complained about. */
static bool blames_own_args(const struct qemu_run *run, const char *lines)
{
	_cleanup_strv_ char **args = strv_split(run->hint_args ? run->hint_args : "", "\n");

	for (size_t i = 0; args && args[i]; i++)
		if (strlen(args[i]) > 1 && strstr(lines, args[i]))
			return true;
	return false;
}

/* "qemu-system-x86_64 exited with status 1: -device x: 'x' is not a valid device model name" */
static void explain_end(const struct qemu_run *run, const char *how, const char *lines,
			enum error_kind kind, struct error *err)
{
	_cleanup_free_ char *prefix = xasprintf("%s: ", process_name(run->process));
	_cleanup_strv_ char **v = strv_split(lines, "\n");
	_cleanup_buf_ struct buf text = {};

	for (size_t i = 0; v && v[i]; i++)
		buf_printf(&text, "%s%s", i ? "\n" : "",
			   str_starts(v[i], prefix) ? v[i] + strlen(prefix) : v[i]);
	if (kind == ERROR_INFRA && blames_own_args(run, lines)) {
		(void)error_set(err, ERROR_USAGE, EINVAL, "%s: %s", how, buf_str(&text));
		error_hint(err, "look at the option 'qemu_args'");
		return;
	}
	(void)error_set(err, kind, ECONNRESET, "%s%s%s", how, text.len ? ": " : "", buf_str(&text));
}

static void run_free(struct qemu_run *run)
{
	timer_free(run->closed_timer);
	qmp_free(run->qmp);
	io_free(run->stderr_io);
	fiber_unref(run->stderr_reader);
	process_free(run->process);
	fiber_unref(run->undertaker);
	buf_done(&run->stderr_head);
	buf_done(&run->stderr_tail);
	free(run->stop_reason);
	free(run->hint_args);
	free(run);
}

static int undertaker_main(void *userdata)
{
	struct qemu_run *run = userdata;
	_cleanup_free_ char *status = NULL;
	_cleanup_free_ char *how = NULL;
	_cleanup_free_ char *lines = NULL;
	struct fiber_shield shield;
	struct error err = {};
	bool clean;

	fiber_shield_enter(&shield, NS_FOREVER);
	(void)process_wait(run->process, NS_FOREVER, NULL, NULL);
	(void)qmp_drain(run->qmp, DRAIN_TIMEOUT_NS, NULL);
	if (fiber_join(run->stderr_reader, DRAIN_TIMEOUT_NS, NULL) < 0) {
		io_free(TAKE_PTR(run->stderr_io));
		(void)fiber_join(run->stderr_reader, NS_FOREVER, NULL);
	}

	status = process_describe_status(process_status(run->process));
	how = xasprintf("%s %s", process_name(run->process), status);
	lines = last_lines(run, LAST_LINES);
	clean = run->guest_shutdown && process_status(run->process) == 0;
	explain_end(run, how, lines, run->booted ? ERROR_CRASH : ERROR_INFRA, &err);
	if (run->migration) {
		run->migration->ended = true;
		waiters_wake_all(&run->migration->changed);
	}
	qmp_fail(run->qmp, &err);

	*run->slot = NULL;
	if (run->booted) {
		struct vm_exit e = {.clean = clean, .how = how, .last_lines = lines};

		run->events->on_exit(&e, run->userdata);
	} else if (run->boot_error) {
		*run->boot_error = err;
	}
	run_free(run); /* waits for those who were just failed */
	fiber_shield_leave(&shield);
	return 0;
}

/* --- From outside --------------------------------------------------------------------------- */

int qemu_run_start(const struct qemu_run_opts *opts, int qmp_fd, struct qemu_run **slot,
		   struct error *err)
{
	_cleanup_close_ int qmp = qmp_fd;
	_cleanup_close_ int stderr_ours = -EBADF;
	_cleanup_close_ int stderr_theirs = -EBADF;
	struct spawn_opts spawn = {.fds = opts->fds, .n_fds = opts->n_fds};
	struct process *process;
	struct qemu_run *run;
	int fds[2], r;

	assert(!*slot);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
	stderr_ours = fds[0];
	stderr_theirs = fds[1];
	spawn.stdout_fd = spawn.stderr_fd = stderr_theirs;
	r = process_spawn(opts->argv, &spawn, &process, err);
	if (r < 0)
		return r;

	run = xcalloc(1, sizeof(*run));
	run->slot = slot;
	run->resets_echo = opts->resets_echo;
	run->events = opts->events;
	run->userdata = opts->userdata;
	run->hint_args = opts->hint_args ? xstrdup(opts->hint_args) : NULL;
	run->process = process;
	run->qmp = qmp_new(io_new(TAKE_FD(qmp)), &qmp_callbacks, run);
	run->stderr_io = io_new(TAKE_FD(stderr_ours));
	fiber_start("qemu-stderr", stderr_main, run, &run->stderr_reader);
	fiber_start("qemu-undertaker", undertaker_main, run, &run->undertaker);
	*slot = run;
	return 0;
}

/* --- Saved states --------------------------------------------------------------------------- */

/*
 * A saved state is QEMU's migration stream in a file (docs/devel/migration). x-ignore-shared leaves
 * out memory that is a file mapped with share=on; so both ends say whether it does. The names of
 * statuses and parameters are those of QEMU's QAPI reference.
 *
 * The bandwidth is set since the default (128 MiB/s) is meant for networks. QEMU announces a guest
 * that has moved to the network; ours has not moved.
 */
#define STREAM_NAME	  "state"
#define UNLIMITED_BYTES	  (1ULL << 40)
#define STALL_TIMEOUT_NS  (600 * NS_PER_SEC)
#define FINALIZE_LOOK_NS  (200 * NS_PER_US)
#define CANCEL_TIMEOUT_NS (10 * NS_PER_SEC)

static int call_take(struct qemu_run *run, const char *command, json_t *args /* taken */, int fd,
		     struct error *err)
{
	int r = fd < 0 ? qmp_call(run->qmp, command, args, GREETING_TIMEOUT_NS, NULL, err)
		       : qmp_call_fd(run->qmp, command, args, fd, GREETING_TIMEOUT_NS, NULL, err);

	json_decref(args);
	return r;
}

static json_t *capability(const char *name, bool on)
{
	return json_pack("{s:s, s:b}", "capability", name, "state", on);
}

/* What both directions begin with. */
static int prepare_stream(struct qemu_run *run, int fd, bool without_memory, json_t *params,
			  struct error *err)
{
	json_t *caps = json_pack("{s:[o, o]}", "capabilities", capability("events", true),
				 capability("x-ignore-shared", without_memory));
	int r = call_take(run, "migrate-set-capabilities", caps, -EBADF, err);

	if (r >= 0)
		r = call_take(run, "migrate-set-parameters", json_incref(params), -EBADF, err);
	json_decref(params);
	if (r >= 0)
		r = call_take(run, "getfd", json_pack("{s:s}", "fdname", STREAM_NAME), fd, err);
	return r;
}

/* Until it is over, one way or another. The run must not be touched when m->ended is set. */
static int wait_migration(struct migration *m, uint64_t timeout_ns, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns);

	while (!m->ended && !str_eq(m->status, "completed") && !str_eq(m->status, "failed") &&
	       !str_eq(m->status, "cancelled")) {
		int r = fiber_wait_until(&m->changed, deadline, timeout_ns,
					 "QEMU to have the machine's state through", err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int explain_failure(struct qemu_run *run, const char *verb, struct error *err)
{
	json_t *info = NULL;
	int r;

	r = qmp_call(run->qmp, "query-migrate", NULL, GREETING_TIMEOUT_NS, &info, err);
	if (r >= 0) {
		const char *why = string_of(info, "error-desc");

		r = error_set(err, ERROR_INFRA, EIO, "QEMU cannot %s the machine: %s", verb,
			      why ? why : "it does not say why");
	}
	json_decref(info);
	return r;
}

/* QEMU says "completed", or "failed", a moment before it has put the migration away, and until then
 * refuses to go on ("Migration is not finalized yet", 7.2). Of that moment there is no event. The
 * run must not be touched when m->ended is set. */
static int wait_finalized(struct qemu_run *run, const struct migration *m, struct error *err)
{
	uint64_t deadline = deadline_in(GREETING_TIMEOUT_NS);

	for (;;) {
		json_t *status = NULL;
		bool busy;
		int r = qmp_call(run->qmp, "query-status", NULL, timeout_left(deadline), &status,
				 err);

		if (r < 0)
			return r;
		busy = str_eq(string_of(status, "status"), "finish-migrate");
		json_decref(status);
		if (!busy)
			return 0;
		r = fiber_sleep(FINALIZE_LOOK_NS, err);
		if (r < 0 || m->ended)
			return r;
		if (now_ns() >= deadline)
			return error_set(err, ERROR_INFRA, ETIMEDOUT,
					 "QEMU has saved the machine and does not come to its end");
	}
}

/* Nobody wants the stream any more; afterwards the machine can go on. */
static void cancel_migration(struct qemu_run *run, struct migration *m)
{
	struct fiber_shield shield;

	fiber_shield_enter(&shield, CANCEL_TIMEOUT_NS);
	(void)qmp_call(run->qmp, "migrate_cancel", NULL, CANCEL_TIMEOUT_NS, NULL, NULL);
	if (!m->ended)
		(void)wait_migration(m, CANCEL_TIMEOUT_NS, NULL);
	if (!m->ended)
		(void)wait_finalized(run, m, NULL);
	fiber_shield_leave(&shield);
}

static int run_migration(struct qemu_run *run, const char *command, const char *verb,
			 struct error *err)
{
	bool outgoing = str_eq(command, "migrate");
	struct error why = {};
	struct migration m = {};
	int r;

	run->migration = &m;
	r = call_take(run, command, json_pack("{s:s}", "uri", "fd:" STREAM_NAME), -EBADF, &why);
	if (r >= 0)
		r = wait_migration(&m, STALL_TIMEOUT_NS, &why);
	/* Also when not even the answer to the command was waited for: it may be under way. One
	 * that comes in ends with its QEMU. */
	if (r < 0 && !m.ended && outgoing && why.kind != ERROR_EXPECT)
		cancel_migration(run, &m);
	if (r >= 0 && !m.ended && outgoing)
		r = wait_finalized(run, &m, &why);
	if (m.ended)
		return r < 0 ? error_propagate(err, &why)
			     : error_set(err, ERROR_CRASH, ECONNRESET,
					 "QEMU ended while it was to %s the machine", verb);
	run->migration = NULL;
	if (r >= 0 && !str_eq(m.status, "completed"))
		r = explain_failure(run, verb, &why);
	return r < 0 ? error_propagate(err, &why) : 0;
}

int qemu_run_save(struct qemu_run *run, int devices_fd, bool without_memory, struct error *err)
{
	json_t *params = json_pack("{s:I}", "max-bandwidth", (json_int_t)UNLIMITED_BYTES);
	int r = prepare_stream(run, devices_fd, without_memory, params, err);

	return r < 0 ? r : run_migration(run, "migrate", "save", err);
}

static int load(struct qemu_run *run, const struct qemu_incoming *from, struct error *err)
{
	json_t *params = json_pack("{s:i}", "announce-rounds", 0);
	int r = prepare_stream(run, from->devices_fd, from->without_memory, params, err);

	return r < 0 ? r : run_migration(run, "migrate-incoming", "restore", err);
}

bool qemu_run_is_stopped(const struct qemu_run *run)
{
	return run->stopped;
}

void qemu_run_set_quiet(struct qemu_run *run, bool quiet)
{
	run->quiet = quiet;
}

/* --- Starting and ending -------------------------------------------------------------------- */

/* Whoever waits for the end must not need the run any more. */
static void wait_for_undertaker(struct fiber *undertaker)
{
	struct fiber_shield shield;

	fiber_shield_enter(&shield, NS_FOREVER);
	(void)fiber_join(undertaker, NS_FOREVER, NULL);
	fiber_shield_leave(&shield);
}

/* The start has come to nothing: ends what is left of it, and finds the best reason there is. */
static int fail_boot(struct qemu_run **slot, struct fiber *undertaker, struct error *failure,
		     const struct error *end, struct error *err)
{
	/* It died, or it is alive and of no use: then its end would say nothing. */
	if (*slot && failure->kind != ERROR_CRASH)
		process_kill((*slot)->process, SIGKILL);
	wait_for_undertaker(undertaker);
	if (!error_is_set(failure) || failure->kind == ERROR_CRASH)
		return error_propagate(err, end);
	if (failure->kind == ERROR_TIMEOUT || failure->kind == ERROR_EXPECT)
		failure->kind = ERROR_INFRA; /* no fault of what is tested */
	return error_propagate(err, failure);
}

static int greet(struct qemu_run *run, struct error *err)
{
	int r;

	if (run->greeted)
		return 0;
	r = qmp_greet(run->qmp, GREETING_TIMEOUT_NS, NULL, err);
	if (r >= 0)
		run->greeted = true;
	return r;
}

int qemu_run_greet(struct qemu_run **slot, struct error *err)
{
	struct qemu_run *run = *slot;
	_cleanup_fiber_ struct fiber *undertaker = fiber_ref(run->undertaker);
	struct error failure = {}, end = {};
	int r;

	run->boot_error = &end;
	r = greet(run, &failure);
	if (r < 0 || !*slot)
		return fail_boot(slot, undertaker, &failure, &end, err);
	run->boot_error = NULL;
	return 0;
}

int qemu_run_boot(struct qemu_run **slot, const struct qemu_incoming *from, struct error *err)
{
	struct qemu_run *run = *slot;
	_cleanup_fiber_ struct fiber *undertaker = fiber_ref(run->undertaker);
	struct error failure = {}, end = {};
	int r;

	run->boot_error = &end;
	r = greet(run, &failure);
	if (r >= 0 && from)
		r = load(run, from, &failure);
	if (r >= 0 && *slot)
		r = qmp_call(run->qmp, "cont", NULL, GREETING_TIMEOUT_NS, NULL, &failure);
	if (r < 0 || !*slot)
		return fail_boot(slot, undertaker, &failure, &end, err);
	run->booted = true;
	run->boot_error = NULL;
	return 0;
}

void qemu_run_move(struct qemu_run **from, struct qemu_run **to)
{
	assert(*from && !*to);
	*to = TAKE_PTR(*from);
	(*to)->slot = to;
}

void qemu_run_kill(struct qemu_run **slot)
{
	_cleanup_fiber_ struct fiber *undertaker = NULL;

	if (!*slot)
		return;
	undertaker = fiber_ref((*slot)->undertaker);
	process_kill((*slot)->process, SIGKILL);
	wait_for_undertaker(undertaker);
}

int qemu_run_call(struct qemu_run *run, const char *command, json_t *args, uint64_t timeout_ns,
		  json_t **ret, struct error *err)
{
	if (!run)
		return error_set(err, ERROR_CRASH, ESRCH, "QEMU does not run");
	return qmp_call(run->qmp, command, args, timeout_ns, ret, err);
}

int qemu_run_call_fd(struct qemu_run *run, const char *command, json_t *args, int fd,
		     uint64_t timeout_ns, json_t **ret, struct error *err)
{
	if (!run)
		return error_set(err, ERROR_CRASH, ESRCH, "QEMU does not run");
	return qmp_call_fd(run->qmp, command, args, fd, timeout_ns, ret, err);
}

pid_t qemu_run_pid(const struct qemu_run *run)
{
	return process_pid(run->process);
}
