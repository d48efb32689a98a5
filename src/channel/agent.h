/* SPDX-License-Identifier: MIT */
/* The host's end of the guest agent: commands, files and waits over one multiplexed byte stream. */
#pragma once

#include <sys/stat.h>

#include "base/buf.h"
#include "base/error.h"
#include "loop/fiber.h"
#include "loop/io.h"

/*
 * Theory of operation
 *
 * One `struct agent` is one session over one byte stream (a virtio-serial port, a socket pair, …).
 * A reader fiber decodes frames and hands them to the calls that wait for them; any number of
 * fibers may have calls under way. Every stream of a call is flow controlled by credit: the guest
 * may send only what the host has room for, so a guest that floods fills its own pipes, not our
 * memory.
 *
 * The agent announces itself with HELLO at its start and again after each boot (new boot id). The
 * session outlives a reboot of the guest: calls under way then fail with ERROR_CRASH, later ones
 * wait for the new HELLO (agent_wait_hello).
 *
 * The machine layer watches the VMM and the console; when the guest is gone it calls agent_fail()
 * and every pending and later call returns that error at once.
 */

struct agent;

struct agent_hello {
	unsigned version;   /* of the protocol */
	char build[65];	    /* of the agent binary; see agent_binary_build() */
	char boot_id[40];   /* kernel's random boot id */
	char phase[16];	    /* "initramfs", "system" (the guest's own root is there), "failed" */
	char message[512];  /* "failed": why the initramfs could not hand over */
	uint64_t uptime_ns; /* guest's CLOCK_BOOTTIME when it was sent */
};

struct agent_callbacks {
	/* Called on the reader's fiber. A new HELLO: the first, after a reboot (another boot id),
	 * or in another phase. In phase "initramfs" commands have only what the initramfs has: a
	 * machine with a root is ready for them in phase "system". After "failed", calls fail with
	 * the reason. */
	void (*on_hello)(struct agent *a, const struct agent_hello *hello, void *userdata);
	/* The stream ended or is broken; err says how. No call will succeed any more. */
	void (*on_closed)(struct agent *a, const struct error *err, void *userdata);
};

/* Takes the io. Never blocks: the reader fiber starts and waits for HELLO. A peer that speaks
 * another version is refused: every call fails with ERROR_INFRA naming both versions and builds. */
struct agent *agent_new(struct io *io, const struct agent_callbacks *cb, void *userdata);
void agent_free(struct agent *a); /* fails what is pending with ERROR_CANCELLED; NULL is fine */
/* Waits until a HELLO whose boot id differs from other_than (NULL: any) has been seen. */
int agent_wait_hello(struct agent *a, const char *other_than, uint64_t timeout_ns,
		     struct error *err);
const struct agent_hello *agent_last_hello(const struct agent *a); /* NULL before the first */
/* All pending and later calls fail with a copy of err, until agent_revive(). */
void agent_fail(struct agent *a, const struct error *err);
void agent_revive(struct agent *a);
/* A round trip; for liveness and benchmarks. */
int agent_ping(struct agent *a, uint64_t timeout_ns, struct error *err);

/* --- saving and restoring the guest ------------------------------------------------------ */

/* Before a save: the guest parks all streams, sends what is under way, stops active calendar timers
 * of systemd, acknowledges, and writes nothing more. Calls may be under way: they rest. Nothing is
 * sent to the guest from now on. When it fails, for whatever reason, nothing is frozen, and calls
 * go on: ERROR_INFRA for a guest that does not answer in time or cannot stop its timers. On one
 * that is frozen already: 0. */
int agent_freeze(struct agent *a, uint64_t timeout_ns, struct error *err);

struct agent_thaw {
	const char *machine_id; /* 32 hex digits to take on; NULL: stays as it is */
};
/*
 * The first thing after the guest goes on. Sets its clock, adds entropy of ours and makes the
 * kernel's generator use it, starts the timers again; only then does any call run. On the agent
 * that was frozen (save in place) calls go on where they were; on one made by agent_new_frozen()
 * the calls of the old session are over on the host, and what they started in the guest lives on.
 * how may be NULL. ERROR_INFRA when there is no answer in time (then it is frozen still, as far as
 * we know), and when the guest has thawed, but not its clock, entropy or machine id.
 */
int agent_thaw(struct agent *a, const struct agent_thaw *how, uint64_t timeout_ns,
	       struct error *err);
/* Whether agent_thaw() is still due: not after a session's end, which is an end of the rest, too.
 */
bool agent_is_frozen(const struct agent *a);
/* Like agent_new(), for a stream to a guest that was saved frozen: nothing happens on it until
 * agent_thaw(). on_hello is called by the thaw's answer (same boot id as when it was saved). */
struct agent *agent_new_frozen(struct io *io, const struct agent_callbacks *cb, void *userdata);

/* --- commands --------------------------------------------------------------------------- */

#define AGENT_OUTPUT_MAX_BYTES (64 * MIB)

struct agent_command {
	char *const *argv; /* executed as it is; or … */
	const char
		*script; /* … a shell script: `bash -euo pipefail -c`, `sh -eu -c` without bash */
	bool plain_shell;	/* script without -e, -u, pipefail */
	const char *user;	/* NULL: root. Its HOME, SHELL, PATH, groups (PAM where present) */
	const char *cwd;	/* NULL: /tmp, or the user's home */
	char *const *env;	/* "K=V" laid over the login environment */
	const void *stdin_data; /* written, then closed; NULL: /dev/null unless keep_stdin */
	size_t stdin_len;
	bool keep_stdin;   /* agent_process_write() follows */
	bool want_tty;	   /* a pty; stdout carries all output */
	size_t max_output; /* for each stream when collected; 0: AGENT_OUTPUT_MAX_BYTES */
};

struct agent_result {
	int code;    /* exit code, or -1 if a signal ended it */
	int signal;  /* 0, or its number */
	uint64_t ns; /* wall time in the guest */
	struct buf out, err;
	bool timed_out; /* the error was a time-out; out and err hold what came until then */
};
void agent_result_done(struct agent_result *r);

/*
 * Runs to the end of the *process* (not of its pipes) and collects. A non-zero end is no error.
 * At the time-out all its processes in the guest are killed (SIGTERM, 2 s, SIGKILL) and the error
 * is ERROR_TIMEOUT, with ret filled as far as known. More output than max_output: the command
 * is killed, ERROR_EXPECT that names the limit.
 */
int agent_run(struct agent *a, const struct agent_command *cmd, uint64_t timeout_ns,
	      struct agent_result *ret, struct error *err);

struct agent_process;
int agent_process_start(struct agent *a, const struct agent_command *cmd,
			struct agent_process **ret, struct error *err);
int agent_process_pid(const struct agent_process *p); /* in the guest */
/* The next bytes of either stream as they came (ret_stream 1 or 2), appended to ret; blocks until
 * some are there. 0 at the end of both streams or of the process and everything read; else > 0. */
int agent_process_read(struct agent_process *p, struct buf *ret, int *ret_stream,
		       uint64_t timeout_ns, struct error *err);
int agent_process_write(struct agent_process *p, const void *data, size_t len, uint64_t timeout_ns,
			struct error *err);
int agent_process_close_stdin(struct agent_process *p, struct error *err);
int agent_process_kill(struct agent_process *p, int sig, struct error *err);
/* Waits for the process's end; ret->out/err hold what nobody has read yet. */
int agent_process_wait(struct agent_process *p, uint64_t timeout_ns, struct agent_result *ret,
		       struct error *err);
bool agent_process_is_done(const struct agent_process *p);
void agent_process_free(struct agent_process *p); /* kills what still runs; does not wait */

/* --- files ------------------------------------------------------------------------------ */

/* Paths are the guest's, in the current root of its PID 1. */
int agent_read_file(struct agent *a, const char *path, size_t max_bytes, uint64_t timeout_ns,
		    struct buf *ret, struct error *err);
/* mode 0: 0644 for a new file, unchanged for an old one; owner "user[:group]" or NULL. */
int agent_write_file(struct agent *a, const char *path, const void *data, size_t len, mode_t mode,
		     const char *owner, uint64_t timeout_ns, struct error *err);
/* A file or a tree; modes, links, sparse files, times and (downwards) owners kept; missing parents
 * of dst are made. A directory src becomes dst itself (not dst/src). Errors name the path
 * concerned. */
int agent_copy_in(struct agent *a, const char *host_src, const char *guest_dst, uint64_t timeout_ns,
		  struct error *err);
int agent_copy_out(struct agent *a, const char *guest_src, const char *host_dst,
		   uint64_t timeout_ns, struct error *err);

/* --- waiting for a state, in the guest --------------------------------------------------- */

/* Each returns 0 the moment the thing is true. On expiry: ERROR_TIMEOUT, the message says what was
 * seen instead. */

struct agent_unit_wait {
	const char *unit;  /* ".service" is added when there is no suffix */
	const char *user;  /* NULL: the system manager */
	const char *state; /* "active" if NULL */
};
/* Raises at once (ERROR_EXPECT) when the unit is failed, or inactive with no job and not a
 * finished oneshot, or does not exist; unless that state is the one wanted. Waits for
 * systemd itself to come up first. ERROR_UNSUPPORTED if PID 1 is not systemd. */
int agent_wait_unit(struct agent *a, const struct agent_unit_wait *w, uint64_t timeout_ns,
		    struct error *err);
/* Waits until systemd has finished booting (its manager's SystemState is "running" or "degraded");
 * returns the name of that state. Without systemd: ERROR_UNSUPPORTED. */
int agent_wait_booted(struct agent *a, uint64_t timeout_ns, char ret_state[32], struct error *err);

struct agent_socket_wait {
	enum {
		AGENT_SOCKET_TCP,
		AGENT_SOCKET_UDP,
		AGENT_SOCKET_UNIX,
		AGENT_SOCKET_UNIX_DGRAM
	} type;
	const char *address; /* "localhost": 127.0.0.1 or ::1; a name, an address, or a path */
	unsigned port;
	bool closed; /* wait until nothing answers there */
};
int agent_wait_socket(struct agent *a, const struct agent_socket_wait *w, uint64_t timeout_ns,
		      struct error *err);
/* A glob; gone: until nothing matches. */
int agent_wait_file(struct agent *a, const char *pattern, bool gone, uint64_t timeout_ns,
		    struct error *err);
int agent_wait_mount(struct agent *a, const char *path, uint64_t timeout_ns, struct error *err);
/* match sees each process's command line (arguments joined by blanks; [name] for a kernel thread).
 */
int agent_wait_process(struct agent *a, bool (*match)(const char *cmdline, void *userdata),
		       void *userdata, const char *what, uint64_t timeout_ns, struct error *err);

/* --- power, clock -------------------------------------------------------------------------- */

enum agent_power { AGENT_POWEROFF, AGENT_REBOOT };
/* Asks the guest's init for an orderly shutdown; returns when init has accepted the request. */
int agent_power(struct agent *a, enum agent_power how, struct error *err);
/* CLOCK_REALTIME of the guest set to the host's; returns the correction made, in ns. */
int agent_set_clock(struct agent *a, int64_t *ret_delta_ns, struct error *err);

/* The guest agent for the initramfs and for uploads; embedded in the program. */
extern const unsigned char agent_binary[];
extern const size_t agent_binary_len;
/* Hex SHA-256 of it. */
const char *agent_binary_digest(void);
/* Its build id (hex, a digest made by the linker), which it says in HELLO. */
const char *agent_binary_build(void);
