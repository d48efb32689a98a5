/* SPDX-License-Identifier: MIT */
/* Looks for paths in the guest's root, and is told when looking again may give another answer. */
#pragma once

#include "agent/agent.h"

/*
 * A look walks the pattern from the root of PID 1, component by component, links resolved inside
 * that root. Every directory on the way gets an inotify watch *before* it is looked at, so whatever
 * is made, moved or removed later on the way is an event; a mount that covers a part of the way is
 * one, too (PID 1's mountinfo). File systems that tell inotify nothing of what happens there (proc,
 * sysfs, network and FUSE mounts) are looked at again every PATH_WATCH_POLL_MS, as long as one is
 * on the way.
 */
#define PATH_WATCH_POLL_MS 10
#define PATH_WATCH_MAX	   1024 /* directories; more are collected anew */

/* A directory that is watched, and for which entry of it; a busy /tmp shall not keep us busy. */
struct path_watched {
	int wd;	    /* inotify's */
	char *name; /* NULL: any */
};

struct path_watch {
	/* Something may have changed: look again. */
	void (*fn)(struct path_watch *w);
	bool attributes; /* touching an entry counts as a change */
	/* private */
	struct agent_source inotify, mounts;
	struct agent_timer poll;
	struct path_watched *dirs;
	size_t n_dirs;
	bool must_poll;
};

void path_watch_init(struct path_watch *w, void (*fn)(struct path_watch *w));
void path_watch_done(struct path_watch *w);

/*
 * Returns how many entries match (links followed: a dangling one is none), at most `enough`; the
 * first one's O_PATH descriptor goes to *ret_fd if that is not NULL. `literal`: wildcards are
 * ordinary characters. -errno if the guest's root cannot be entered or watched.
 */
int path_watch_look(struct path_watch *w, const char *pattern, bool literal, int enough,
		    int *ret_fd);
/* What is there of the path, for people: "'/run' exists, 'x.sock' in it does not". */
void path_describe_missing(const char *path, char *ret, size_t size);

/* The mount table as PID 1 has it (our own where our root is the guest's). -errno. */
int mountinfo_open(void);

/*
 * The path of a descriptor, "self/fd/7", for calls that take only names: valid while the working
 * directory is the agent's own procfs, which fd_path_enter() makes it; fd_path_leave() goes back.
 */
#define FD_PATH_MAX 32
void fd_path_enter(int fd, char path[FD_PATH_MAX]);
void fd_path_leave(void);
