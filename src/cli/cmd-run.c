/* SPDX-License-Identifier: MIT */
/* `assay run`: test files to verdicts. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/commands.h"
#include "cli/run-options.h"
#include "loop/loop.h"

#define O(member) offsetof(struct run_command_opts, member)

static const struct option_spec run_options[] = {
	SELECTION_OPTIONS,
	{"jobs", 'j', OPTION_INT, "N", O(run.jobs),
	 "tests at once (default: by free memory and processors)", NULL},
	{"backend", 0, OPTION_STRING, "NAME", O(run.backend),
	 "backend of machines that name none; with a '!' at its end, of all", "qemu fake"},
	{"image", 0, OPTION_STRING, "NAME", O(run.image),
	 "image of machines that name none; with a '!' at its end, of all",
	 "tiny debian-12 debian-13"},
	{"isolation", 0, OPTION_STRING, "HOW", O(run.isolation),
	 "fork, boot or shared, where a file leaves it unset; with a '!' everywhere",
	 "fork boot shared"},
	{"accel", 0, OPTION_STRING, "NAME", O(run.accel), "auto (default: probed), kvm or tcg",
	 "auto kvm tcg"},
	{"timeout-scale", 0, OPTION_STRING, "N", O(run.timeout_scale),
	 "multiplies every time-out; auto measures, never below KVM 1, TCG 4", "auto"},
	{"retries", 0, OPTION_STRING, "N", O(run.retries),
	 "tries again for failed tests that set none; a pass is then 'flaky'", NULL},
	{"repeat", 0, OPTION_INT, "N", O(run.repeat), "run each test N times", NULL},
	{"until-fail", 0, OPTION_FLAG, NULL, O(run.until_fail),
	 "run again and again until a test fails", NULL},
	{"fail-fast", 0, OPTION_FLAG, NULL, O(run.fail_fast),
	 "start nothing more after the first failure", NULL},
	{"out", 'o', OPTION_STRING, "DIR", O(run.out_dir),
	 "folder for the reports (default: assay-out)", NULL},
	{"junit", 0, OPTION_STRING, "FILE", O(run.junit_path), "write JUnit XML here as well",
	 NULL},
	{"tap", 0, OPTION_FLAG, NULL, O(run.tap), "print TAP 14 instead of the usual lines", NULL},
	{"json", 0, OPTION_STRING, "FILE", O(run.json_path), "write results.json here as well",
	 NULL},
	{"seed", 0, OPTION_U64, "N", O(run.seed),
	 "seed of everything random in a test (default: 1)", NULL},
	{"strict", 0, OPTION_FLAG, NULL, O(run.strict),
	 "a skip for want of a capability is an error (default where CI is set)", NULL},
	{"debug-boot", 0, OPTION_FLAG, NULL, O(run.debug_boot),
	 "verbose kernel and init on the console", NULL},
	{"namespaces", 0, OPTION_STRING, "LEVEL", O(run.ns_level),
	 "full, nopid or none instead of the best that this host allows", "full nopid none"},
	{"color", 0, OPTION_STRING, "WHEN", O(color),
	 "auto (default: on a terminal without NO_COLOR), always or never", "auto always never"},
	{"verbose", 'v', OPTION_COUNT, NULL, O(run.verbosity),
	 "print what tests do; twice: the consoles too", NULL},
	{NULL},
};

static const char *const unbuilt[] = {"interactive", "i", "keep", NULL};

static int fiber(void *userdata)
{
	struct run_command_opts *o = userdata;
	struct error err = {};
	int r;

	r = run_tests(&o->run, &err);
	if (error_is_set(&err))
		report_error(&err);
	return r;
}

static int run(const struct command *cmd, void *opts, int n_args, char **args)
{
	struct run_command_opts *o = opts;
	struct error err = {};

	if (run_command_finish(o, args, &err) < 0) {
		report_error(&err);
		return EXIT_USAGE;
	}
	return command_on_fiber("run", fiber, o);
}

const struct command command_run_tests = {
	.name = "run",
	.args = "[PATH…]",
	.summary = "run tests from .lua files and folders (default: tests/)",
	.doc = "Loads each test file, builds the images that are missing, boots the machines, runs "
	       "the tests and\n"
	       "writes a report. Tests run side by side as far as memory and processors allow; "
	       "each has\n"
	       "machines of its own.\n"
	       "\n"
	       "The output folder gets a folder per run with _results.json_, _junit.xml_ and a "
	       "folder per test:\n"
	       "_events.jsonl_, _console-MACHINE.log_ (with a time stamp per line), "
	       "_journal-MACHINE.txt_ after a\n"
	       "failure, _vmm-MACHINE.txt_ (the exact command line) and the test's artifacts. "
	       "_assay-out/latest_\n"
	       "points to the newest run.\n"
	       "\n"
	       "*--backend*, *--image*, *--isolation* and *--retries* fill in what a file leaves "
	       "unset; with a\n"
	       "*!* at the end (_--image=debian-12!_) they override what the file says.\n"
	       "\n"
	       "Ctrl-C ends the run orderly: machines are stopped, reports written. A second one "
	       "is never needed.\n"
	       "\n"
	       "# EXIT STATUS\n"
	       "\n"
	       "0: all tests passed (or failed as expected, were skipped, or passed at a "
	       "retry).++\n"
	       "1: a test failed, whatever else happened.++\n"
	       "2: the command line or a test file is wrong.++\n"
	       "3: a test could not be run: infrastructure; with *--strict* also a skip for want "
	       "of a capability.++\n"
	       "4: nothing to run.++\n"
	       "130: interrupted.\n",
	.options = run_options,
	.unbuilt = unbuilt,
	.opts_size = sizeof(struct run_command_opts),
	.done = run_command_done,
	.run = run,
};
