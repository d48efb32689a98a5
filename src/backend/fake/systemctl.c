/* SPDX-License-Identifier: MIT */
/* As much of systemctl and journalctl as tests of the Lua API look at. */
#include <string.h>

#include "backend/fake/fake.h"
#include "base/str.h"

static void print_properties(const struct fake_unit *u, const char *name, struct buf *out)
{
	const char *state = u ? guest_unit_state(u) : "inactive";

	buf_printf(out, "Id=%s%s\n", name, strchr(name, '.') ? "" : ".service");
	buf_printf(out, "LoadState=%s\nActiveState=%s\nSubState=%s\n", u ? "loaded" : "not-found",
		   state, u ? u->sub : "dead");
	buf_printf(out, "Result=%s\nType=%s\n", u ? u->result : "success", u ? u->type : "simple");
	buf_printf(out, "ExecMainStatus=%d\n", u && str_eq(u->state, "failed") ? 1 : 0);
}

/* Only the properties asked for with -p; without their names with --value. */
static void filter_properties(const struct buf *all, char *const *wanted, bool value,
			      struct buf *out)
{
	_cleanup_strv_ char **lines = strv_split(buf_str(all), "\n");

	for (char **l = lines; l && *l; l++) {
		char *eq = strchr(*l, '=');
		_cleanup_free_ char *name = xstrndup(*l, (size_t)(eq - *l));

		if (!wanted || strv_contains(wanted, name))
			buf_printf(out, "%s\n", value ? eq + 1 : *l);
	}
}

struct words {
	char **options; /* -p's arguments */
	bool value, failed_only;
	const char *verb;
	char **units; /* borrowed strings */
};

static void parse(char **argv, struct words *w)
{
	for (char **a = argv + 1; *a; a++) {
		const char *property = NULL;

		if (str_eq(*a, "-p") || str_eq(*a, "--property"))
			property = a[1] ? *++a : "";
		else if (str_starts(*a, "--property="))
			property = *a + strlen("--property=");
		else if (str_eq(*a, "--value"))
			w->value = true;
		else if (str_eq(*a, "--failed") || str_eq(*a, "--state=failed"))
			w->failed_only = true;
		else if (**a == '-')
			continue;
		else if (!w->verb)
			w->verb = *a;
		else
			strv_push(&w->units, *a);
		if (property) {
			_cleanup_strv_ char **names = strv_split(property, ",");

			for (char **n = names; n && *n; n++)
				strv_push(&w->options, *n);
		}
	}
}

static void list_units(struct fake *f, const struct words *w, struct buf *out)
{
	for (size_t i = 0; i < f->guest.n_units; i++) {
		const struct fake_unit *u = &f->guest.units[i];

		if (!w->failed_only || str_eq(u->state, "failed"))
			buf_printf(out, "%s loaded %s %s %s\n", u->name, guest_unit_state(u),
				   u->sub, u->name);
	}
}

static int change(struct fake *f, const char *name, const char *verb, struct buf *err)
{
	struct fake_unit *u = guest_unit(f, name);
	json_t *units;

	if (!u) {
		buf_printf(err, "Failed to %s %s%s: Unit %s%s not found.\n", verb, name,
			   strchr(name, '.') ? "" : ".service", name,
			   strchr(name, '.') ? "" : ".service");
		return 5;
	}
	units = json_pack("{ss}", u->name, str_eq(verb, "stop") ? "inactive" : "active");
	guest_set_units(f, units);
	json_decref(units);
	return 0;
}

static int one_unit(struct fake *f, const struct words *w, const char *name, struct buf *out,
		    struct buf *err)
{
	const struct fake_unit *u = guest_unit(f, name);
	const char *state = u ? guest_unit_state(u) : "inactive";
	_cleanup_buf_ struct buf all = {};

	if (str_eq(w->verb, "is-active")) {
		buf_printf(out, "%s\n", state);
		return str_eq(state, "active") ? 0 : 3;
	}
	if (str_eq(w->verb, "show")) {
		print_properties(u, name, &all);
		filter_properties(&all, w->options, w->value, out);
		return 0;
	}
	if (str_eq(w->verb, "status")) {
		if (!u) {
			buf_printf(err, "Unit %s could not be found.\n", name);
			return 4;
		}
		buf_printf(out, "* %s - fake unit\n     Active: %s (%s)\n", u->name, state, u->sub);
		return str_eq(state, "active") ? 0 : 3;
	}
	if (str_eq(w->verb, "cat")) {
		buf_printf(out, "# /etc/systemd/system/%s\n", name);
		return 0;
	}
	return change(f, name, w->verb, err);
}

static int journal(struct fake *f, char **argv, struct buf *out)
{
	const char *all = fake_text(f->script, "journal"), *unit = NULL;
	struct fake_unit *u;

	for (char **a = argv + 1; *a; a++) {
		if ((str_eq(*a, "-u") || str_eq(*a, "--unit")) && a[1])
			unit = *++a;
		else if (str_starts(*a, "--unit="))
			unit = *a + strlen("--unit=");
	}
	u = unit ? guest_unit(f, unit) : NULL;
	if (unit)
		buf_puts(out, u && u->journal ? u->journal : "");
	else
		buf_puts(out, all ?: "");
	if (out->len > 0 && out->data[out->len - 1] != '\n')
		buf_putc(out, '\n');
	return 0;
}

int fake_systemctl(struct fake *f, const char *command, struct buf *out, struct buf *err)
{
	static const char *const verbs[] = {"start",  "stop",	 "restart",   "reload",
					    "enable", "disable", "is-active", "show",
					    "status", "cat",	 NULL};
	_cleanup_free_ char *plain = xstrdup(command);
	_cleanup_strv_ char **argv = NULL;
	struct words w = {};
	int code = 1;

	/* Words may come quoted, as shell_quote() does. */
	for (char *from = plain, *to = plain;; from++) {
		if (*from != '\'' && *from != '"')
			*to++ = *from;
		if (!*from)
			break;
	}
	argv = strv_split(plain, " ");
	if (!argv || !argv[0])
		return -1;
	if (str_eq(argv[0], "journalctl"))
		return journal(f, argv, out);
	if (!str_eq(argv[0], "systemctl") || json_is_false(json_object_get(f->script, "systemd")))
		return -1;
	parse(argv, &w);
	if (!w.verb || str_eq(w.verb, "list-units")) {
		list_units(f, &w, out);
		code = 0;
	} else if (str_eq(w.verb, "is-system-running")) {
		buf_printf(out, "%s\n", fake_text(f->script, "systemd") ?: "running");
		code = 0;
	} else if (str_eq(w.verb, "daemon-reload") || (str_eq(w.verb, "show") && !w.units)) {
		code = 0;
	} else if (strv_contains((char *const *)verbs, w.verb)) {
		code = 0;
		for (char **u = w.units; u && *u; u++) {
			int one = one_unit(f, &w, *u, out, err);

			code = one ? one : code;
		}
	} else {
		buf_printf(err, "Unknown command verb %s.\n", w.verb);
	}
	strv_free(w.options);
	strv_free(w.units);
	return code;
}
