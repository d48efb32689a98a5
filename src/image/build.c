/* SPDX-License-Identifier: MIT */
/* One image build: its temporary directory, its log, the programs it runs, its errors. */
#include "image/build.h"

#include <assert.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/str.h"
#include "loop/io.h"
#include "loop/process.h"

#define BUILD_TIMEOUT_NS (30 * 60 * NS_PER_SEC)
/* A program's last words; errors stand at the end. */
#define LOG_TAIL_BYTES (64 * KIB)
/* Fewer free bytes are a full disk. */
#define FULL_BYTES (64 * KIB)
#define FULL_LOOKS 10

/* ---- tools ------------------------------------------------------------------------------ */

/* Debian's names; an ordinary user's PATH lacks the sbin directories that some of them are in. */
static const struct {
	const char *tool, *package;
} TOOLS[] = {
	{"apt-get", "apt"},
	{"dpkg-deb", "dpkg"},
	{"flock", "util-linux"},
	{"mke2fs", "e2fsprogs"},
	{"mkfs.erofs", "erofs-utils"},
	{"mmdebstrap", "mmdebstrap"},
	{"newuidmap", "uidmap"},
	{"tar", "tar"},
	{"unshare", "util-linux"},
	{"xz", "xz-utils"},
	{"zstd", "zstd"},
};

static char *search_path(void)
{
	const char *path = getenv("PATH");

	return xasprintf("%s:/usr/local/sbin:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
}

/* NULL if there is none. malloc'd. */
static char *find_tool(const char *name)
{
	_cleanup_free_ char *path = search_path();
	_cleanup_strv_ char **dirs = strv_split(path, ":");

	if (strchr(name, '/'))
		return xstrdup(name);
	for (char **dir = dirs; dir && *dir; dir++) {
		_cleanup_free_ char *file = path_join(*dir, name);

		if (access(file, X_OK) == 0)
			return TAKE_PTR(file);
	}
	return NULL;
}

int build_check_tools(const char *const *tools, struct error *err)
{
	_cleanup_strv_ char **missing = NULL, **packages = NULL;
	_cleanup_free_ char *names = NULL, *install = NULL;
	int r;

	for (const char *const *tool = tools; *tool; tool++) {
		_cleanup_free_ char *path = find_tool(*tool);
		const char *package = *tool;

		/* Root's namespaces have no ids to map. */
		if (path || (str_eq(*tool, "newuidmap") && geteuid() == 0))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(TOOLS); i++)
			if (str_eq(TOOLS[i].tool, *tool))
				package = TOOLS[i].package;
		strv_push(&missing, *tool);
		if (!strv_contains(packages, package))
			strv_push(&packages, package);
	}
	if (!missing)
		return 0;
	names = strv_join(missing, ", ");
	install = strv_join(packages, " ");
	r = error_set(err, ERROR_INFRA, ENOENT,
		      "building an image needs programs that are not here: %s", names);
	error_hint(err, "apt-get install %s", install);
	return r;
}

/* ---- namespaces ------------------------------------------------------------------------- */

/* --kill-child: the namespace's first process dies with unshare, and all others with it. */
static void push_namespace(char ***argv)
{
	static const char *const COMMON[] = {"unshare", "--mount",	"--pid",
					     "--fork",	"--kill-child", "--mount-proc"};

	for (size_t i = 0; i < ARRAY_SIZE(COMMON); i++)
		strv_push(argv, COMMON[i]);
	if (geteuid() != 0) {
		strv_push(argv, "--map-root-user");
		strv_push(argv, "--map-auto");
	}
	strv_push(argv, "--");
	/* A private umask of the caller's would become the guest's permissions. */
	strv_push(argv, "sh");
	strv_push(argv, "-c");
	strv_push(argv, "umask 022 && exec \"$@\"");
	strv_push(argv, "sh");
}

static char **full_argv(enum build_as as, char *const *argv)
{
	char **ret = NULL;

	if (as == BUILD_AS_ROOT)
		push_namespace(&ret);
	for (char *const *arg = argv; *arg; arg++) {
		char *tool = arg == argv ? find_tool(*arg) : NULL;

		strv_push_take(&ret, tool ? tool : xstrdup(*arg));
	}
	return ret;
}

/* unshare(1) itself failing looks different from the program in it failing. */
static bool explain_namespace_failure(const char *output, struct error *err)
{
	struct passwd *pw = getpwuid(getuid());
	const char *user = pw ? pw->pw_name : "USER";

	if (!str_starts(output, "unshare: ") && !str_starts(output, "newuidmap") &&
	    !str_starts(output, "newgidmap"))
		return false;
	if (!path_root_is_mount()) {
		error_hint(
			err,
			"this is a chroot in an ordinary directory, where no namespaces can be "
			"made: start it as a container instead (systemd-nspawn --directory DIR)");
		return true;
	}
	if (geteuid() == 0) {
		error_hint(err, "building an image as root needs mount and PID namespaces: "
				"CAP_SYS_ADMIN in a container");
		return true;
	}
	error_hint(err,
		   "building as an ordinary user needs the package uidmap, unprivileged user "
		   "namespaces, and ids for %s: "
		   "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s",
		   user, user);
	return true;
}

/* what: for the error. */
static int run_as_root(char *const *argv, const char *what, struct error *err)
{
	_cleanup_strv_ char **full = full_argv(BUILD_AS_ROOT, argv);
	struct run_result result = {};
	int r = process_run(full, NULL, NULL, 0, LOG_TAIL_BYTES, NS_FOREVER, &result, err);

	if (r >= 0 && result.status != 0) {
		_cleanup_free_ char *reason = build_failure_reason(buf_str(&result.err));

		r = error_set(err, ERROR_INFRA, EIO, "%s failed: %s", what, reason);
		explain_namespace_failure(buf_str(&result.err), err);
	}
	run_result_done(&result);
	return r;
}

int build_run_as_root(char *const *argv, struct error *err)
{
	return run_as_root(argv, argv[0], err);
}

int image_can_build(struct error *err)
{
	char *const nothing[] = {(char *)"true", NULL};
	const char *tools[ARRAY_SIZE(TOOLS) + 1] = {};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(TOOLS); i++)
		tools[i] = TOOLS[i].tool;
	r = build_check_tools(tools, err);
	if (r < 0)
		return r;
	return run_as_root(nothing, "making a namespace to build in", err);
}

/* ---- a build's life --------------------------------------------------------------------- */

int build_error_enospc(const char *dir, uint64_t need_bytes, struct error *err)
{
	char free_text[FORMAT_MAX], need_text[FORMAT_MAX];
	int r;

	format_size(store_free_bytes(dir), free_text);
	if (need_bytes > 0)
		r = error_set(err, ERROR_INFRA, ENOSPC,
			      "not enough space in '%s': %s free, building the image needs about "
			      "%s",
			      dir, free_text, format_size(need_bytes, need_text));
	else
		r = error_set(err, ERROR_INFRA, ENOSPC,
			      "the disk became full while the image was built in '%s' (%s free)",
			      dir, free_text);
	error_hint(err, "'assay cache prune' frees what was not used lately; ASSAY_CACHE=DIR moves "
			"the store to another disk");
	return r;
}

int build_begin(struct build *b, const struct store *store, const char *name,
		const struct image_build_opts *opts, uint64_t need_bytes, struct error *err)
{
	static const struct image_build_opts defaults;
	_cleanup_free_ char *log = NULL;
	int pipe_fds[2], r;

	*b = (struct build){
		.store = store,
		.opts = opts ? opts : &defaults,
		.name = name,
		.dir_fd = -EBADF,
		.log_fd = -EBADF,
		.alive_read_fd = -EBADF,
		.alive_write_fd = -EBADF,
	};
	b->deadline_ns = deadline_in(b->opts->timeout_ns ? b->opts->timeout_ns : BUILD_TIMEOUT_NS);
	store_clean_stale(store);
	if (store_free_bytes(store->entries) < need_bytes)
		return build_error_enospc(store->entries, need_bytes, err);
	r = store_tmp_new(store, &b->dir, &b->dir_fd, err);
	if (r < 0)
		return r;
	log = build_path(b, "build.log");
	b->log_fd = open(log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (b->log_fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot write '%s'", log);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
	b->alive_read_fd = pipe_fds[0];
	b->alive_write_fd = pipe_fds[1];
	return 0;
}

static void close_fd(int *fd)
{
	cleanup_close(fd);
	*fd = -EBADF;
}

/* A SIGKILL is delivered, not yet obeyed, when kill(2) returns; and what still runs would write
 * into the tree under removal. Every program holds the pipe's other end until it has ended. */
static void wait_for_programs(struct build *b)
{
	_cleanup_io_ struct io *io = NULL;
	char c;

	close_fd(&b->alive_write_fd);
	if (b->alive_read_fd < 0)
		return;
	io = io_new(TAKE_FD(b->alive_read_fd));
	if (io_read(io, &c, 1, 10 * NS_PER_SEC, NULL) != 0)
		log_debug("%s: a program of the build does not end", b->name);
}

static void keep_log(struct build *b)
{
	_cleanup_free_ char *from = build_path(b, "build.log");
	_cleanup_free_ char *to = xasprintf("%s/logs/%s.log", b->store->dir, b->name);

	if (rename(from, to) < 0)
		log_debug("cannot keep '%s'", from);
}

void build_end(struct build *b)
{
	struct fiber_shield shield;
	struct error err = {};

	if (b->dir && !b->committed) {
		fiber_shield_enter(&shield, 120 * NS_PER_SEC);
		wait_for_programs(b);
		keep_log(b);
		if (store_remove_tree(b->dir, &err) < 0)
			log_debug("%s", err.message);
		fiber_shield_leave(&shield);
	}
	close_fd(&b->alive_read_fd);
	close_fd(&b->alive_write_fd);
	close_fd(&b->log_fd);
	close_fd(&b->dir_fd);
	free(b->dir);
	b->dir = NULL;
}

void build_phase(struct build *b, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL, *line = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	line = xasprintf("\n== %s\n", text);
	/* A log that cannot be written is told by the program that fills the disk next. */
	(void)fd_write_all(b->log_fd, line, strlen(line));
	if (b->opts->progress)
		b->opts->progress(text, b->opts->userdata);
}

char *build_path(const struct build *b, const char *name)
{
	return path_join(b->dir, name);
}

/* ---- programs --------------------------------------------------------------------------- */

bool build_output_says_enospc(const char *output)
{
	return strstr(output, "No space left on device") || strstr(output, "Disk quota exceeded") ||
	       strstr(output, "You don't have enough free space");
}

char *build_failure_reason(const char *output)
{
	static const char *const TELLING[] = {"E: ", "dpkg: error ", "mkfs.erofs: ", "<E>",
					      "tar: "};
	_cleanup_strv_ char **lines = strv_split(output, "\r\n");
	size_t n = strv_len(lines);

	for (size_t i = 0; i < ARRAY_SIZE(TELLING); i++)
		for (size_t k = 0; k < n; k++)
			if (str_starts(lines[k], TELLING[i]))
				return xstrdup(lines[k]);
	while (n > 0) {
		const char *line = lines[--n];

		if (line[strspn(line, " \t")] != '\0')
			return xstrdup(line + strspn(line, " \t"));
	}
	return xstrdup("");
}

static int fail(struct build *b, const char *program, int status, off_t log_start,
		struct error *err)
{
	_cleanup_free_ char *tail = xcalloc(1, LOG_TAIL_BYTES + 1), *reason = NULL, *how = NULL;
	off_t end = lseek(b->log_fd, 0, SEEK_END);
	off_t start = MAX(log_start, end - (off_t)LOG_TAIL_BYTES);
	int r;

	if (pread(b->log_fd, tail, LOG_TAIL_BYTES, start) < 0)
		tail[0] = '\0';
	/* With the disk full the log itself may lack the line that says so. */
	if (build_output_says_enospc(tail) || store_free_bytes(b->dir) < FULL_BYTES)
		return build_error_enospc(b->store->entries, 0, err);
	reason = build_failure_reason(tail);
	how = process_describe_status(status);
	r = error_set(err, ERROR_INFRA, EIO, "%s %s%s%s", program, how, reason[0] ? ": " : "",
		      reason);
	if (!explain_namespace_failure(tail, err))
		error_hint(err, "all that was said: %s/logs/%s.log", b->store->dir, b->name);
	return r;
}

/* Some programs do not end when the disk is full: apt-get (2.6) waits for ever for its own
 * download method. So a disk that stays full, looked at once a second, ends the wait. */

int build_wait(struct build *b, struct process *p, int *ret_status, struct error *err)
{
	uint64_t until = MIN(b->deadline_ns, deadline_current());
	int n_full = 0;

	for (;;) {
		struct error local = {};
		uint64_t left = timeout_left(b->deadline_ns);
		int r = process_wait(p, MIN(left, NS_PER_SEC), ret_status, &local);

		if (r >= 0)
			return 0;
		if (r != -ETIMEDOUT || timeout_left(until) == 0)
			return error_propagate(err, &local);
		n_full = store_free_bytes(b->dir) < FULL_BYTES ? n_full + 1 : 0;
		if (n_full == FULL_LOOKS) {
			process_stop(p, NS_PER_SEC);
			return build_error_enospc(b->store->entries, 0, err);
		}
	}
}

int build_run(struct build *b, enum build_as as, char *const *argv, int stdout_fd,
	      struct error *err)
{
	_cleanup_process_ struct process *p = NULL;
	_cleanup_strv_ char **full = full_argv(as, argv);
	_cleanup_free_ char *tmpdir = xasprintf("TMPDIR=%s", b->dir);
	_cleanup_free_ char *path = search_path();
	_cleanup_free_ char *path_env = xasprintf("PATH=%s", path);
	char *const env[] = {tmpdir, "LC_ALL=C.UTF-8", path_env, NULL};
	const struct spawn_fd fds[] = {{.fd = b->alive_write_fd, .child = -1}};
	const struct spawn_opts opts = {
		.name = path_basename(argv[0]),
		.env = env,
		.cwd = b->dir,
		.stdout_fd = stdout_fd > 0 ? stdout_fd : b->log_fd,
		.stderr_fd = b->log_fd,
		.fds = fds,
		.n_fds = 1,
	};
	off_t log_start = lseek(b->log_fd, 0, SEEK_END);
	int status = 0, r;

	r = process_spawn(full, &opts, &p, err);
	if (r < 0)
		return r;
	r = build_wait(b, p, &status, err);
	if (r < 0)
		return r;
	return status == 0 ? 0 : fail(b, argv[0], status, log_start, err);
}

int build_script(struct build *b, const char *script, char *const *args, struct error *err)
{
	_cleanup_strv_ char **argv = NULL;

	strv_push(&argv, "sh");
	strv_push(&argv, "-c");
	strv_push(&argv, script);
	strv_push(&argv, "sh");
	for (char *const *arg = args; *arg; arg++)
		strv_push(&argv, *arg);
	return build_run(b, BUILD_AS_ROOT, argv, 0, err);
}
