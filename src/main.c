/* SPDX-License-Identifier: MIT */
/* The program's entry: global words, then the command. */
#include <locale.h>
#include <stdio.h>

#include "base/log.h"
#include "base/str.h"
#include "cli/options.h"

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
		return 0;
	}
	if (str_eq(argv[1], "--version")) {
		puts("assay " ASSAY_VERSION);
		return 0;
	}
	return command_dispatch(commands, "assay", argc - 1, argv + 1);
}
