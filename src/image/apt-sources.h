/* SPDX-License-Identifier: MIT */
/* The host's apt sources, read to learn which mirror it uses; and theirs for another suite. Pure.
 */
#pragma once

#include "base/buf.h"
#include "base/error.h"

/* One `deb` line, or one combination of URI and suite of a deb822 stanza. */
struct apt_source {
	char *uri;   /* without a trailing '/' */
	char *suite; /* "bookworm-updates" */
	char **components;
	char *signed_by; /* path of a keyring, or an inline key ("-----BEGIN …"); or NULL */
	bool trusted;	 /* [trusted=yes] */
};

struct apt_sources {
	struct apt_source *items;
	size_t n;
};

void apt_sources_done(struct apt_sources *s);
#define _cleanup_apt_sources_ _cleanup_(apt_sources_done)

/* Add what a file says. Disabled stanzas, deb-src and lines that make no sense are passed over,
 * as apt would have refused or ignored them already. */
void apt_sources_parse_list(struct apt_sources *s, const char *text);	/* *.list, one line each */
void apt_sources_parse_deb822(struct apt_sources *s, const char *text); /* *.sources */
/* Both kinds under a directory such as /etc/apt; missing files are no error. */
void apt_sources_read_host(struct apt_sources *s, const char *etc_apt);

/* What `suite` ("trixie") is fetched from, chosen after the host's own sources of Debian proper:
 * the same mirror for the suite itself, and its -updates and -security exactly if the host has
 * those of its own release. Without any: deb.debian.org with both. An `override` (an URI,
 * $ASSAY_DEBIAN_MIRROR) stands alone. Components: main. */
void apt_sources_for_suite(const struct apt_sources *host, const char *suite, const char *override,
			   struct apt_sources *ret);
/* As one-line sources. `keyring`: for those without a signed_by of their own (NULL: leave it to
 * apt's trust store). Inline keys are not written: the caller saves them to a file first. */
void apt_sources_format(const struct apt_sources *s, const char *keyring, struct buf *ret);
/* For /etc/apt/sources.list in the guest: no passwords, no paths of the host; a mirror that is a
 * directory or on the loopback of this host becomes deb.debian.org. */
void apt_sources_format_guest(const struct apt_sources *s, const char *keyring, struct buf *ret);
