/* SPDX-License-Identifier: MIT */
/* `assay doctor`: what this host can do, each with the reason and the fix. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "channel/agent.h"
#include "cli/commands.h"
#include "image/image.h"
#include "machine/machine.h"
#include "machine/template.h"

struct doctor_opts {
	bool json;
};

enum state { GOOD, LESS, BAD }; /* works; works with less; does not work */

struct finding {
	const char *what;
	enum state state;
	char found[ERROR_MESSAGE_MAX + 64];
	char fix[ERROR_HINT_MAX];
};

static void check_backend(struct finding *f, const char *name)
{
	struct error err = {};

	f->what = name;
	if (backend_available(name, &err) == 0) {
		snprintf(f->found, sizeof(f->found), "available");
		return;
	}
	f->state = str_eq(name, backend_names()[0]) ? BAD : LESS;
	snprintf(f->found, sizeof(f->found), "%s", err.message);
	snprintf(f->fix, sizeof(f->fix), "%s", err.hint);
}

/* Without KVM tests pass all the same, only later. */
static void accel_fix(struct finding *f)
{
	const char *fix = "nothing needs to be done, tests are only slower; a host whose /dev/kvm "
			  "works runs them at native speed";

	if (access("/dev/kvm", F_OK) < 0)
		fix = "switch virtualisation on in the firmware (in a virtual machine: nested "
		      "virtualisation) and load kvm_intel or kvm_amd; in a container, pass the "
		      "device /dev/kvm on";
	else if (access("/dev/kvm", R_OK | W_OK) < 0)
		fix = "add yourself to the group that owns /dev/kvm (adduser USER kvm) and log in "
		      "again";
	snprintf(f->fix, sizeof(f->fix), "%s", fix);
}

static void check_accel(struct finding *f)
{
	struct accel_verdict v = {};
	struct error err = {};

	f->what = "acceleration";
	if (accel_probe(&v, &err) < 0) {
		f->state = BAD;
		snprintf(f->found, sizeof(f->found), "%s", err.message);
		snprintf(f->fix, sizeof(f->fix), "%s", err.hint);
		return;
	}
	f->state = v.kvm ? GOOD : LESS;
	if (!v.kvm)
		accel_fix(f);
	snprintf(f->found, sizeof(f->found), "%s: %s (time-outs × %g)", v.kvm ? "KVM" : "TCG",
		 v.reason, v.timeout_scale);
}

static void check_namespaces(struct finding *f)
{
	struct ns_verdict v = {};
	struct error err = {};

	f->what = "namespaces";
	if (ns_probe(&v, &err) < 0) {
		f->state = BAD;
		snprintf(f->found, sizeof(f->found), "%s", err.message);
		return;
	}
	f->state = v.level == NS_FULL ? GOOD : LESS;
	snprintf(f->found, sizeof(f->found), "%s%s%s", ns_level_name(v.level),
		 v.reason[0] ? ": " : "", v.reason);
	snprintf(f->fix, sizeof(f->fix), "%s", v.fix);
}

static void check_building(struct finding *f)
{
	struct error err = {};

	f->what = "image building";
	if (image_can_build(&err) < 0) {
		f->state = BAD;
		snprintf(f->found, sizeof(f->found), "%s", err.message);
		snprintf(f->fix, sizeof(f->fix), "%s", err.hint);
		return;
	}
	snprintf(f->found, sizeof(f->found), "programs found, namespaces can be made");
}

static void check_cache(struct finding *f)
{
	struct error err = {};
	_cleanup_free_ char *dir = NULL;

	f->what = "cache";
	if (path_cache_dir(&dir, &err) < 0 || access(dir, W_OK) < 0) {
		f->state = BAD;
		snprintf(f->found, sizeof(f->found), "%s%s", dir ? dir : err.message,
			 dir ? " is not writable" : "");
		snprintf(f->fix, sizeof(f->fix), "set ASSAY_CACHE to a folder that is");
		return;
	}
	snprintf(f->found, sizeof(f->found), "%s", dir);
}

/* Of a machine whose definition says nothing about it. */
#define USUAL_MEMORY_BYTES (512 * MIB)

/* Tests start from saved machines, whose memory had better not be written to a disk. */
static void check_memory(struct finding *f)
{
	struct error err = {}, why = {};
	_cleanup_free_ char *dir = NULL;
	char text[FORMAT_MAX];
	uint64_t room = 0;

	f->what = "saved memory";
	if (template_memory_place(USUAL_MEMORY_BYTES, &dir, &room, &why, &err) < 0) {
		f->state = BAD;
		snprintf(f->found, sizeof(f->found), "%s", err.message);
		snprintf(f->fix, sizeof(f->fix), "%s", err.hint);
		return;
	}
	format_size(room, text);
	if (!error_is_set(&why)) {
		snprintf(f->found, sizeof(f->found), "in %s (%s free)", dir, text);
		return;
	}
	f->state = room < USUAL_MEMORY_BYTES ? BAD : LESS;
	snprintf(f->found, sizeof(f->found), "in %s (%s free): %s", dir, text, why.message);
	snprintf(f->fix, sizeof(f->fix), "%s",
		 f->state == BAD
			 ? "make room: 'assay cache prune'; or set ASSAY_CACHE to a folder "
			   "on another disk"
			 : "nothing needs to be done, saving is only slower; a larger tmpfs "
			   "at /dev/shm, or another one in ASSAY_TMPFS, spares the disk");
}

/* Behind the mark and the name. */
#define FOUND_COLUMN 22

static void print_finding(const struct finding *f)
{
	static const char *const marks[] = {[GOOD] = "ok  ", [LESS] = "less", [BAD] = "FAIL"};

	printf("%s  %-14s  ", marks[f->state], f->what);
	print_wrapped(stdout, f->found, FOUND_COLUMN);
	if (f->state == GOOD || !f->fix[0])
		return;
	printf("%*sfix: ", FOUND_COLUMN, "");
	print_wrapped(stdout, f->fix, FOUND_COLUMN + 5);
}

static json_t *finding_json(const struct finding *f)
{
	static const char *const names[] = {[GOOD] = "ok", [LESS] = "less", [BAD] = "fail"};

	return json_pack("{s:s, s:s, s:s, s:s}", "what", f->what, "state", names[f->state], "found",
			 f->found, "fix", f->fix);
}

#define MAX_FINDINGS 16

static int doctor_fiber(void *userdata)
{
	struct doctor_opts *o = userdata;
	_cleanup_free_ struct finding *findings = xcalloc(MAX_FINDINGS, sizeof(*findings));
	size_t n = 0;
	bool bad = false;
	json_t *list = json_array();

	check_accel(&findings[n++]);
	check_namespaces(&findings[n++]);
	check_building(&findings[n++]);
	check_cache(&findings[n++]);
	check_memory(&findings[n++]);
	for (const char *const *b = backend_names(); *b && n < MAX_FINDINGS; b++)
		check_backend(&findings[n++], *b);
	for (size_t i = 0; i < n; i++) {
		bad |= findings[i].state == BAD;
		if (o->json)
			json_array_append_new(list, finding_json(&findings[i]));
		else
			print_finding(&findings[i]);
	}
	if (o->json)
		print_json(json_incref(list));
	else
		printf("      assay %s, agent %.12s\n", ASSAY_VERSION, agent_binary_digest());
	json_decref(list);
	return bad ? EXIT_ERRORED : EXIT_PASSED;
}

static int run(const struct command *cmd, void *opts, int n_args, char **args)
{
	return command_on_fiber("doctor", doctor_fiber, opts);
}

static const struct option_spec doctor_options[] = {
	{"json", 0, OPTION_FLAG, NULL, offsetof(struct doctor_opts, json), "print JSON", NULL},
	{NULL},
};

const struct command command_doctor = {
	.name = "doctor",
	.args = "",
	.summary = "what this host can do, each with the reason and the fix",
	.doc = "Nothing is guessed: acceleration is found out by running a small 64-bit guest "
	       "under KVM,\n"
	       "namespaces by making them. Exit status 3 if something that tests need does not "
	       "work.\n",
	.options = doctor_options,
	.opts_size = sizeof(struct doctor_opts),
	.run = run,
};
