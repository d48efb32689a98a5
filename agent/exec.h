/* SPDX-License-Identifier: MIT */
/* What a command's child has to know. */
#pragma once

#include "agent/agent.h"

struct exec_plan {
	/* Runs in the child, in the guest's root. exec_child() for a command; it may also do the
	 * work itself, with the streams as stdin and stdout. Returns an exit status. */
	int (*fn)(void *plan);
	char **argv;	/* or … */
	char *script;	/* … a script, unless it is so long that it is in script_fd */
	int script_fd;	/* -EBADF, or a memfd */
	uint32_t flags; /* WIRE_EXEC_* */
	char *user;
	char *cwd;
	char **env;
	int error_fd; /* close-on-exec: "<errno> <sentence>" if fn failed; the call's error */
	/* for file.c */
	char *path, *owner;
	uint32_t mode;
	uint64_t max;
};

/* Starts what the plan says as the call's process; replies if it cannot. The plan's contents are
 * freed here. The call's operation must have the members of `agent_op_exec`. */
void exec_begin(struct agent_call *c, struct exec_plan *plan);
/* Only `name`, `op` and `start` differ. */
#define EXEC_OP_MEMBERS                                                                            \
	.size = EXEC_STATE_BYTES, .on_data = exec_on_data, .on_message = exec_on_message,          \
	.on_writable = exec_on_writable, .on_cancel = exec_on_cancel, .end = exec_end
#define EXEC_STATE_BYTES 1024
void exec_on_data(struct agent_call *c, unsigned stream, const uint8_t *data, size_t len, bool fin);
void exec_on_message(struct agent_call *c, const struct wire_fields *in);
void exec_on_writable(struct agent_call *c, unsigned stream);
void exec_on_cancel(struct agent_call *c, enum wire_cancel reason);
void exec_end(struct agent_call *c);

int exec_child(void *userdata);
/* In fn: tells why and ends the child. */
_noreturn_ _printf_(3, 4) void exec_give_up(const struct exec_plan *plan, int code, const char *fmt,
					    ...);
/* In fn: the numbers of "user[:group]", names or numbers; (uid_t)-1 where not given. */
int exec_find_owner(const char *owner, uid_t *ret_uid, gid_t *ret_gid);
