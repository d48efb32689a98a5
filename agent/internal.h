/* SPDX-License-Identifier: MIT */
/* What the core files of the agent share with each other; operations use agent.h alone. */
#pragma once

#include "agent/agent.h"

/* --- loop.c --------------------------------------------------------------------------------- */

int loop_setup(void);
int loop_loop(void); /* until loop_quit() */
void loop_quit(int code);

/* --- root.c --------------------------------------------------------------------------------- */

enum agent_life {
	LIFE_GUEST, /* started by init in the initramfs: the guest's root is /proc/1/root */
	LIFE_STDIO, /* uploaded: the guest's root is our own */
};

extern char **agent_argv; /* of main */

int root_setup(enum agent_life which);
/* Has the root of PID 1 another identity than ours? Always with LIFE_STDIO. */
bool root_is_final(void);
/* In a child: into the guest's root, "/" as working directory. -errno. */
int root_enter(void);
/* In a child: signals, oom score, name. */
void child_reset(void);
/* fork(), or clone3() straight into a cgroup. */
pid_t fork_into(int cgroup_fd);
bool life_is_guest(void);

/* What of the machine is the agent's to change when a saved guest goes on. All of it in a guest;
 * nothing for an agent that was uploaded, unless its command line says otherwise. */
enum agent_property {
	OWNS_CLOCK = 1 << 0,
	OWNS_ENTROPY = 1 << 1,
	OWNS_MACHINE_ID = 1 << 2,
	OWNS_TIMERS = 1 << 3, /* systemd's calendar timers */
};
bool agent_owns(enum agent_property what);
/* "clock,entropy,machine-id,timers", or some of them. -EINVAL. */
int agent_set_owned(const char *list);

/* --- session.c ------------------------------------------------------------------------------ */

#define PHASE_INITRAMFS "initramfs"
#define PHASE_SYSTEM	"system"
#define PHASE_FAILED	"failed"

/* The stream is there: greets. in and out may be the same descriptor; borrowed. */
void session_open(int in_fd, int out_fd);
/* The stream is gone: ends all calls, forgets what was to be sent. */
void session_close(void);
/* The end of the stream was seen; called instead of session_close() by who owns it. */
extern void (*session_on_eof)(void);
void session_set_phase(const char *phase, const char *message);
/* Writes what can be written. */
void session_flush(void);
/* True while writers of calls have something to do, so that the loop must not sleep. */
bool session_is_busy(void);
void session_run_writers(void);
bool session_output_is_empty(void);

/* For freeze.c: a frame of the session itself, whatever the output's gate says. */
void session_send(enum wire_type type, uint32_t number, const struct buf *fields);
void session_put_hello(struct buf *b);
/* The host of a guest that goes on. Another than before: begins a session; commands live on
 * unheard, all other calls end, kept frames are dropped. */
void session_take_host(uint64_t host_id);

/* --- freeze.c ------------------------------------------------------------------------------- */

void freeze_on_freeze(uint32_t number);
/* number: of the request. */
void freeze_on_thaw(uint32_t number, const struct wire_fields *in);
/* A host attaches, or the stream is gone while nothing is frozen yet: ends the rest at once. */
void freeze_abandon(const char *why);
/* Frozen: no greeting, and the stream's end is not the end of calls. */
bool freeze_is_frozen(void);
/* Frozen or about to be: frames of calls are not taken. */
bool freeze_is_deaf(void);

/* --- control.c ------------------------------------------------------------------------------ */

/* Sets CLOCK_REALTIME; tells by how much. */
int clock_set(uint64_t want_ns, int64_t *ret_delta_ns, struct error *err);

/* --- calendar.c ----------------------------------------------------------------------------- */

/*
 * Stops systemd's active calendar timers and remembers them; starts again what was stopped. `done`
 * is called when all of it is done or cannot be (err says what): at once, or from the loop.
 * One at a time; calendar_cancel() forgets what is under way, not what was stopped.
 */
void calendar_stop(void (*done)(const struct error *err));
void calendar_start(void (*done)(const struct error *err));
void calendar_cancel(void);

/* --- port.c --------------------------------------------------------------------------------- */

/* Looks for the virtio-serial port, now and at each device that appears. */
int port_setup(void);

/* --- init.c --------------------------------------------------------------------------------- */

/* PID 1 of the initramfs. Does not return. */
_noreturn_ void init_main(char **argv, char **envp);

/* --- power.c -------------------------------------------------------------------------------- */

/* Asks the kernel; for guests in which nobody else is init. */
void power_directly(bool reboot_it);

/* --- cgroup.c ------------------------------------------------------------------------------- */

/* A cgroup of its own for a command: a directory descriptor, or -errno where there is no writable
 * cgroup2. */
int cgroup_make(char ret_name[32]);
void cgroup_remove(const char *name); /* if it is empty */
/* Sends a signal to all in it; SIGKILL by cgroup.kill where the kernel has it. */
void cgroup_signal(int cgroup_fd, int sig);
/* Without a cgroup: to all processes of the session that pid leads. */
void session_signal(pid_t pid, int sig);
