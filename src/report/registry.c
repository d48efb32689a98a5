/* SPDX-License-Identifier: MIT */
/* The reporters of this build. */
#include "report/reporters.h"

const struct reporter_ops *const reporters[] = {
	&reporter_terminal, &reporter_tap, &reporter_junit, &reporter_json, NULL,
};
