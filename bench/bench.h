/* SPDX-License-Identifier: MIT */
/* What the parts of bench-guest share. */
#pragma once

#include "channel/agent.h"
#include "loop/io.h"
#include "machine/machine.h"

#define CALL_NS	    (300 * NS_PER_SEC)
#define SAMPLES_MAX 300

struct guest {
	struct machine_spec *spec;
	struct machine *machine;
	struct agent *agent;
	struct io *raw;
	char *dir;
};

struct samples {
	double v[SAMPLES_MAX];
	size_t n;
};

void samples_add(struct samples *s, double v);
double percentile(struct samples *s, double p); /* sorts them; 0 without any */

/* Ends the program; there is nobody to hand an error to. */
_noreturn_ void die(const char *what, const struct error *err);

/* A shell script in the guest: its stdout, malloc'd. Whether it fails is not looked at. */
char *guest_run(struct guest *g, const char *script);
struct agent_process *guest_spawn(struct guest *g, const char *script, bool keep_stdin);

/* lateness.c: how long after a fact the waits for it return. */
void measure_lateness(struct guest *g);
