/* SPDX-License-Identifier: MIT */
/* The program's entry: global words, then the command. */
#include <errno.h>
#include <locale.h>
#include <stdio.h>

#include "base/log.h"
#include "base/str.h"
#include "cli/options.h"

/* What was printed may be all that was wanted: a full disk is no success. */
static int finish(int status)
{
	struct error err = {};

	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno)
		error_set_errno(&err, ERROR_INFRA, errno, "cannot write to stdout");
	else
		error_set(&err, ERROR_INFRA, EIO,
			  "not all of the output could be written to stdout");
	report_error(&err);
	return status == 0 ? 3 : status;
}

int main(int argc, char **argv)
{
	const char *debug = getenv("ASSAY_DEBUG");

	setlocale(LC_CTYPE, "C.UTF-8");
	if (debug && *debug && !str_eq(debug, "0"))
		log_set_level(LOG_LEVEL_DEBUG);
	if (argc < 2) {
		options_print_overview(stderr);
		return 2;
	}
	if (str_eq(argv[1], "--help") || str_eq(argv[1], "-h")) {
		options_print_overview(stdout);
		return finish(0);
	}
	if (str_eq(argv[1], "--version")) {
		puts("assay " ASSAY_VERSION);
		return finish(0);
	}
	return finish(command_dispatch(commands, "assay", argc - 1, argv + 1));
}
