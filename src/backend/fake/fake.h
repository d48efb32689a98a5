/* SPDX-License-Identifier: MIT */
/* The fake backend's inside: a guest without a machine, scripted by the definition. */
#pragma once

#include <jansson.h>

#include "loop/fiber.h"
#include "loop/io.h"
#include "machine/backend.h"
#include "proto/agent-wire.h"

/*
 * The option `fake` of a machine, all keys optional. Times are seconds or texts with a unit and are
 * never scaled; a time 0 is "at once".
 *
 *	boot_text	lines for the console when it is switched on (a string or a list)
 *	boot_delay	until the agent says hello
 *	never_boot	true: it never does
 *	boot_fails	a text: the initramfs gives up with it
 *	start_fails	a text: the VMM does not start (kind infra)
 *	version		another version of the agent's protocol
 *	exec		what commands answer: { ["command"] = answer }, see below
 *	files		{ ["/path"] = "content" }, as they are at the first start
 *	units		{ ["nginx.service"] = unit }, anew at each boot; unit is a state ("active",
 *"failed", "inactive", …) or { state=, sub=, result=, type=, after= (time until it is so;
 *			"activating" before), job=true, journal= }
 *	systemd		"running" (default), "degraded", …; false: PID 1 is something else
 *	ports		{ 80, 443 } or { ["80"] = time until it opens }
 *	sockets, mounts, processes	lists of paths, paths, command lines
 *	journal		what journalctl prints
 *	console		answers to lines typed at the console: { ["root"] = "Password: " }; the
 *			echo is true to life. echo = false: a terminal without echo
 *	qmp		answers to commands: { ["query-status"] = { … } }
 *	panic_after, reset_after, die_after, close_after, hang_after, poweroff_after
 *			times from the start (from each boot) until: the kernel panics, the guest
 *			resets itself, the VMM is killed, the agent's channel ends, the agent
 *			answers nothing more, the guest turns itself off
 *	only_boot	the *_after above happen in this boot only, counted from 1
 *	save_fails	a text: the machine cannot be saved (kind infra)
 *	save_takes	seconds
 *	save_dies	true: the VMM dies in the middle of it
 *	restore_fails	a text: no saved state is taken up (kind infra)
 *	unsavable	a text: what states depend on cannot be told, since … (kind unsupported)
 *	state_version	a text that states depend on
 *
 * An answer is stdout as text, or a table; later keys happen after earlier ones:
 *
 *	stdin=true	reads its stdin to the end first
 *	delay		time that it takes
 *	stdout, stderr	texts; stdin is put for "%stdin%", the user for "%user%", the working
 *			directory for "%cwd%", the value of variable X for "%env:X%"
 *	repeat		how many times stdout is written (for floods)
 *	ignore_term	true: survives SIGTERM
 *	write={path=text}, remove={paths}, units={…}, open_port=, close_port=, console=text
 *	panic, reset, die, close, hang, poweroff, reboot	true: then that happens
 *	violate		true: the agent breaks the rules of its protocol
 *	code, signal	how it ends; 0
 *	answers={…}	a list of answers: the first run gets the first, …, the last one is for all
 *later
 *
 * Keys of `exec` are compared with the command (a script as it is, arguments joined by blanks);
 * one that begins with "~" is a regular expression. Without an answer these work for themselves:
 *true, false, exit N, echo …, cat [FILE], sleep N, reboot, poweroff, whoami, pwd, hostname, uname
 *-n, systemctl (start, stop, restart, reload, is-active, show, status, cat, list-units …),
 *journalctl. All else ends with 127.
 */

struct fake;

/* A file of the guest; lives over power cycles, as a disk does. */
struct fake_file {
	char *path;
	struct buf data;
	mode_t mode;
	char *target; /* of a symbolic link */
	bool is_dir;
};

struct fake_unit {
	char *name;
	char state[32], sub[32], result[32], type[32];
	uint64_t ready_ns; /* "activating" until then */
	bool job;
	char *journal;
};

struct fake_port {
	unsigned port;
	uint64_t open_ns;
};

struct fake_guest {
	struct fake_file *files;
	size_t n_files;
	struct fake_unit *units;
	size_t n_units;
	struct fake_port *ports;
	size_t n_ports;
	json_t *runs; /* how often each key of exec was run */
};

struct fake_call {
	struct fake *f;
	struct fake_call *next;
	uint32_t id;
	uint16_t op;
	struct buf body;
	bool started;
	bool gone;		    /* the session ended: nobody listens */
	enum wire_cancel cancelled; /* 0: not */
	int signal;		    /* sent by the host */
	struct buf in;		    /* stream IN, not consumed yet */
	bool in_fin;
	size_t credit[WIRE_STREAMS]; /* may be sent */
};

/* One agent session's worth of stream; replaced at each power-on. */
struct fake {
	struct vm vm;
	unsigned refs;
	json_t *script; /* the option, or an empty object */
	bool running, paused;
	unsigned starts, boots; /* only grow: what a fiber works for */
	unsigned nth_boot;	/* of the machine; a restore takes it back, too */
	char boot_id[40];
	uint64_t start_ns, boot_ns;

	struct io *console;
	struct io *agent;
	struct wire_decoder in;
	struct buf out;
	bool flushing;
	bool frozen;	 /* by FREEZE; frames wait in `kept` */
	struct buf kept; /* … until THAW */
	uint64_t host_id, nonce;
	char phase[16];
	bool hung;
	struct fake_call *calls;
	struct fake_guest guest;
	int *layers; /* of its disk, as files: see save.c */
	size_t n_layers;
	bool savable;	  /* this run */
	struct buf typed; /* a line at the console, not ended yet */

	/* Woken at every change of anything above: guests are small. */
	struct waiters changed;
};

struct fake *fake_ref(struct fake *f);
void fake_unref(struct fake *f);
/* Starts a fiber that has no deadlines of the test's. */
void fake_spawn(const char *name, fiber_fn fn, void *userdata);
/* A scripted time; dflt if the key is absent. */
uint64_t fake_time(json_t *table, const char *key, uint64_t dflt);
const char *fake_text(json_t *table, const char *key);

/* --- fake.c: what happens to it --- */

void fake_console_write(struct fake *f, const char *text);
void fake_panic(struct fake *f);
void fake_reset(struct fake *f, bool by_guest);
void fake_poweroff(struct fake *f);
/* As the guest's init does it: not before the one who asked for it has his answer. */
void fake_init_poweroff(struct fake *f);
void fake_init_reboot(struct fake *f);
void fake_die(struct fake *f);
void fake_close_agent(struct fake *f);
/* In a fiber of its own, so that its caller may end first. */
void fake_later(struct fake *f, void (*fn)(struct fake *f));

/* --- save.c --- */

int fake_save(struct vm *vm, bool keep, struct saved **ret, struct error *err);
int fake_state_key(const struct vm_init *init, const struct image *image, struct buf *ret,
		   struct error *err);
/* Puts the state in place of what the guest has; the machine runs already, or is off and only the
 * disks count. */
int fake_load(struct fake *f, const struct saved *from, struct error *err);
void fake_layers_done(struct fake *f);

/* --- session.c: the agent's end of the wire --- */

/* phase: what a guest that goes on is in (it is frozen then); NULL: nothing runs in it yet. */
void fake_session_start(struct fake *f, const char *phase);
void fake_session_hello(struct fake *f, const char *phase);
/* Sends what no agent may: data on a stream that does not exist. */
void fake_session_violate(struct fake *f);
/* Ends all calls without a reply: the guest is gone. */
void fake_session_drop_calls(struct fake *f);
void fake_call_reply(struct fake_call *c, const struct buf *fields);
void fake_call_error(struct fake_call *c, enum error_kind kind, int code, const char *fmt, ...)
	_printf_(4, 5);
void fake_call_message(struct fake_call *c, const struct buf *fields);
/* Sends on a stream, waiting for credit. False if nobody listens any more (gone, cancelled). */
bool fake_call_write(struct fake_call *c, unsigned stream, const void *data, size_t len);
/* Takes what came on stream IN, appended to ret; waits for some. False at its end. */
bool fake_call_read(struct fake_call *c, struct buf *ret);
/* Parks the call until anything changed, or until_ns. False when it is to end. */
bool fake_call_wait(struct fake_call *c, uint64_t until_ns);

/* --- ops.c, exec.c: what calls do --- */

void fake_op_run(struct fake_call *c, const struct wire_fields *in);
void fake_exec(struct fake_call *c, const struct wire_fields *in);
/* "systemctl …" and "journalctl …"; the exit code, or -1 if it is neither. */
int fake_systemctl(struct fake *f, const char *command, struct buf *out, struct buf *err);

/* --- guest.c: its state --- */

void guest_init(struct fake *f);
void guest_boot(struct fake *f); /* units and ports anew */
void guest_done(struct fake *f);
struct fake_file *guest_file(struct fake *f, const char *path);
/* Made if it is not there; parents need not be. */
struct fake_file *guest_file_make(struct fake *f, const char *path);
/* With everything below it. */
bool guest_file_remove(struct fake *f, const char *path);
bool guest_file_matches(struct fake *f, const char *pattern);
void guest_set_units(struct fake *f, json_t *units);
/* ".service" may be left out. */
struct fake_unit *guest_unit(struct fake *f, const char *name);
const char *guest_unit_state(const struct fake_unit *u);
bool guest_port_is_open(struct fake *f, unsigned port);
void guest_port_set(struct fake *f, unsigned port, bool open);
/* As JSON: the files; everything else. Loading takes the place of what is there. */
json_t *guest_save_files(const struct fake *f);
int guest_load_files(struct fake *f, json_t *files, struct error *err);
json_t *guest_save_rest(const struct fake *f);
void guest_load_rest(struct fake *f, json_t *rest);
/* When something in the guest next changes by itself; NS_FOREVER. */
uint64_t guest_next_change(const struct fake *f);
bool guest_list_has(struct fake *f, const char *list, const char *what);
