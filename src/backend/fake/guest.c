/* SPDX-License-Identifier: MIT */
/* The state of a guest that is not there: files, units, ports. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "backend/fake/fake.h"
#include "base/str.h"
#include "loop/loop.h"

/* --- files --- */

struct fake_file *guest_file(struct fake *f, const char *path)
{
	for (size_t i = 0; i < f->guest.n_files; i++)
		if (str_eq(f->guest.files[i].path, path))
			return &f->guest.files[i];
	return NULL;
}

struct fake_file *guest_file_make(struct fake *f, const char *path)
{
	struct fake_guest *g = &f->guest;
	struct fake_file *file = guest_file(f, path);

	if (!file) {
		g->files = xrealloc(g->files, (g->n_files + 1) * sizeof(*g->files));
		file = &g->files[g->n_files++];
		*file = (struct fake_file){.path = xstrdup(path), .mode = 0644};
	}
	waiters_wake_all(&f->changed);
	return file;
}

static void file_done(struct fake_file *file)
{
	free(file->path);
	free(file->target);
	buf_done(&file->data);
}

bool guest_file_remove(struct fake *f, const char *path)
{
	struct fake_guest *g = &f->guest;
	size_t kept = 0, before = g->n_files, len = strlen(path);

	for (size_t i = 0; i < before; i++) {
		struct fake_file file = g->files[i];

		if (str_eq(file.path, path) ||
		    (str_starts(file.path, path) && file.path[len] == '/'))
			file_done(&file);
		else
			g->files[kept++] = file;
	}
	g->n_files = kept;
	waiters_wake_all(&f->changed);
	return kept < before;
}

bool guest_file_matches(struct fake *f, const char *pattern)
{
	for (size_t i = 0; i < f->guest.n_files; i++) {
		const char *path = f->guest.files[i].path;
		size_t len = strlen(pattern);

		if (fnmatch(pattern, path, FNM_PATHNAME) == 0)
			return true;
		/* A folder is there when something is in it. */
		if (str_starts(path, pattern) && path[len] == '/')
			return true;
	}
	return false;
}

/* --- units --- */

struct fake_unit *guest_unit(struct fake *f, const char *name)
{
	_cleanup_free_ char *full =
		strchr(name, '.') ? xstrdup(name) : xasprintf("%s.service", name);

	for (size_t i = 0; i < f->guest.n_units; i++)
		if (str_eq(f->guest.units[i].name, full))
			return &f->guest.units[i];
	return NULL;
}

const char *guest_unit_state(const struct fake_unit *u)
{
	return now_ns() < u->ready_ns ? "activating" : u->state;
}

static const char *default_sub(const char *state)
{
	if (str_eq(state, "active"))
		return "running";
	if (str_eq(state, "failed"))
		return "failed";
	return "dead";
}

static void set_unit(struct fake *f, const char *name, json_t *v)
{
	struct fake_guest *g = &f->guest;
	struct fake_unit *u = guest_unit(f, name);
	const char *state = json_is_string(v) ? json_string_value(v) : fake_text(v, "state");
	const char *text;

	if (!u) {
		g->units = xrealloc(g->units, (g->n_units + 1) * sizeof(*g->units));
		u = &g->units[g->n_units++];
		*u = (struct fake_unit){.name = strchr(name, '.') ? xstrdup(name)
								  : xasprintf("%s.service", name)};
		snprintf(u->type, sizeof(u->type), "simple");
	}
	snprintf(u->state, sizeof(u->state), "%s", state ?: "active");
	snprintf(u->sub, sizeof(u->sub), "%s", fake_text(v, "sub") ?: default_sub(u->state));
	text = fake_text(v, "result");
	snprintf(u->result, sizeof(u->result), "%s",
		 text ?: (str_eq(u->state, "failed") ? "exit-code" : "success"));
	if ((text = fake_text(v, "type")))
		snprintf(u->type, sizeof(u->type), "%s", text);
	u->job = json_is_true(json_object_get(v, "job"));
	u->ready_ns = 0;
	if (json_object_get(v, "after"))
		u->ready_ns = now_ns() + fake_time(v, "after", 0);
	if ((text = fake_text(v, "journal"))) {
		free(u->journal);
		u->journal = xstrdup(text);
	}
}

void guest_set_units(struct fake *f, json_t *units)
{
	const char *name;
	json_t *v;

	json_object_foreach(units, name, v) set_unit(f, name, v);
	waiters_wake_all(&f->changed);
}

/* --- ports, lists --- */

static struct fake_port *find_port(struct fake *f, unsigned port)
{
	for (size_t i = 0; i < f->guest.n_ports; i++)
		if (f->guest.ports[i].port == port)
			return &f->guest.ports[i];
	return NULL;
}

static void add_port(struct fake *f, unsigned port, uint64_t open_ns)
{
	struct fake_guest *g = &f->guest;
	struct fake_port *p = find_port(f, port);

	if (!p) {
		g->ports = xrealloc(g->ports, (g->n_ports + 1) * sizeof(*g->ports));
		p = &g->ports[g->n_ports++];
	}
	*p = (struct fake_port){.port = port, .open_ns = open_ns};
}

bool guest_port_is_open(struct fake *f, unsigned port)
{
	struct fake_port *p = find_port(f, port);

	return p && now_ns() >= p->open_ns;
}

void guest_port_set(struct fake *f, unsigned port, bool open)
{
	add_port(f, port, open ? 0 : NS_FOREVER);
	waiters_wake_all(&f->changed);
}

uint64_t guest_next_change(const struct fake *f)
{
	uint64_t now = now_ns(), next = NS_FOREVER;

	for (size_t i = 0; i < f->guest.n_units; i++)
		if (f->guest.units[i].ready_ns > now)
			next = MIN(next, f->guest.units[i].ready_ns);
	for (size_t i = 0; i < f->guest.n_ports; i++)
		if (f->guest.ports[i].open_ns > now)
			next = MIN(next, f->guest.ports[i].open_ns);
	return next;
}

bool guest_list_has(struct fake *f, const char *list, const char *what)
{
	json_t *v = json_object_get(f->script, list), *item;
	size_t i;

	json_array_foreach(v, i, item) if (str_eq(json_string_value(item), what)) return true;
	return false;
}

/* --- life --- */

void guest_init(struct fake *f)
{
	json_t *files = json_object_get(f->script, "files"), *v;
	const struct machine_spec *spec = f->vm.init.spec;
	const char *path;

	json_object_foreach(files, path, v) buf_append(
		&guest_file_make(f, path)->data, json_string_value(v) ?: "", json_string_length(v));
	/* Those of the definition are in the image of a real machine. */
	for (size_t i = 0; i < spec->n_files; i++)
		if (spec->files[i].text)
			buf_puts(&guest_file_make(f, spec->files[i].guest_path)->data,
				 spec->files[i].text);
	f->guest.runs = json_object();
}

static void clear_volatile(struct fake_guest *g)
{
	for (size_t i = 0; i < g->n_units; i++) {
		free(g->units[i].name);
		free(g->units[i].journal);
	}
	g->n_units = g->n_ports = 0;
}

void guest_boot(struct fake *f)
{
	json_t *ports = json_object_get(f->script, "ports"), *v;
	const char *key;
	size_t i;

	clear_volatile(&f->guest);
	guest_set_units(f, json_object_get(f->script, "units"));
	json_array_foreach(ports, i, v) add_port(f, (unsigned)json_integer_value(v), 0);
	json_object_foreach(ports, key, v)
		add_port(f, (unsigned)strtoul(key, NULL, 10), now_ns() + fake_time(ports, key, 0));
}

/* --- saved states --- */

static char *to_hex(const struct buf *b)
{
	struct buf hex = {};

	for (size_t i = 0; i < b->len; i++)
		buf_printf(&hex, "%02x", (uint8_t)b->data[i]);
	return hex.data ? buf_steal(&hex, NULL) : xstrdup("");
}

static int from_hex(const char *hex, struct buf *ret)
{
	unsigned byte;

	for (; *hex; hex += 2) {
		if (sscanf(hex, "%2x", &byte) != 1 || !hex[1])
			return -EINVAL;
		buf_putc(ret, (char)byte);
	}
	return 0;
}

json_t *guest_save_files(const struct fake *f)
{
	json_t *ret = json_array();

	for (size_t i = 0; i < f->guest.n_files; i++) {
		const struct fake_file *file = &f->guest.files[i];
		_cleanup_free_ char *data = to_hex(&file->data);

		json_array_append_new(ret, json_pack("{ss, ss, si, ss*, sb}", "path", file->path,
						     "data", data, "mode", (int)file->mode,
						     "target", file->target, "dir", file->is_dir));
	}
	return ret;
}

static void clear_files(struct fake_guest *g)
{
	for (size_t i = 0; i < g->n_files; i++)
		file_done(&g->files[i]);
	g->n_files = 0;
}

int guest_load_files(struct fake *f, json_t *files, struct error *err)
{
	json_t *v;
	size_t i;

	if (!json_is_array(files))
		return error_set(err, ERROR_INFRA, EBADMSG, "the fake disk is no list of files");
	clear_files(&f->guest);
	json_array_foreach(files, i, v)
	{
		struct fake_file *file = guest_file_make(f, fake_text(v, "path") ?: "?");

		file->mode = (mode_t)json_integer_value(json_object_get(v, "mode"));
		file->is_dir = json_is_true(json_object_get(v, "dir"));
		if (fake_text(v, "target"))
			file->target = xstrdup(fake_text(v, "target"));
		if (from_hex(fake_text(v, "data") ?: "", &file->data) < 0)
			return error_set(err, ERROR_INFRA, EBADMSG,
					 "the fake disk has a file that is torn");
	}
	return 0;
}

/* A moment as the time until it, for a clock that stands still meanwhile. */
static json_t *save_moment(uint64_t ns)
{
	uint64_t now = now_ns();

	return json_integer(ns == NS_FOREVER ? -1 : ns > now ? (json_int_t)(ns - now) : 0);
}

static uint64_t load_moment(json_t *v)
{
	json_int_t left = json_integer_value(v);

	return left < 0 ? NS_FOREVER : left == 0 ? 0 : now_ns() + (uint64_t)left;
}

json_t *guest_save_rest(const struct fake *f)
{
	json_t *units = json_array(), *ports = json_array();

	for (size_t i = 0; i < f->guest.n_units; i++) {
		const struct fake_unit *u = &f->guest.units[i];

		json_array_append_new(units, json_pack("{ss, ss, ss, ss, ss, so, sb, ss*}", "name",
						       u->name, "state", u->state, "sub", u->sub,
						       "result", u->result, "type", u->type,
						       "ready", save_moment(u->ready_ns), "job",
						       u->job, "journal", u->journal));
	}
	for (size_t i = 0; i < f->guest.n_ports; i++)
		json_array_append_new(ports, json_pack("[i, o]", (int)f->guest.ports[i].port,
						       save_moment(f->guest.ports[i].open_ns)));
	return json_pack("{so, so, so}", "units", units, "ports", ports, "runs",
			 json_deep_copy(f->guest.runs));
}

void guest_load_rest(struct fake *f, json_t *rest)
{
	json_t *runs = json_object_get(rest, "runs"), *v;
	size_t i;

	clear_volatile(&f->guest);
	json_array_foreach(json_object_get(rest, "units"), i, v)
	{
		struct fake_unit *u;

		set_unit(f, fake_text(v, "name") ?: "?", v);
		u = guest_unit(f, fake_text(v, "name") ?: "?");
		u->ready_ns = load_moment(json_object_get(v, "ready"));
	}
	json_array_foreach(json_object_get(rest, "ports"), i, v)
		add_port(f, (unsigned)json_integer_value(json_array_get(v, 0)),
			 load_moment(json_array_get(v, 1)));
	json_decref(f->guest.runs);
	f->guest.runs = json_is_object(runs) ? json_deep_copy(runs) : json_object();
}

void guest_done(struct fake *f)
{
	struct fake_guest *g = &f->guest;

	clear_files(g);
	clear_volatile(g);
	free(g->files);
	free(g->units);
	free(g->ports);
	json_decref(g->runs);
}
