/* SPDX-License-Identifier: MIT */
/* The host's apt sources, read to learn which mirror it uses; and theirs for another suite. */
#include "image/apt-sources.h"

#include <ctype.h>
#include <dirent.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"

/*
 * Formats: sources.list(5). What counts as "of Debian proper" is told by the suite's name, not by
 * the URI: mirrors are called anything. Third-party repositories often name their suites after
 * Debian's too ("bookworm" at apt.example.com), so a source must also offer the component main and
 * its path must end in "debian" or "debian-security" — or it must be the file's only candidate.
 */
#define DEFAULT_MIRROR	 "http://deb.debian.org/debian"
#define DEFAULT_SECURITY "http://deb.debian.org/debian-security"
#define SOURCES_FILE_MAX (1 * MIB)

static const char *const RELEASES[] = {
	"buster", "bullseye", "bookworm", "trixie",   "forky",	   "duke",
	"sid",	  "stable",   "testing",  "unstable", "oldstable", "oldoldstable",
};

static void source_done(struct apt_source *s)
{
	free(s->uri);
	free(s->suite);
	strv_free(s->components);
	free(s->signed_by);
}

void apt_sources_done(struct apt_sources *s)
{
	for (size_t i = 0; i < s->n; i++)
		source_done(&s->items[i]);
	free(s->items);
	*s = (struct apt_sources){};
}

static void add(struct apt_sources *s, const char *uri, const char *suite, char *const *components,
		const char *signed_by, bool trusted)
{
	struct apt_source item = {
		.uri = xstrdup(uri),
		.suite = xstrdup(suite),
		.components = strv_copy(components),
		.signed_by = signed_by ? xstrdup(signed_by) : NULL,
		.trusted = trusted,
	};
	size_t len = strlen(item.uri);

	while (len > 0 && item.uri[len - 1] == '/')
		item.uri[--len] = '\0';
	s->items = xrealloc(s->items, (s->n + 1) * sizeof(item));
	s->items[s->n++] = item;
}

/* ---- one-line format -------------------------------------------------------------------- */

/* "[arch=amd64 signed-by=/x trusted=yes] rest" -> rest; options out. NULL if never closed. */
static char *take_options(char *line, char **ret_signed_by, bool *ret_trusted)
{
	_cleanup_strv_ char **words = NULL;
	char *end;

	if (*line != '[')
		return line;
	end = strchr(line, ']');
	if (!end)
		return NULL;
	*end = '\0';
	words = strv_split(line + 1, " \t");
	for (char **w = words; w && *w; w++) {
		if (str_starts(*w, "signed-by=")) {
			free(*ret_signed_by);
			*ret_signed_by = xstrdup(*w + strlen("signed-by="));
		} else if (str_eq(*w, "trusted=yes")) {
			*ret_trusted = true;
		}
	}
	return end + 1;
}

static void parse_list_line(struct apt_sources *s, char *line)
{
	_cleanup_free_ char *signed_by = NULL;
	_cleanup_strv_ char **words = NULL;
	bool trusted = false;
	char *rest;

	line[strcspn(line, "#\r")] = '\0';
	line += strspn(line, " \t");
	if (!str_starts(line, "deb") || !isspace((unsigned char)line[3]))
		return;
	rest = line + 4;
	rest += strspn(rest, " \t");
	rest = take_options(rest, &signed_by, &trusted);
	if (!rest)
		return;
	words = strv_split(rest, " \t");
	/* A suite that ends in '/' is a flat repository and has no components: never Debian's. */
	if (strv_len(words) < 3)
		return;
	add(s, words[0], words[1], words + 2, signed_by, trusted);
}

void apt_sources_parse_list(struct apt_sources *s, const char *text)
{
	_cleanup_strv_ char **lines = strv_split(text, "\n");

	for (char **line = lines; line && *line; line++)
		parse_list_line(s, *line);
}

/* ---- deb822 format ---------------------------------------------------------------------- */

struct stanza {
	char *types, *uris, *suites, *components, *signed_by, *enabled, *trusted;
	char **last; /* the field that a continuation line belongs to */
};

static void stanza_done(struct stanza *st)
{
	free(st->types);
	free(st->uris);
	free(st->suites);
	free(st->components);
	free(st->signed_by);
	free(st->enabled);
	free(st->trusted);
	*st = (struct stanza){};
}

/* A stanza is every combination of its URIs and suites. */
static void finish_stanza(struct apt_sources *s, struct stanza *st)
{
	_cleanup_strv_ char **types = st->types ? strv_split(st->types, " \t\n") : NULL;
	_cleanup_strv_ char **uris = st->uris ? strv_split(st->uris, " \t\n") : NULL;
	_cleanup_strv_ char **suites = st->suites ? strv_split(st->suites, " \t\n") : NULL;
	_cleanup_strv_ char **components =
		st->components ? strv_split(st->components, " \t\n") : NULL;
	bool enabled = !st->enabled || strcasecmp(st->enabled, "no") != 0;
	bool trusted = st->trusted && strcasecmp(st->trusted, "yes") == 0;

	if (enabled && components && strv_contains(types, "deb"))
		for (char **uri = uris; uri && *uri; uri++)
			for (char **suite = suites; suite && *suite; suite++)
				add(s, *uri, *suite, components, st->signed_by, trusted);
	stanza_done(st);
}

static char **stanza_field(struct stanza *st, const char *name, size_t len)
{
	const struct {
		const char *name;
		char **value;
	} fields[] = {
		{"Types", &st->types},	       {"URIs", &st->uris},
		{"Suites", &st->suites},       {"Components", &st->components},
		{"Signed-By", &st->signed_by}, {"Enabled", &st->enabled},
		{"Trusted", &st->trusted},
	};

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (strlen(fields[i].name) == len && strncasecmp(fields[i].name, name, len) == 0)
			return fields[i].value;
	return NULL;
}

static char *strip(char *s)
{
	size_t len;

	s += strspn(s, " \t");
	len = strlen(s);
	while (len > 0 && isspace((unsigned char)s[len - 1]))
		s[--len] = '\0';
	return s;
}

static void stanza_line(struct stanza *st, char *line)
{
	char *colon, *more;

	if (isspace((unsigned char)line[0])) {
		if (!st->last || !*st->last)
			return;
		line = strip(line);
		/* " ." stands for an empty line, as between an inline key's header and body. */
		more = xasprintf("%s%s%s", *st->last, **st->last ? "\n" : "",
				 str_eq(line, ".") ? "" : line);
		free(*st->last);
		*st->last = more;
		return;
	}
	colon = strchr(line, ':');
	st->last = colon ? stanza_field(st, line, (size_t)(colon - line)) : NULL;
	if (!st->last)
		return;
	free(*st->last);
	*st->last = xstrdup(strip(colon + 1));
}

void apt_sources_parse_deb822(struct apt_sources *s, const char *text)
{
	_cleanup_free_ char *copy = xstrdup(text);
	_cleanup_(stanza_done) struct stanza st = {};
	char *next = copy;

	/* Not strv_split(): empty lines separate the stanzas. */
	while (next) {
		char *line = strsep(&next, "\n");

		if (line[0] == '#')
			continue;
		if (line[strspn(line, " \t\r")] == '\0')
			finish_stanza(s, &st);
		else
			stanza_line(&st, line);
	}
	finish_stanza(s, &st);
}

static void read_one(struct apt_sources *s, const char *path)
{
	_cleanup_buf_ struct buf text = {};

	/* Unreadable for us is absent for us: apt itself would warn and go on. */
	if (buf_read_file(&text, path, SOURCES_FILE_MAX) < 0)
		return;
	if (str_ends(path, ".sources"))
		apt_sources_parse_deb822(s, buf_str(&text));
	else
		apt_sources_parse_list(s, buf_str(&text));
}

static int is_sources_file(const struct dirent *d)
{
	return str_ends(d->d_name, ".list") || str_ends(d->d_name, ".sources");
}

void apt_sources_read_host(struct apt_sources *s, const char *etc_apt)
{
	_cleanup_free_ char *list = path_join(etc_apt, "sources.list");
	_cleanup_free_ char *dir = path_join(etc_apt, "sources.list.d");
	struct dirent **names = NULL;
	int n;

	read_one(s, list);
	n = scandir(dir, &names, is_sources_file, alphasort);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path = path_join(dir, names[i]->d_name);

		read_one(s, path);
		free(names[i]);
	}
	free(names);
}

/* ---- another suite ---------------------------------------------------------------------- */

enum pocket { POCKET_NONE = -1, POCKET_MAIN, POCKET_UPDATES, POCKET_SECURITY, POCKET_MAX };

static const char *const POCKET_SUFFIX[POCKET_MAX] = {"", "-updates", "-security"};

static enum pocket pocket_of(const char *suite)
{
	for (size_t i = 0; i < ARRAY_SIZE(RELEASES); i++) {
		if (!str_starts(suite, RELEASES[i]))
			continue;
		for (int p = 0; p < POCKET_MAX; p++)
			if (str_eq(suite + strlen(RELEASES[i]), POCKET_SUFFIX[p]))
				return p;
		/* The name before Debian 11: "buster/updates". */
		if (str_eq(suite + strlen(RELEASES[i]), "/updates"))
			return POCKET_SECURITY;
	}
	return POCKET_NONE;
}

static bool looks_like_debian(const struct apt_source *s)
{
	return str_ends(s->uri, "/debian") || str_ends(s->uri, "/debian-security");
}

static const struct apt_source *find_pocket(const struct apt_sources *host, enum pocket pocket)
{
	const struct apt_source *other = NULL;

	for (size_t i = 0; i < host->n; i++) {
		const struct apt_source *s = &host->items[i];

		if (pocket_of(s->suite) != pocket || !strv_contains(s->components, "main"))
			continue;
		if (looks_like_debian(s))
			return s;
		if (!other)
			other = s;
	}
	return other;
}

void apt_sources_for_suite(const struct apt_sources *host, const char *suite, const char *override,
			   struct apt_sources *ret)
{
	char *const components[] = {"main", NULL};
	const struct apt_source *base = find_pocket(host, POCKET_MAIN);

	if (override) {
		add(ret, override, suite, components, base ? base->signed_by : NULL,
		    base && base->trusted && str_eq(base->uri, override));
		return;
	}
	for (int p = 0; p < POCKET_MAX; p++) {
		_cleanup_free_ char *name = xasprintf("%s%s", suite, POCKET_SUFFIX[p]);
		const struct apt_source *s = find_pocket(host, p);

		/* sid has neither updates nor security. */
		if (p != POCKET_MAIN && (str_eq(suite, "sid") || str_eq(suite, "unstable")))
			continue;
		if (base && s)
			add(ret, s->uri, name, components, s->signed_by, s->trusted);
		else if (!base)
			add(ret, p == POCKET_SECURITY ? DEFAULT_SECURITY : DEFAULT_MIRROR, name,
			    components, NULL, false);
	}
}

/* ---- writing ---------------------------------------------------------------------------- */

static void format_one(const struct apt_source *s, const char *uri, const char *keyring,
		       struct buf *ret)
{
	_cleanup_free_ char *components = strv_join(s->components, " ");
	_cleanup_buf_ struct buf options = {};

	if (keyring)
		buf_printf(&options, "signed-by=%s", keyring);
	if (s->trusted)
		buf_printf(&options, "%strusted=yes", options.len > 0 ? " " : "");
	buf_printf(ret, "deb %s%s%s%s %s %s\n", options.len > 0 ? "[" : "", buf_str(&options),
		   options.len > 0 ? "] " : "", uri, s->suite, components);
}

void apt_sources_format(const struct apt_sources *s, const char *keyring, struct buf *ret)
{
	for (size_t i = 0; i < s->n; i++) {
		const char *own = s->items[i].signed_by;

		format_one(&s->items[i], s->items[i].uri, own && own[0] == '/' ? own : keyring,
			   ret);
	}
}

/* The URI without "user:password@"; NULL if a guest could not reach it. */
static char *guest_uri(const char *uri)
{
	static const char *const LOCAL[] = {"localhost", "127.", "[::1]", "unix:"};
	const char *host = strstr(uri, "://"), *at, *slash;

	if (!host || !(str_starts(uri, "http://") || str_starts(uri, "https://")))
		return NULL;
	host += 3;
	slash = host + strcspn(host, "/");
	at = memrchr(host, '@', (size_t)(slash - host));
	for (size_t i = 0; i < ARRAY_SIZE(LOCAL); i++)
		if (str_starts(at ? at + 1 : host, LOCAL[i]))
			return NULL;
	return xasprintf("%.*s%s", (int)(host - uri), uri, at ? at + 1 : host);
}

void apt_sources_format_guest(const struct apt_sources *s, const char *keyring, struct buf *ret)
{
	for (size_t i = 0; i < s->n; i++) {
		_cleanup_free_ char *uri = guest_uri(s->items[i].uri);
		bool security = pocket_of(s->items[i].suite) == POCKET_SECURITY;

		format_one(&s->items[i], uri ? uri : (security ? DEFAULT_SECURITY : DEFAULT_MIRROR),
			   keyring, ret);
	}
}
