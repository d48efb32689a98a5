/* SPDX-License-Identifier: MIT */
/* A command's child: identity, environment, working directory, shell, exec. */
#include <fcntl.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "agent/agent.h"
#include "agent/exec.h"
#include "base/str.h"

/*
 * We are static and cannot load PAM or NSS modules. So another user's command goes through the
 * guest's runuser(1), which opens a PAM session, where there is one; otherwise identity and groups
 * come from /etc/passwd and /etc/group. The environment is made here in both cases: `runuser -u`
 * leaves it alone.
 */

#define ROOT_PATH    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define USER_PATH    "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
#define DATABASE_MAX (16 * MIB)
#define GROUPS_MAX   1024
/* Where a long script is found by the shell; out of the way of the script's own redirections. */
#define SCRIPT_FD 63

struct account {
	char *name, *home, *shell;
	uid_t uid;
	gid_t gid;
};

void exec_give_up(const struct exec_plan *plan, int code, const char *fmt, ...)
{
	va_list ap;
	char text[1000];
	int n = snprintf(text, sizeof(text), "%d ", code);

	va_start(ap, fmt);
	(void)vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
	va_end(ap);
	/* In one piece: the agent reads once. */
	(void)!write(plan->error_fd, text, strlen(text));
	_exit(127);
}

/* The n-th field of "a:b:c", malloc'd; "" if there are fewer. */
static char *colon_field(const char *line, size_t n)
{
	for (; n > 0; n--) {
		line = strchr(line, ':');
		if (!line)
			return xstrdup("");
		line++;
	}
	return xstrndup(line, strcspn(line, ":"));
}

static void account_from_line(const char *line, struct account *ret)
{
	_cleanup_free_ char *uid = colon_field(line, 2);
	_cleanup_free_ char *gid = colon_field(line, 3);

	ret->name = colon_field(line, 0);
	ret->home = colon_field(line, 5);
	ret->shell = colon_field(line, 6);
	ret->uid = (uid_t)strtoul(uid, NULL, 10);
	ret->gid = (gid_t)strtoul(gid, NULL, 10);
	if (!ret->shell[0]) {
		free(ret->shell);
		ret->shell = xstrdup("/bin/sh");
	}
}

/* By name, or by a number. */
static bool account_find(const char *user, struct account *ret)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **lines = NULL;

	if (buf_read_file(&b, "/etc/passwd", DATABASE_MAX) < 0)
		return false;
	lines = strv_split(buf_str(&b), "\n");
	for (char **line = lines; line && *line; line++) {
		_cleanup_free_ char *name = colon_field(*line, 0);
		_cleanup_free_ char *uid = colon_field(*line, 2);

		if (!str_eq(name, user) && !str_eq(uid, user))
			continue;
		account_from_line(*line, ret);
		return true;
	}
	return false;
}

/* The account that we run as, if nobody else is asked for. */
static void account_own(struct account *ret)
{
	_cleanup_free_ char *uid = xasprintf("%u", (unsigned)geteuid());

	/* Root is root also in an initramfs that has no /etc/passwd. */
	if (!account_find(uid, ret))
		*ret = (struct account){
			.name = geteuid() == 0 ? xstrdup("root") : TAKE_PTR(uid),
			.home = xstrdup(geteuid() == 0 ? "/root" : "/"),
			.shell = xstrdup("/bin/sh"),
			.uid = geteuid(),
			.gid = getegid(),
		};
}

static bool find_group(const char *group, gid_t *ret)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **lines = NULL;
	uint64_t number;

	if (buf_read_file(&b, "/etc/group", DATABASE_MAX) >= 0)
		lines = strv_split(buf_str(&b), "\n");
	for (char **line = lines; line && *line; line++) {
		_cleanup_free_ char *name = colon_field(*line, 0);
		_cleanup_free_ char *gid = colon_field(*line, 2);

		if (str_eq(name, group)) {
			*ret = (gid_t)strtoul(gid, NULL, 10);
			return true;
		}
	}
	if (parse_u64(group, &number) < 0)
		return false;
	*ret = (gid_t)number;
	return true;
}

int exec_find_owner(const char *owner, uid_t *ret_uid, gid_t *ret_gid)
{
	_cleanup_free_ char *user = xstrndup(owner, strcspn(owner, ":"));
	const char *group = strchr(owner, ':');
	struct account who = {};
	uint64_t number;

	*ret_uid = (uid_t)-1;
	*ret_gid = (gid_t)-1;
	if (user[0] && account_find(user, &who)) {
		*ret_uid = who.uid;
		*ret_gid = who.gid;
	} else if (user[0] && parse_u64(user, &number) >= 0) {
		*ret_uid = (uid_t)number;
	} else if (user[0]) {
		return -ENOENT;
	}
	if (group && group[1] && !find_group(group + 1, ret_gid))
		return -ENOENT;
	return 0;
}

static size_t account_groups(const struct account *who, gid_t *ret, size_t max)
{
	_cleanup_buf_ struct buf b = {};
	_cleanup_strv_ char **lines = NULL;
	size_t n = 0;

	ret[n++] = who->gid;
	if (buf_read_file(&b, "/etc/group", DATABASE_MAX) < 0)
		return n;
	lines = strv_split(buf_str(&b), "\n");
	for (char **line = lines; line && *line && n < max; line++) {
		_cleanup_free_ char *gid = colon_field(*line, 2);
		_cleanup_free_ char *list = colon_field(*line, 3);
		_cleanup_strv_ char **members = strv_split(list, ",");

		if (strv_contains(members, who->name))
			ret[n++] = (gid_t)strtoul(gid, NULL, 10);
	}
	return n;
}

static void become(const struct exec_plan *plan, const struct account *who)
{
	gid_t groups[GROUPS_MAX];
	size_t n = account_groups(who, groups, ARRAY_SIZE(groups));

	if (setgroups(n, groups) < 0 || setgid(who->gid) < 0 || setuid(who->uid) < 0)
		exec_give_up(plan, errno, "cannot become user '%s': %s", who->name,
			     strerror(errno));
}

/* Replaces an entry of the same name. */
static void env_put(char ***env, const char *entry)
{
	size_t len = strcspn(entry, "=") + 1;

	for (char **e = *env; e && *e; e++) {
		if (strncmp(*e, entry, len) == 0) {
			free(*e);
			*e = xstrdup(entry);
			return;
		}
	}
	strv_push(env, entry);
}

static char **login_env(const struct exec_plan *plan, const struct account *who)
{
	char **env = NULL;
	_cleanup_free_ char *runtime = xasprintf("/run/user/%u", (unsigned)who->uid);
	struct stat st;

	strv_pushf(&env, "HOME=%s", who->home);
	strv_pushf(&env, "USER=%s", who->name);
	strv_pushf(&env, "LOGNAME=%s", who->name);
	strv_pushf(&env, "SHELL=%s", who->shell);
	strv_pushf(&env, "PATH=%s", who->uid == 0 ? ROOT_PATH : USER_PATH);
	strv_push(&env, "LANG=C.UTF-8");
	if (plan->flags & WIRE_EXEC_TTY)
		strv_push(&env, "TERM=linux");
	/* What pam_systemd would set, if somebody has made it. */
	if (stat(runtime, &st) == 0 && st.st_uid == who->uid)
		strv_pushf(&env, "XDG_RUNTIME_DIR=%s", runtime);
	for (char **e = plan->env; e && *e; e++)
		env_put(&env, *e);
	return env;
}

/* The script's shell and its arguments. */
static char **script_argv(const struct exec_plan *plan)
{
	bool plain = plan->flags & WIRE_EXEC_PLAIN_SHELL;
	char **argv = NULL;

	if (access("/bin/bash", X_OK) == 0 || access("/usr/bin/bash", X_OK) == 0) {
		strv_push(&argv, "bash");
		if (!plain) {
			strv_push(&argv, "-euo");
			strv_push(&argv, "pipefail");
		}
	} else {
		strv_push(&argv, "sh");
		if (!plain)
			strv_push(&argv, "-eu");
	}
	strv_push(&argv, "-c");
	if (plan->script_fd >= 0) {
		/* Longer than one argument may be; sourced, so $0 and the options are as ever. */
		if (dup2(plan->script_fd, SCRIPT_FD) < 0)
			exec_give_up(plan, errno, "cannot pass the script on: %s", strerror(errno));
		strv_pushf(&argv, ". /proc/self/fd/%d", SCRIPT_FD);
	} else {
		strv_push(&argv, plan->script);
	}
	return argv;
}

static const char *find_runuser(void)
{
	static const char *const places[] = {"/usr/sbin/runuser", "/sbin/runuser"};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		if (access(places[i], X_OK) == 0 && access("/etc/pam.d/runuser", F_OK) == 0)
			return places[i];
	}
	return NULL;
}

/* "runuser -u name --" in front of argv. */
static char **through_runuser(const char *runuser, const struct account *who, char **argv)
{
	char **v = NULL;

	strv_push(&v, runuser);
	strv_push(&v, "-u");
	strv_push(&v, who->name);
	strv_push(&v, "--");
	for (; *argv; argv++)
		strv_push(&v, *argv);
	return v;
}

int exec_child(void *userdata)
{
	const struct exec_plan *plan = userdata;
	struct account who = {};
	char **argv, **env;
	const char *cwd, *runuser;

	if (plan->user) {
		if (!account_find(plan->user, &who))
			exec_give_up(plan, ENOENT, "user '%s' does not exist in the guest",
				     plan->user);
	} else {
		account_own(&who);
	}
	if (plan->flags & WIRE_EXEC_TTY)
		ioctl(STDIN_FILENO, TIOCSCTTY, 0);
	umask(022);
	cwd = plan->cwd ? plan->cwd : who.uid != 0 && plan->user ? who.home : "/tmp";
	/* A default that is not there is no reason to fail. */
	if (chdir(cwd) < 0 && (plan->cwd || chdir("/") < 0))
		exec_give_up(plan, errno, "cannot change to directory '%s': %s", cwd,
			     strerror(errno));
	env = login_env(plan, &who);
	argv = plan->argv ? plan->argv : script_argv(plan);
	if (who.uid != geteuid()) {
		runuser = find_runuser();
		if (runuser)
			argv = through_runuser(runuser, &who, argv);
		else
			become(plan, &who);
	}
	for (char **e = env; *e; e++) {
		/* For the search only; it is the command's own PATH that counts. */
		if (str_starts(*e, "PATH="))
			setenv("PATH", *e + strlen("PATH="), 1);
	}
	execvpe(argv[0], argv, env);
	if (errno == E2BIG)
		exec_give_up(plan, E2BIG,
			     "cannot execute '%s': an argument is longer than 128 KiB, or all "
			     "together are too long (use a script, or a file)",
			     argv[0]);
	exec_give_up(plan, errno, "cannot execute '%s': %s", argv[0], strerror(errno));
}
