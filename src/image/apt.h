/* SPDX-License-Identifier: MIT */
/* The host's apt, made to look at another Debian release: lists, resolving, downloading. */
#pragma once

#include "image/build.h"

/*
 * Every release has a private apt root in the store (apt/<suite>: sources, lists, archives, an
 * apt.conf laid over the host's). The host's own configuration stays in force underneath, so its
 * proxies, credentials and certificates are used; nothing is installed by it and no root is
 * needed. Lists and archives are kept between builds: a derived image fetches only what is new.
 * A lock is held from open to close.
 */
struct apt {
	struct build *build;
	char *suite;
	const char *label; /* how messages call the release; borrowed */
	char *dir;
	char *conf;
	char *sources_guest; /* file: what becomes the guest's sources.list */
	int lock_fd;
};

/* Debian's name of the architecture that we build for. */
const char *apt_architecture(void);

int apt_open(struct apt *a, struct build *b, const char *suite, const char *label,
	     struct error *err);
void apt_close(struct apt *a);
#define _cleanup_apt_ _cleanup_(apt_close)
/* Refreshes the lists. Where that fails but lists are there (no network), they are used. */
int apt_update(struct apt *a, struct error *err);
/* `Acquire::…` options of the host that other programs' apt needs: "Acquire::http::Proxy \"…\"". */
int apt_host_options(struct build *b, char ***ret, struct error *err);
/* The one package that a metapackage depends on ("linux-image-cloud-amd64"). */
int apt_resolve_meta(struct apt *a, const char *meta, char **ret, struct error *err);
/* Downloads single packages; *ret: paths of the .deb files, in order. */
int apt_download(struct apt *a, char *const *packages, char ***ret, struct error *err);
/* Downloads all that installing `packages` into a tree with that dpkg status file takes; *ret:
 * names of the files in archives/. Unknown package: ENOENT/USAGE with apt's words. */
int apt_fetch_for_install(struct apt *a, const char *status_file, char *const *packages,
			  char ***ret, struct error *err);
char *apt_archives_dir(const struct apt *a);

/* From apt's messages: the package that it does not know; NULL if that is not the trouble. Pure. */
char *apt_unknown_package(const char *output);
/* File names of `apt-get --print-uris` output. Pure. */
char **apt_parse_print_uris(const char *output);
