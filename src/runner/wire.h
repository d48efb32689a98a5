/* SPDX-License-Identifier: MIT */
/* JSON lines over the control socket between the runner and a worker; both ends. */
#pragma once

#include <jansson.h>

#include "base/buf.h"
#include "base/error.h"
#include "loop/io.h"

/*
 * The runner writes one job (docs/events.md has its shape), later perhaps {"cmd":"cancel"}. The
 * worker writes declarations (planning) or events, one JSON object a line. Both ends bound what
 * they keep: a line that is too long is skipped and counted, and who reads slowly makes the writer
 * wait.
 */
#define WIRE_EVENT_MAX_BYTES (1 * MIB)
#define WIRE_JOB_MAX_BYTES   (32 * MIB)
#define WIRE_CONTROL_FD	     3

struct wire_reader {
	struct io *io; /* borrowed */
	size_t max;    /* of a line */
	struct buf buf;
	size_t head, scanned; /* where the next line begins, and up to where no newline is */
	bool skipping;	      /* in the middle of a line that is too long */
	uint64_t dropped;     /* lines: too long or no JSON object */
};
void wire_reader_done(struct wire_reader *r);
/* The next object: 1; 0 at the end of the stream; -errno. Lines that are no object are counted. */
int wire_read(struct wire_reader *r, json_t **ret, uint64_t timeout_ns, struct error *err);
/* True if wire_read() would return without reading from the stream. */
bool wire_has_line(const struct wire_reader *r);
/* One line, written completely. Borrows msg. */
int wire_write(struct io *io, json_t *msg, uint64_t timeout_ns, struct error *err);
/* The line with its newline, malloc'd; the way all our JSON lines look. */
char *wire_format(json_t *msg, size_t *ret_len);

/* A worker's way out: a bounded queue, so that a callback that must not wait can emit. */
struct outlet;
struct outlet *outlet_new(struct io *io /* borrowed */);
/* Takes event. Waits while the queue is long if may_wait and on a fiber; drops and counts beyond
 * the limit. */
void outlet_emit(struct outlet *o, json_t *event, bool may_wait);
/* Waits until everything is written; shielded. */
void outlet_flush(struct outlet *o, uint64_t timeout_ns);
uint64_t outlet_dropped(const struct outlet *o);
void outlet_free(struct outlet *o);
