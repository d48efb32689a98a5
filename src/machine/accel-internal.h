/* SPDX-License-Identifier: MIT */
/* The accelerator probe's findings and their judgement, apart so that a test can reach it. */
#pragma once

#include "machine/machine.h"

struct accel_findings {
	unsigned step;	     /* GUEST_STEP_…: announced last */
	double best_per_sec; /* loop iterations; the best of all rounds, 0: none */
	bool wrong;	     /* an instruction gave a wrong result */
	bool ended;	     /* by itself, before the deadline */
	unsigned exit_reason;
	const char *failed_call; /* of KVM; NULL: all succeeded */
	int failed_errno;
};

/* True if the verdict is final: worth to be remembered until the next boot. */
bool accel_judge(const struct accel_findings *f, struct accel_verdict *ret);
