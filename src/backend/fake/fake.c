/* SPDX-License-Identifier: MIT */
/* The fake backend: power, console and scripted mishaps of a guest that is not there. */
#include "backend/fake/fake.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/str.h"
#include "loop/loop.h"

/*
 * Theory of operation
 *
 * All of it runs on fibers of the same process. A start makes two socket pairs, hands one end of
 * each to the core, as QEMU would, and starts three fibers: the director (boot text, hello, what
 * the script lets happen later), the session (reads the agent's stream) and the keyboard (reads the
 * console's). A call is a fiber, too. What the core sees is what it sees of a real guest: bytes,
 * and events.
 *
 * Fibers may outlive a power cycle, and even the vm, by a turn of the loop: each holds a reference
 * and looks at `starts` (or at `gone`) after every wait.
 */

struct fake *fake_ref(struct fake *f)
{
	f->refs++;
	return f;
}

void fake_unref(struct fake *f)
{
	if (--f->refs > 0)
		return;
	assert(!f->running);
	guest_done(f);
	wire_decoder_done(&f->in);
	buf_done(&f->out);
	buf_done(&f->kept);
	buf_done(&f->typed);
	fake_layers_done(f);
	json_decref(f->script);
	free(f);
}

void fake_spawn(const char *name, fiber_fn fn, void *userdata)
{
	struct fiber_shield shield;

	if (fiber_self())
		fiber_shield_enter(&shield, NS_FOREVER);
	fiber_start(name, fn, userdata, NULL);
	if (fiber_self())
		fiber_shield_leave(&shield);
}

uint64_t fake_time(json_t *table, const char *key, uint64_t dflt)
{
	json_t *v = json_object_get(table, key);
	uint64_t ns;

	if (json_is_number(v))
		return (uint64_t)(json_number_value(v) * NS_PER_SEC);
	if (json_is_string(v) && parse_duration(json_string_value(v), &ns) == 0)
		return ns;
	return dflt;
}

const char *fake_text(json_t *table, const char *key)
{
	return json_string_value(json_object_get(table, key));
}

static const struct vm_events *events(const struct fake *f)
{
	return f->vm.init.events;
}

static void tell(struct fake *f, const char *event, json_t *data)
{
	events(f)->on_event(event, data, now_ns(), f->vm.init.userdata);
	json_decref(data);
}

/* --- the console --- */

/* A terminal ends lines with CR LF. */
void fake_console_write(struct fake *f, const char *text)
{
	_cleanup_buf_ struct buf b = {};

	if (!f->console)
		return;
	for (; *text; text++) {
		if (*text == '\n')
			buf_putc(&b, '\r');
		buf_putc(&b, *text);
	}
	(void)io_write_all(f->console, b.data, b.len, NS_FOREVER, NULL);
}

static void type_line(struct fake *f)
{
	json_t *answers = json_object_get(f->script, "console");
	const char *answer = fake_text(answers, buf_str(&f->typed));

	buf_truncate(&f->typed, 0);
	if (answer)
		fake_console_write(f, answer);
}

/* What a fiber works for: one boot, or one start. */
struct era {
	struct fake *f;
	unsigned number;
	bool resumed; /* a boot: it goes on in the middle */
};

static struct era *era_new(struct fake *f, unsigned number)
{
	struct era *e = xcalloc(1, sizeof(*e));

	*e = (struct era){.f = fake_ref(f), .number = number};
	return e;
}

static void era_free(struct era *e)
{
	fake_unref(e->f);
	free(e);
}

static int keyboard_run(void *userdata)
{
	struct era *e = userdata;
	struct fake *f = e->f;
	bool echo = !json_is_false(json_object_get(f->script, "echo"));
	char chunk[512];

	while (f->running && f->starts == e->number) {
		ssize_t n = io_read(f->console, chunk, sizeof(chunk) - 1, NS_FOREVER, NULL);

		if (n <= 0 || f->starts != e->number)
			break;
		for (ssize_t i = 0; i < n && f->console; i++) {
			char c[2] = {chunk[i] == '\r' ? '\n' : chunk[i]};

			if (echo)
				fake_console_write(f, c);
			if (c[0] == '\n')
				type_line(f);
			else
				buf_putc(&f->typed, c[0]);
		}
	}
	era_free(e);
	return 0;
}

/* --- what happens to it --- */

struct later {
	struct fake *f;
	unsigned start; /* it is for this run only */
	void (*fn)(struct fake *f);
};

static int later_run(void *userdata)
{
	struct later *l = userdata;

	if (l->f->starts == l->start)
		l->fn(l->f);
	fake_unref(l->f);
	free(l);
	return 0;
}

void fake_later(struct fake *f, void (*fn)(struct fake *f))
{
	struct later *l = xcalloc(1, sizeof(*l));

	*l = (struct later){.f = fake_ref(f), .start = f->starts, .fn = fn};
	fake_spawn("fake-later", later_run, l);
}

void fake_panic(struct fake *f)
{
	if (!f->running)
		return;
	fake_session_drop_calls(f);
	f->hung = true;
	fake_console_write(f,
			   "[    1.500000] Kernel panic - not syncing: fake panic\n"
			   "[    1.500100] CPU: 0 PID: 1 Comm: init Not tainted 6.0.0-fake #1\n"
			   "[    1.500200] Call Trace:\n"
			   "[    1.500300]  panic+0x118/0x2c1\n"
			   "[    1.500400] ---[ end Kernel panic - not syncing: fake panic ]---\n");
	if (!f->running)
		return;
	tell(f, "GUEST_PANICKED", json_pack("{ss}", "action", "run"));
	events(f)->on_panic(NULL, f->vm.init.userdata);
}

void fake_close_agent(struct fake *f)
{
	fake_session_drop_calls(f);
	io_free(TAKE_PTR(f->agent));
}

/* The VMM is gone: everything that was in it, too. */
static void stop(struct fake *f, bool clean, const char *how)
{
	struct vm_exit e = {.clean = clean, .how = how, .last_lines = ""};

	if (!f->running)
		return;
	f->running = f->paused = false;
	fake_close_agent(f);
	io_free(TAKE_PTR(f->console));
	waiters_wake_all(&f->changed);
	events(f)->on_exit(&e, f->vm.init.userdata);
}

void fake_die(struct fake *f)
{
	stop(f, false, "fake-vmm was killed by signal 9 (Killed)");
}

static void shut_down(struct fake *f, bool by_guest)
{
	const char *reason = by_guest ? "guest-shutdown" : "host-qmp-quit";

	if (!f->running)
		return;
	tell(f, "SHUTDOWN", json_pack("{sb, ss}", "guest", by_guest, "reason", reason));
	events(f)->on_shutdown(by_guest, reason, f->vm.init.userdata);
	stop(f, true, "fake-vmm exited with status 0");
}

void fake_poweroff(struct fake *f)
{
	shut_down(f, true);
}

/* How long init takes for that; a real one takes longer. */
#define INIT_NS (5 * NS_PER_MS)

static bool init_ends(struct fake *f, const char *last_words)
{
	unsigned boot = f->boots;

	if (fiber_sleep(INIT_NS, NULL) < 0 || !f->running || f->boots != boot)
		return false;
	fake_console_write(f, last_words);
	return f->running && f->boots == boot;
}

void fake_init_poweroff(struct fake *f)
{
	if (init_ends(f, "[   90.000000] reboot: Power down\n"))
		shut_down(f, true);
}

void fake_init_reboot(struct fake *f)
{
	if (init_ends(f, "[   90.000000] reboot: Restarting system\n"))
		fake_reset(f, true);
}

/* --- boots --- */

enum mishap { PANIC, RESET, DIE, CLOSE, HANG, POWEROFF, N_MISHAPS };
static const char *const mishap_keys[] = {
	[PANIC] = "panic_after", [RESET] = "reset_after", [DIE] = "die_after",
	[CLOSE] = "close_after", [HANG] = "hang_after",	  [POWEROFF] = "poweroff_after",
};

/* False when this boot is over. */
static bool pass_time(struct era *b, uint64_t until_ns)
{
	struct fake *f = b->f;

	while (f->running && f->boots == b->number && (now_ns() < until_ns || f->paused)) {
		uint64_t left = f->paused ? NS_FOREVER : timeout_left(until_ns);
		int r = fiber_wait(&f->changed, left, "the fake guest's next act", NULL);

		if (r < 0 && r != -ETIMEDOUT)
			return false;
	}
	return f->running && f->boots == b->number;
}

static void happen(struct fake *f, enum mishap what)
{
	switch (what) {
	case PANIC:
		return fake_panic(f);
	case RESET:
		return fake_reset(f, true);
	case DIE:
		return fake_die(f);
	case CLOSE:
		return fake_close_agent(f);
	case HANG:
		f->hung = true;
		return;
	case POWEROFF:
		return fake_poweroff(f);
	case N_MISHAPS:
		return;
	}
}

/* The next mishap of the script that is not behind us; NS_FOREVER: none. */
static uint64_t next_mishap(struct fake *f, unsigned done, enum mishap *ret)
{
	uint64_t first = NS_FOREVER;
	json_t *only = json_object_get(f->script, "only_boot");

	if (json_is_integer(only) && json_integer_value(only) != f->nth_boot)
		return NS_FOREVER;
	for (int i = 0; i < N_MISHAPS; i++) {
		uint64_t at = fake_time(f->script, mishap_keys[i], NS_FOREVER);

		if (at == NS_FOREVER || (done & 1U << i) || at >= first)
			continue;
		first = at;
		*ret = (enum mishap)i;
	}
	return first == NS_FOREVER ? first : f->boot_ns + first;
}

/* Those that are behind a guest that goes on. */
static unsigned past_mishaps(struct fake *f)
{
	unsigned done = 0;

	for (int i = 0; i < N_MISHAPS; i++)
		if (f->boot_ns + fake_time(f->script, mishap_keys[i], 1ULL << 60) < now_ns())
			done |= 1U << i;
	return done;
}

static void boot_text(struct fake *f)
{
	json_t *text = json_object_get(f->script, "boot_text"), *line;
	_cleanup_buf_ struct buf b = {};
	size_t i;

	json_array_foreach(text, i, line) buf_printf(&b, "%s\n", json_string_value(line) ?: "");
	if (json_is_string(text))
		buf_puts(&b, json_string_value(text));
	fake_console_write(f, buf_str(&b));
}

static int director_run(void *userdata)
{
	struct era *b = userdata;
	struct fake *f = b->f;
	enum mishap what = N_MISHAPS;
	uint64_t at, hello = f->boot_ns + fake_time(f->script, "boot_delay", 0);
	bool said_hello = !f->agent || json_is_true(json_object_get(f->script, "never_boot"));
	unsigned done = 0;

	if (b->resumed) { /* it has done all that by now */
		said_hello = true;
		done = past_mishaps(f);
	} else {
		boot_text(f);
	}
	while (f->running && f->boots == b->number) {
		at = next_mishap(f, done, &what);
		if (!said_hello && hello <= at) {
			if (!pass_time(b, hello))
				break;
			said_hello = true;
			fake_session_hello(f, "initramfs");
			/* The host answers to that, as it does while a real root is mounted. */
			while (f->running && f->boots == b->number && !f->host_id &&
			       !json_object_get(f->script, "version"))
				if (fiber_wait(&f->changed, NS_FOREVER, "the host", NULL) < 0)
					break;
			if (!f->running || f->boots != b->number)
				break;
			fake_session_hello(f, fake_text(f->script, "boot_fails") ? "failed"
										 : "system");
			continue;
		}
		if (at == NS_FOREVER || !pass_time(b, at))
			break;
		done |= 1U << what;
		happen(f, what);
	}
	era_free(b);
	return 0;
}

/* The guest begins anew, in the VMM that is there. */
static void boot(struct fake *f)
{
	uint32_t hash = 2166136261U; /* FNV-1a of the name */

	for (const char *c = f->vm.init.spec->name; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619U;
	f->boots++;
	f->nth_boot++;
	f->hung = f->frozen = false;
	f->host_id = 0;
	f->phase[0] = '\0';
	f->nonce = ((uint64_t)hash << 32) + f->boots;
	f->boot_ns = now_ns();
	snprintf(f->boot_id, sizeof(f->boot_id), "%08x-%04x-4000-8000-%012u", hash,
		 (unsigned)getpid() & 0xFFFF, f->boots);
	guest_boot(f);
	fake_spawn("fake-director", director_run, era_new(f, f->boots));
}

/* Takes up a saved state in place of a boot. */
static int resume(struct fake *f, const struct saved *from, struct error *err)
{
	struct era *era;
	int r = fake_load(f, from, err);

	if (r < 0)
		return r;
	f->boots++;
	f->hung = false;
	era = era_new(f, f->boots);
	era->resumed = true;
	fake_spawn("fake-director", director_run, era);
	return 0;
}

void fake_reset(struct fake *f, bool by_guest)
{
	const char *reason = by_guest ? "guest-reset" : "host-qmp-system-reset";

	if (!f->running)
		return;
	fake_session_drop_calls(f);
	tell(f, "RESET", json_pack("{sb, ss}", "guest", by_guest, "reason", reason));
	events(f)->on_reset(by_guest, reason, f->vm.init.userdata);
	boot(f);
	waiters_wake_all(&f->changed);
}

/* --- the operations --- */

static int op_available(struct error *err)
{
	return 0;
}

static unsigned op_caps(void)
{
	return MACHINE_CAP_AGENT | MACHINE_CAP_CONSOLE | MACHINE_CAP_POWEROFF | MACHINE_CAP_PAUSE |
	       MACHINE_CAP_QMP | MACHINE_CAP_DISKS | MACHINE_CAP_SNAPSHOT;
}

static uint64_t op_cost_bytes(const struct machine_spec *spec)
{
	return 1 * MIB;
}

static int op_check(const struct machine_spec *spec, struct error *err)
{
	static const char *const keys[] = {
		"boot_text",  "boot_delay",  "never_boot",    "boot_fails",	"start_fails",
		"version",    "exec",	     "files",	      "units",		"systemd",
		"ports",      "sockets",     "mounts",	      "processes",	"journal",
		"console",    "echo",	     "qmp",	      "panic_after",	"reset_after",
		"die_after",  "close_after", "hang_after",    "poweroff_after", "only_boot",
		"save_fails", "save_dies",   "restore_fails", "unsavable",	"state_version",
		"save_takes", NULL};
	const char *key;
	json_t *value;

	json_object_foreach(spec->fake, key, value)
	{
		const char *near = nearest_name(key, keys);
		bool known = false;

		for (const char *const *k = keys; *k; k++)
			known |= str_eq(*k, key);
		if (known)
			continue;
		error_set(err, ERROR_USAGE, EINVAL, "unknown option '%.80s' in fake", key);
		if (near)
			error_hint(err, "did you mean '%s'?", near);
		return -EINVAL;
	}
	return 0;
}

static int op_open(const struct vm_init *init, struct vm **ret, struct error *err)
{
	struct fake *f = xcalloc(1, sizeof(*f));

	f->vm = (struct vm){.ops = &backend_fake, .init = *init};
	f->refs = 1;
	f->script = init->spec->fake ? json_incref(init->spec->fake) : json_object();
	wire_decoder_init(&f->in);
	guest_init(f);
	*ret = &f->vm;
	return 0;
}

static void op_close(struct vm *vm)
{
	if (vm)
		fake_unref((struct fake *)vm);
}

static int make_stream(struct io **ret_ours, struct io **ret_theirs, struct error *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a socket pair");
	*ret_ours = io_new(fds[0]);
	*ret_theirs = io_new(fds[1]);
	return 0;
}

static int open_streams(struct fake *f, struct io **ret_console, struct io **ret_agent,
			struct error *err)
{
	int r = make_stream(&f->console, ret_console, err);

	if (r < 0 || !f->vm.init.spec->agent)
		return r;
	r = make_stream(&f->agent, ret_agent, err);
	if (r < 0) {
		io_free(TAKE_PTR(f->console));
		io_free(*ret_console);
	}
	return r;
}

static int op_start(struct vm *vm, const struct vm_start *how, struct vm_streams *ret,
		    struct error *err)
{
	struct fake *f = (struct fake *)vm;
	bool resumes = how->from && how->from->devices_fd >= 0;
	const char *fails = fake_text(f->script, "start_fails");
	struct io *console = NULL, *agent = NULL;
	int r;

	assert(!f->running);
	if (fails)
		return error_set(err, ERROR_INFRA, EIO, "the fake VMM does not start: %s", fails);
	fails = fake_text(f->script, "restore_fails");
	if (how->from && fails)
		return error_set(err, ERROR_INFRA, EIO, "the saved state was not taken up: %s",
				 fails);
	if (how->from && !resumes && (r = fake_load(f, how->from, err)) < 0)
		return r;
	r = open_streams(f, &console, &agent, err);
	if (r < 0)
		return r;
	f->start_ns = now_ns();
	if (resumes && (r = resume(f, how->from, err)) < 0) {
		io_free(TAKE_PTR(f->console));
		io_free(TAKE_PTR(f->agent));
		io_free(console);
		io_free(agent);
		return r;
	}
	f->running = true;
	f->savable = how->savable;
	f->starts++;
	wire_decoder_reset(&f->in);
	buf_truncate(&f->out, 0);
	buf_truncate(&f->typed, 0);
	fake_spawn("fake-keyboard", keyboard_run, era_new(f, f->starts));
	if (f->agent)
		fake_session_start(f, resumes ? "system" : NULL);
	if (!resumes)
		boot(f);
	*ret = (struct vm_streams){.agent = agent, .console = console, .epoch_ns = f->start_ns};
	return 0;
}

static void op_kill(struct vm *vm)
{
	fake_die((struct fake *)vm);
}

static int op_power_button(struct vm *vm, struct error *err)
{
	fake_later((struct fake *)vm, fake_init_poweroff);
	return 0;
}

static void reset_by_host(struct fake *f)
{
	fake_reset(f, false);
}

static int op_reset(struct vm *vm, struct error *err)
{
	fake_later((struct fake *)vm,
		   reset_by_host); /* as in QEMU: the event comes after the answer */
	return 0;
}

static int set_paused(struct fake *f, bool paused)
{
	if (f->paused == paused)
		return 0;
	f->paused = paused;
	tell(f, paused ? "STOP" : "RESUME", NULL);
	events(f)->on_stopped(paused, NULL, f->vm.init.userdata);
	waiters_wake_all(&f->changed);
	return 0;
}

static int op_pause(struct vm *vm, struct error *err)
{
	return set_paused((struct fake *)vm, true);
}

static int op_resume(struct vm *vm, struct error *err)
{
	return set_paused((struct fake *)vm, false);
}

static int op_eject(struct vm *vm, const char *disk, struct error *err)
{
	tell((struct fake *)vm, "DEVICE_TRAY_MOVED",
	     json_pack("{ss, sb}", "id", disk, "tray-open", 1));
	return 0;
}

static void quit(struct fake *f)
{
	shut_down(f, false);
}

static int op_qmp(struct vm *vm, const char *command, json_t *args, uint64_t timeout_ns,
		  json_t **ret, struct error *err)
{
	struct fake *f = (struct fake *)vm;
	json_t *answer = json_object_get(json_object_get(f->script, "qmp"), command);

	if (answer) {
		if (ret)
			*ret = json_incref(answer);
		return 0;
	}
	if (str_eq(command, "query-status")) {
		if (ret)
			*ret = json_pack("{sb, ss}", "running", !f->paused, "status",
					 f->paused ? "paused" : "running");
		return 0;
	}
	if (str_eq(command, "stop"))
		set_paused(f, true);
	else if (str_eq(command, "cont"))
		set_paused(f, false);
	else if (str_eq(command, "system_reset"))
		fake_later(f, reset_by_host);
	else if (str_eq(command, "system_powerdown"))
		fake_later(f, fake_init_poweroff);
	else if (str_eq(command, "quit"))
		fake_later(f, quit);
	else
		return error_set(
			err, ERROR_EXPECT, ENOENT,
			"QMP command '%.80s' failed: CommandNotFound: The command %.80s has "
			"not been found",
			command, command);
	if (ret)
		*ret = json_object();
	return 0;
}

const struct backend_ops backend_fake = {
	.name = "fake",
	.summary = "scripted machines without a process, for tests of tests",
	.available = op_available,
	.caps = op_caps,
	.cost_bytes = op_cost_bytes,
	.check = op_check,
	.open = op_open,
	.close = op_close,
	.start = op_start,
	.kill = op_kill,
	.power_button = op_power_button,
	.reset = op_reset,
	.pause = op_pause,
	.resume = op_resume,
	.save = fake_save,
	.state_key = fake_state_key,
	.eject = op_eject,
	.qmp = op_qmp,
};
