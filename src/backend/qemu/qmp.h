/* SPDX-License-Identifier: MIT */
/* A QMP client: calls from any number of fibers, every event delivered, all failed at death. */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "loop/io.h"

/*
 * One client for the life of one QEMU, over an inherited socket pair. Two fibers of its own carry
 * the bytes: a reader, which hands out replies by id and events as they come, and a writer, so that
 * a call that is cancelled in the middle of sending leaves the stream whole.
 *
 *	qmp_new ──► qmp_greet ──► qmp_call, qmp_call, … ──► qmp_fail ──► qmp_free
 *
 * When the stream ends, calls under way are not failed yet: whoever owns the process knows better
 * why it ended. He is told by on_closed, reaps, and says so with qmp_fail().
 */

/* A message of more bytes than this is refused (the longest known, query-qmp-schema, is 0.3 MiB).
 */
#define QMP_MESSAGE_MAX_BYTES (64 * MIB)

struct qmp;

struct qmp_callbacks {
	/* Each event, in order; data may be NULL. On the reader's fiber; must not wait. */
	void (*on_event)(const char *name, json_t *data, uint64_t at_ns, void *userdata);
	/* The stream ended or is broken: nothing more will come. err says how. On the reader's
	 * fiber; must not wait, must not free the client. */
	void (*on_closed)(const struct error *err, void *userdata);
};

struct qmp_version {
	int major, minor, micro;
};

/* Takes the io. */
struct qmp *qmp_new(struct io *io, const struct qmp_callbacks *cb, void *userdata);
/* Closes, ends its fibers and waits for that; calls under way fail. NULL is fine. On a fiber. */
void qmp_free(struct qmp *q);

/* Waits for the greeting and leaves negotiation mode. -ECONNRESET: the stream ended before (err
 * is of kind ERROR_CRASH unless qmp_fail() gave a better one). */
int qmp_greet(struct qmp *q, uint64_t timeout_ns, struct qmp_version *ret, struct error *err);

/* args is borrowed and may be NULL; ret gets a new reference to the "return" member, may be NULL.
 * An error reply is ERROR_EXPECT "QMP 'x' failed: desc (class)". */
int qmp_call(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ns, json_t **ret,
	     struct error *err);

/* The same for a command that takes a descriptor with it (getfd, add-fd); borrowed. QEMU keeps
 * those that came last only, so such a call first waits for the reply to the one before it. */
int qmp_call_fd(struct qmp *q, const char *command, json_t *args, int fd, uint64_t timeout_ns,
		json_t **ret, struct error *err);

/* Every pending and later call fails with a copy of err. The first one counts. */
void qmp_fail(struct qmp *q, const struct error *err);

/* Waits until everything in the stream has been read (its end, after the peer's death). */
int qmp_drain(struct qmp *q, uint64_t timeout_ns, struct error *err);
