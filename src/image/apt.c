/* SPDX-License-Identifier: MIT */
/* The host's apt, made to look at another Debian release: lists, resolving, downloading. */
#include "image/apt.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/apt-sources.h"
#include "loop/process.h"

#define KEYRING	   "/usr/share/keyrings/debian-archive-keyring.gpg"
#define OUTPUT_MAX (8 * MIB)

const char *apt_architecture(void)
{
#if defined(__aarch64__)
	return "arm64";
#else
	return "amd64";
#endif
}

/* ---- setting up ------------------------------------------------------------------------- */

/* Given with -c, which is read after the host's files and so wins. The hooks that are cleared are
 * the host's (packagekit's, docker's clean-up): they have no business here. */
static void format_conf(const struct apt *a, struct buf *ret)
{
	buf_printf(ret,
		   "Dir::State \"%1$s\";\n"
		   "Dir::State::status \"%1$s/status\";\n"
		   "Dir::State::lists \"lists\";\n"
		   "Dir::State::extended_states \"extended_states\";\n"
		   "Dir::Cache \"%1$s\";\n"
		   "Dir::Cache::archives \"archives\";\n"
		   "Dir::Cache::pkgcache \"pkgcache.bin\";\n"
		   "Dir::Cache::srcpkgcache \"srcpkgcache.bin\";\n"
		   "Dir::Etc::sourcelist \"%1$s/sources.list\";\n"
		   "Dir::Etc::sourceparts \"/dev/null\";\n"
		   "Dir::Etc::preferences \"/dev/null\";\n"
		   "Dir::Etc::preferencesparts \"/dev/null\";\n"
		   "Dir::Log \"%1$s\";\n",
		   a->dir);
	buf_printf(ret,
		   "APT::Architecture \"%s\";\n"
		   "#clear APT::Architectures;\n"
		   "APT::Architectures { \"%s\"; };\n"
		   "#clear APT::Default-Release;\n"
		   "APT::Sandbox::User \"root\";\n"
		   "APT::Install-Recommends \"false\";\n"
		   "APT::Get::Assume-Yes \"true\";\n"
		   "Acquire::Languages \"none\";\n"
		   "Acquire::GzipIndexes \"false\";\n"
		   "#clear Acquire::IndexTargets::deb::DEP-11;\n"
		   "#clear Acquire::IndexTargets::deb::Contents-deb;\n"
		   "#clear APT::Update;\n"
		   "#clear DPkg::Pre-Invoke;\n"
		   "#clear DPkg::Post-Invoke;\n"
		   "#clear DPkg::Pre-Install-Pkgs;\n",
		   apt_architecture(), apt_architecture());
}

static int write_file(const struct apt *a, const char *name, const struct buf *text,
		      struct error *err)
{
	_cleanup_free_ char *path = path_join(a->dir, name);

	return file_write_atomic(path, buf_str(text), text->len, 0644, err);
}

/* An inline key of a deb822 stanza has to be a file for a one-line source. */
static int save_inline_keys(const struct apt *a, struct apt_sources *sources, struct error *err)
{
	for (size_t i = 0; i < sources->n; i++) {
		struct apt_source *s = &sources->items[i];
		_cleanup_free_ char *name = xasprintf("key-%zu.asc", i);
		struct buf text = {};
		int r;

		if (!s->signed_by || !str_starts(s->signed_by, "-----BEGIN"))
			continue;
		buf_printf(&text, "%s\n", s->signed_by);
		r = write_file(a, name, &text, err);
		buf_done(&text);
		if (r < 0)
			return r;
		free(s->signed_by);
		s->signed_by = path_join(a->dir, name);
	}
	return 0;
}

static int write_sources(struct apt *a, struct error *err)
{
	_cleanup_apt_sources_ struct apt_sources host = {}, wanted = {};
	_cleanup_buf_ struct buf text = {}, guest = {};
	const char *override = getenv("ASSAY_DEBIAN_MIRROR");
	int r;

	apt_sources_read_host(&host, "/etc/apt");
	apt_sources_for_suite(&host, a->suite, override && *override ? override : NULL, &wanted);
	r = save_inline_keys(a, &wanted, err);
	if (r < 0)
		return r;
	apt_sources_format(&wanted, path_exists(KEYRING) ? KEYRING : NULL, &text);
	apt_sources_format_guest(&wanted, KEYRING, &guest);
	r = write_file(a, "sources.list", &text, err);
	return r < 0 ? r : write_file(a, "sources.guest", &guest, err);
}

int apt_open(struct apt *a, struct build *b, const char *suite, const char *label,
	     struct error *err)
{
	static const char *const SUBDIRS[] = {"lists/partial", "archives/partial"};
	_cleanup_free_ char *lock = NULL;
	_cleanup_buf_ struct buf conf = {}, empty = {};
	int r = 0;

	*a = (struct apt){.build = b, .suite = xstrdup(suite), .label = label, .lock_fd = -EBADF};
	a->dir = xasprintf("%s/apt/%s", b->store->dir, suite);
	a->conf = path_join(a->dir, "apt.conf");
	a->sources_guest = path_join(a->dir, "sources.guest");
	for (size_t i = 0; i < ARRAY_SIZE(SUBDIRS) && r >= 0; i++) {
		_cleanup_free_ char *dir = path_join(a->dir, SUBDIRS[i]);

		r = path_make_dirs(dir, 0755, err);
	}
	if (r < 0)
		return r;
	lock = path_join(a->dir, "lock");
	r = store_lock_file(lock, "another build's downloads", &a->lock_fd, err);
	if (r < 0)
		return r;
	format_conf(a, &conf);
	r = write_file(a, "apt.conf", &conf, err);
	if (r >= 0)
		r = write_file(a, "status", &empty, err);
	return r < 0 ? r : write_sources(a, err);
}

void apt_close(struct apt *a)
{
	free(a->suite);
	free(a->dir);
	free(a->conf);
	free(a->sources_guest);
	if (a->lock_fd >= 0)
		close(a->lock_fd);
	*a = (struct apt){.lock_fd = -EBADF};
}

char *apt_archives_dir(const struct apt *a)
{
	return path_join(a->dir, "archives");
}

/* ---- running ---------------------------------------------------------------------------- */

static int take_output(int fd, struct buf *ret, struct error *err)
{
	int r = lseek(fd, 0, SEEK_SET) < 0 ? -errno : buf_read_fd(ret, fd, OUTPUT_MAX);

	return r < 0 ? error_set_errno(err, ERROR_INFRA, -r, "cannot read apt's output") : 0;
}

/* "apt-get -c CONF words…", collected. A failure is told by result->status. Not process_run(),
 * because a full disk must end the wait. */
static int query(struct apt *a, const char *program, char *const *words, const char *cwd,
		 struct run_result *result, struct error *err)
{
	_cleanup_close_ int out = memfd_create("out", MFD_CLOEXEC);
	_cleanup_close_ int err_out = memfd_create("err", MFD_CLOEXEC);
	_cleanup_process_ struct process *p = NULL;
	_cleanup_strv_ char **argv = NULL;
	char *const env[] = {"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", NULL};
	const struct spawn_opts opts = {
		.env = env, .cwd = cwd, .stdout_fd = out, .stderr_fd = err_out};
	int r;

	if (out < 0 || err_out < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a memory file");
	strv_push(&argv, program);
	strv_push(&argv, "-c");
	strv_push(&argv, a->conf);
	for (char *const *w = words; *w; w++)
		strv_push(&argv, *w);
	r = process_spawn(argv, &opts, &p, err);
	if (r >= 0)
		r = build_wait(a->build, p, &result->status, err);
	if (r >= 0)
		r = take_output(out, &result->out, err);
	if (r >= 0)
		r = take_output(err_out, &result->err, err);
	if (r < 0)
		run_result_done(result);
	return r;
}

/* What stands in the log for the next reader, and the error for this one. */
static int query_failed(struct apt *a, const char *what, const struct run_result *result,
			struct error *err)
{
	_cleanup_free_ char *reason = NULL;

	(void)fd_write_all(a->build->log_fd, buf_str(&result->out), result->out.len);
	(void)fd_write_all(a->build->log_fd, buf_str(&result->err), result->err.len);
	if (build_output_says_enospc(buf_str(&result->err)))
		return build_error_enospc(a->dir, 0, err);
	reason = build_failure_reason(buf_str(&result->err));
	return error_set(err, ERROR_INFRA, EIO, "%s of %s: %s", what, a->label, reason);
}

static bool has_lists(const struct apt *a)
{
	_cleanup_free_ char *path = path_join(a->dir, "lists");
	bool found = false;
	struct dirent *d;
	DIR *dir = opendir(path);

	while (dir && !found && (d = readdir(dir)))
		found = strstr(d->d_name, "_Packages") != NULL;
	if (dir)
		closedir(dir);
	return found;
}

int apt_update(struct apt *a, struct error *err)
{
	char *const words[] = {"-q", "update", NULL};
	struct run_result result = {};
	int r;

	build_phase(a->build, "fetching the package lists of %s", a->label);
	r = query(a, "apt-get", words, NULL, &result, err);
	if (r < 0)
		return r;
	(void)fd_write_all(a->build->log_fd, buf_str(&result.out), result.out.len);
	/* apt-get counts a mirror out of reach as a success with warnings, except when there is
	 * nothing to fall back to; then the first look-up would fail with a misleading message. */
	if (result.status != 0 || !has_lists(a)) {
		r = query_failed(a, "cannot fetch the package lists", &result, err);
		error_hint(err, "the mirror is taken from /etc/apt/sources.list*, or from "
				"ASSAY_DEBIAN_MIRROR=URI");
	}
	run_result_done(&result);
	return r;
}

static bool is_passed_on(const char *option)
{
	static const char *const KEPT[] = {"Proxy",	 "::https::", "Check-Valid-Until",
					   "Check-Date", "Timeout",   "Retries",
					   "ForceIPv"};

	if (!str_starts(option, "Acquire::"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(KEPT); i++)
		if (strstr(option, KEPT[i]))
			return true;
	return false;
}

int apt_host_options(struct build *b, char ***ret, struct error *err)
{
	char *const argv[] = {"apt-config", "dump", "--no-empty", NULL};
	_cleanup_strv_ char **lines = NULL;
	struct run_result result = {};
	int r = process_run(argv, NULL, NULL, 0, OUTPUT_MAX, timeout_left(b->deadline_ns), &result,
			    err);

	if (r < 0)
		return r;
	lines = strv_split(buf_str(&result.out), "\n");
	for (char **line = lines; line && *line; line++)
		if (is_passed_on(*line))
			strv_push(ret, *line);
	run_result_done(&result);
	return 0;
}

int apt_resolve_meta(struct apt *a, const char *meta, char **ret, struct error *err)
{
	char *const words[] = {"depends", (char *)meta, NULL};
	_cleanup_strv_ char **lines = NULL;
	struct run_result result = {};
	int r = query(a, "apt-cache", words, NULL, &result, err);

	if (r < 0)
		return r;
	lines = strv_split(buf_str(&result.out), "\n");
	for (char **line = lines; line && *line && !*ret; line++) {
		const char *depends = strstr(*line, "Depends: linux-image-");

		if (depends)
			*ret = xstrndup(depends + 9, strcspn(depends + 9, " "));
	}
	if (!*ret)
		r = query_failed(a, "cannot find the kernel package", &result, err);
	run_result_done(&result);
	return r;
}

char **apt_parse_print_uris(const char *output)
{
	_cleanup_strv_ char **lines = strv_split(output, "\n");
	char **ret = NULL;

	/* 'http://…/x.deb' x.deb 1234 SHA256:… */
	for (char **line = lines; line && *line; line++) {
		const char *name = (*line)[0] == '\'' ? strstr(*line, "' ") : NULL;

		if (name)
			strv_push_take(&ret, xstrndup(name + 2, strcspn(name + 2, " ")));
	}
	return ret;
}

static int files_of(struct apt *a, const char *cwd, char *const *words, const char *what,
		    char ***ret, struct error *err)
{
	_cleanup_strv_ char **full = NULL;
	struct run_result result = {};
	int r;

	strv_push(&full, "-qq");
	strv_push(&full, "--print-uris");
	for (char *const *w = words; *w; w++)
		strv_push(&full, *w);
	r = query(a, "apt-get", full, cwd, &result, err);
	if (r < 0)
		return r;
	if (result.status != 0)
		r = query_failed(a, what, &result, err);
	else
		*ret = apt_parse_print_uris(buf_str(&result.out));
	run_result_done(&result);
	return r;
}

int apt_download(struct apt *a, char *const *packages, char ***ret, struct error *err)
{
	_cleanup_free_ char *archives = apt_archives_dir(a);
	_cleanup_strv_ char **words = NULL, **names = NULL;
	struct run_result result = {};
	int r;

	strv_push(&words, "download");
	for (char *const *p = packages; *p; p++)
		strv_push(&words, *p);
	/* From a directory without packages: those in the working directory would be left out. */
	r = files_of(a, a->build->dir, words, "cannot find packages", &names, err);
	if (r < 0)
		return r;
	/* What lies here already with the right digest is not fetched again. */
	r = query(a, "apt-get", words, archives, &result, err);
	if (r >= 0 && result.status != 0)
		r = query_failed(a, "cannot download packages", &result, err);
	run_result_done(&result);
	for (char **name = names; r >= 0 && name && *name; name++)
		strv_push_take(ret, path_join(archives, *name));
	return r;
}

char *apt_unknown_package(const char *output)
{
	static const char *const SAYINGS[] = {
		"E: Unable to locate package ", "E: Couldn't find any package by glob '",
		"E: Couldn't find any package by regex '", "E: Package '"};

	for (size_t i = 0; i < ARRAY_SIZE(SAYINGS); i++) {
		const char *p = strstr(output, SAYINGS[i]);

		if (!p)
			continue;
		p += strlen(SAYINGS[i]);
		/* "E: Package 'x' has no installation candidate" */
		if (i == 3 && !strstr(p, "has no installation candidate"))
			continue;
		return xstrndup(p, strcspn(p, "' \n"));
	}
	return NULL;
}

static char *nearest_package(struct apt *a, const char *name)
{
	char *const words[] = {"pkgnames", NULL};
	_cleanup_strv_ char **names = NULL;
	struct run_result result = {};
	const char *near = NULL;

	if (query(a, "apt-cache", words, NULL, &result, NULL) < 0)
		return NULL;
	names = strv_split(buf_str(&result.out), "\n");
	run_result_done(&result);
	if (names)
		near = nearest_name(name, (const char *const *)names);
	return near ? xstrdup(near) : NULL;
}

/* The user asked for something that is not there, or does not fit together. */
static int install_refused(struct apt *a, char *const *packages, const struct run_result *result,
			   struct error *err)
{
	const char *output = buf_str(&result->err);
	_cleanup_free_ char *unknown = apt_unknown_package(output);
	_cleanup_free_ char *reason = build_failure_reason(output);
	_cleanup_free_ char *all = strv_join(packages, " ");
	int r;

	if (!str_starts(reason, "E: ") || build_output_says_enospc(output))
		return query_failed(a, "cannot resolve packages", result, err);
	(void)fd_write_all(a->build->log_fd, buf_str(&result->out), result->out.len);
	if (unknown) {
		_cleanup_free_ char *near = nearest_package(a, unknown);

		r = error_set(err, ERROR_USAGE, ENOENT, "package '%s' not found in %s: %s", unknown,
			      a->label, reason);
		if (near)
			error_hint(err, "did you mean '%s'?", near);
		return r;
	}
	return error_set(err, ERROR_USAGE, EINVAL, "cannot install '%s' on %s: %s", all, a->label,
			 reason);
}

int apt_fetch_for_install(struct apt *a, const char *status_file, char *const *packages,
			  char ***ret, struct error *err)
{
	_cleanup_free_ char *empty = build_path(a->build, "no-archives");
	_cleanup_free_ char *partial = path_join(empty, "partial");
	_cleanup_strv_ char **look = NULL, **fetch = NULL;
	struct run_result result = {};
	int r = path_make_dirs(partial, 0755, err);

	if (r < 0)
		return r;
	strv_push(&fetch, "-q");
	strv_push(&fetch, "-o");
	strv_pushf(&fetch, "Dir::State::status=%s", status_file);
	strv_push(&fetch, "install");
	strv_push(&fetch, "--download-only");
	for (char *const *p = packages; *p; p++)
		strv_push(&fetch, *p);
	/* First only look: an unknown package is told apart from a broken mirror. With an empty
	 * archive directory, as --print-uris leaves out what is there. */
	look = strv_copy(fetch);
	strv_push(&look, "--print-uris");
	strv_push(&look, "-o");
	strv_pushf(&look, "Dir::Cache::archives=%s", empty);
	r = query(a, "apt-get", look, NULL, &result, err);
	if (r >= 0 && result.status != 0)
		r = install_refused(a, packages, &result, err);
	if (r >= 0)
		*ret = apt_parse_print_uris(buf_str(&result.out));
	run_result_done(&result);
	(void)path_remove_tree(empty, NULL);
	if (r < 0 || !*ret)
		return r;
	r = query(a, "apt-get", fetch, NULL, &result, err);
	if (r >= 0 && result.status != 0)
		r = query_failed(a, "cannot download packages", &result, err);
	run_result_done(&result);
	return r;
}
