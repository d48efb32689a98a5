/* SPDX-License-Identifier: MIT */
/* The bytes that wait to leave for the host, and the gate that keeps them while it is frozen. */
#pragma once

#include "proto/agent-wire.h"

/* DATA waits above OUT_SOFT; above OUT_HARD nothing is read from the host either. */
#define OUT_SOFT (512 * KIB)
#define OUT_HARD (1 * MIB)

enum output_gate {
	GATE_OPEN,
	GATE_NO_DATA, /* streams rest */
	GATE_SHUT,    /* frames are kept, and leave when it opens */
};

/* fd is borrowed. What was to be sent to an earlier one is forgotten. */
void output_open(int fd);
void output_close(void);
bool output_is_open(void);
/* Writes what can be written. */
void output_flush(void);
size_t output_pending(void);

enum output_gate output_gate(void);
void output_set_gate(enum output_gate gate);
void output_drop_kept(void);

/* Frames made in place: room for n bytes at the buffer's end; then the frame whose payload stands
 * behind the header's place there. Only with an open gate. */
uint8_t *output_reserve(size_t n);
void output_commit(const struct wire_header *h);
/* A whole frame; a NULL payload is zeros. */
void output_send(const struct wire_header *h, const void *payload);
/* The same, whatever the gate says, and ahead of what it keeps. */
void output_send_now(const struct wire_header *h, const void *payload);
