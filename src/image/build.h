/* SPDX-License-Identifier: MIT */
/* One image build: its temporary directory, its log, the programs it runs, its errors. */
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "image/image.h"
#include "image/store.h"
#include "loop/process.h"

/*
 * Trees with files of several owners are made as root of a namespace: for an ordinary user a user
 * namespace in which he is root and his subordinate ids are the others (newuidmap), for root none.
 * In both cases also a mount and a PID namespace, so that no mount and no process outlives the
 * program, however it ends. Each program runs in a namespace of its own: the tree on disk is what
 * goes from one to the next.
 *
 * Everything that the programs print goes to build.log. When one fails, the line that tells why is
 * taken from there; the log is kept as logs/<name>.log.
 */
struct build {
	const struct store *store;
	const struct image_build_opts *opts;
	const char *name; /* for messages; borrowed */
	char *dir;	  /* the temporary directory, absolute */
	int dir_fd;	  /* holds its lock */
	int log_fd;
	int alive_read_fd; /* EOF when every program of this build has ended */
	int alive_write_fd;
	uint64_t deadline_ns;
	bool committed;
};

enum build_as {
	BUILD_AS_SELF,
	BUILD_AS_ROOT, /* root of a namespace */
};

/* Makes the temporary directory, after removing stale ones and checking that need_bytes are free.
 */
int build_begin(struct build *b, const struct store *store, const char *name,
		const struct image_build_opts *opts, uint64_t need_bytes, struct error *err);
/* Ends it. Not committed: kills what still runs, removes everything, keeps the log. */
void build_end(struct build *b);
#define _cleanup_build_ _cleanup_(build_end)

/* That the programs of a build are there; the error's hint names the packages to install. */
int build_check_tools(const char *const *tools, struct error *err);

/* Announces a phase to the caller's progress function and the log. */
void build_phase(struct build *b, const char *fmt, ...) _printf_(2, 3);

/* Runs a program to its end; stdout (unless stdout_fd > 0) and stderr to the log. Any end but
 * exit status 0 is an error. */
int build_run(struct build *b, enum build_as as, char *const *argv, int stdout_fd,
	      struct error *err);
/* Waits for a program of the build: until it ends, the build's deadline, or the disk is full and
 * stays so. */
int build_wait(struct build *b, struct process *p, int *ret_status, struct error *err);
/* An embedded shell script with arguments (NULL-terminated). */
int build_script(struct build *b, const char *script, char *const *args, struct error *err);
/* The same without a build, log to nowhere; for removing trees. */
int build_run_as_root(char *const *argv, struct error *err);

/* A path in the build's directory; malloc'd. */
char *build_path(const struct build *b, const char *name);

/* From a program's output, the line that tells best why it failed ("E: …", "dpkg: error …", else
 * the last one); "" if it said nothing. malloc'd. Pure. */
char *build_failure_reason(const char *output);
bool build_output_says_enospc(const char *output);
/* "disk full", with what is free, where, and what to do about it. Returns -ENOSPC. */
int build_error_enospc(const char *dir, uint64_t need_bytes, struct error *err);
