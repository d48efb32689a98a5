/* SPDX-License-Identifier: MIT */
/* Which namespace level this host allows: found out by doing. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/process.h"
#include "runner/run.h"

#define PROBE_TIMEOUT_NS (10 * NS_PER_SEC)

const char *ns_level_name(enum ns_level l)
{
	static const char *const names[] = {"full", "nopid", "none"};

	return names[l];
}

/* Does ns-init get as far as starting a worker? Its complaint goes to reason if not. */
static bool try_level(const char *level, char *reason, size_t size)
{
	char *const argv[] = {(char *)"/proc/self/exe", (char *)"ns-init", (char *)level,
			      (char *)"--probe", NULL};
	struct spawn_opts opts = {.name = "ns-init"};
	struct run_result result = {};
	struct error err = {};
	bool ok = false;

	if (process_run(argv, &opts, NULL, 0, 4096, PROBE_TIMEOUT_NS, &result, &err) < 0) {
		snprintf(reason, size, "%.*s", (int)size - 1, err.message);
	} else {
		ok = WIFEXITED(result.status) && WEXITSTATUS(result.status) == 0;
		if (!ok)
			snprintf(reason, size, "%.*s", (int)strcspn(buf_str(&result.err), "\n"),
				 buf_str(&result.err));
		if (!ok && !*reason) {
			_cleanup_free_ char *how = process_describe_status(result.status);

			snprintf(reason, size, "the probe %s", how);
		}
	}
	run_result_done(&result);
	return ok;
}

static bool setting_is(const char *path, const char *value)
{
	_cleanup_buf_ struct buf b = {};

	return buf_read_file(&b, path, 64) >= 0 && strncmp(buf_str(&b), value, strlen(value)) == 0;
}

/* What would lift the level, from what usually stands in the way. */
static void find_fix(struct ns_verdict *v)
{
	if (!path_root_is_mount())
		snprintf(v->fix, sizeof(v->fix),
			 "this is a chroot in an ordinary directory: start it as a container "
			 "instead (systemd-nspawn --directory DIR)");
	else if (setting_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"))
		snprintf(v->fix, sizeof(v->fix),
			 "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor "
			 "profile for assay with 'userns,'");
	else if (setting_is("/proc/sys/kernel/unprivileged_userns_clone", "0"))
		snprintf(v->fix, sizeof(v->fix), "sysctl kernel.unprivileged_userns_clone=1");
	else if (setting_is("/proc/sys/user/max_user_namespaces", "0"))
		snprintf(v->fix, sizeof(v->fix), "sysctl user.max_user_namespaces=15000");
	else if (strstr(v->reason, "/proc"))
		snprintf(v->fix, sizeof(v->fix),
			 "parts of /proc are hidden, as in most containers: run the container with "
			 "an unmasked /proc (podman: --security-opt unmask=ALL; docker: "
			 "--security-opt systempaths=unconfined)");
	else
		snprintf(v->fix, sizeof(v->fix),
			 "allow namespaces to this user; in a container, allow the clone and mount "
			 "system calls");
}

int ns_probe(struct ns_verdict *ret, struct error *err)
{
	char reason[256] = "";

	*ret = (struct ns_verdict){.level = NS_FULL};
	if (try_level("full", ret->reason, sizeof(ret->reason)))
		return 0;
	find_fix(ret);
	ret->level = NS_NOPID;
	if (try_level("nopid", reason, sizeof(reason)))
		return 0;
	ret->level = NS_NONE;
	snprintf(ret->reason, sizeof(ret->reason), "%s", reason);
	return 0;
}
