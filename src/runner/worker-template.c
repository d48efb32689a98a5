/* SPDX-License-Identifier: MIT */
/* A worker's other job: makes a template, of a booted machine or of a group after its setup. */
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/str.h"
#include "loop/loop.h"
#include "machine/saved.h"
#include "machine/template.h"
#include "report/event.h"
#include "report/text.h"
#include "runner/worker.h"

/*
 * Theory of operation
 *
 *	boot	start the machine ─► until userspace has settled ─► save ─► commit
 *	setup	fork what has booted ─► call setup() ─► save all ─► commit
 *
 * Nothing is in the store before the commit, and until then the files have no names: a worker that
 * dies on the way leaves nothing.
 *
 * What a setup told on the way (log, metrics, subtests, artifacts) and what it returned is kept in
 * the template's notes, to be shown by runs that find it:
 *
 *	{ "value": what setup returned, "seconds":, "created": unix time,
 *	  "events": [ { "type":, … } ], "artifacts": [ { "path":, "data": hex, } ],
 *	  "files": script_files_read() }
 *
 * They are read before each fork, so they are bounded.
 */
#define SETTLE_TIMEOUT_NS   (60 * NS_PER_SEC)
#define IDLE_TIMEOUT_NS	    (5 * NS_PER_SEC)
#define SAVE_TIMEOUT_NS	    (120 * NS_PER_SEC)
#define EVENTS_MAX_BYTES    (256 * KIB)
#define ARTIFACT_MAX_BYTES  (64 * KIB)
#define ARTIFACTS_MAX_BYTES (256 * KIB)

struct making {
	struct worker *w;
	const char *phase; /* for the error */
	struct script_failure failure;
	struct fork_failure broken; /* of what it starts from */
	struct template template;
	uint64_t start_ns;
};

/* --- notes --------------------------------------------------------------------------------- */

static void on_told(struct worker *w, const char *type, json_t *fields)
{
	static const char *const kept[] = {
		"log", "metric", "subtest-start", "subtest-end", "artifact", "warning", NULL};
	json_t *events = json_object_get(w->notes, "events"), *event;
	size_t bytes;

	if (!strv_contains((char *const *)kept, type))
		return;
	event = json_copy(fields);
	json_object_set_new(event, "type", json_string(type));
	bytes = json_dumpb(event, NULL, 0, JSON_COMPACT);
	if (w->notes_bytes + bytes <= EVENTS_MAX_BYTES) {
		json_array_append(events, event);
		w->notes_bytes += bytes;
	} else if (w->notes_bytes <= EVENTS_MAX_BYTES) {
		w->notes_bytes = EVENTS_MAX_BYTES + 1;
		json_array_append_new(
			events, json_pack("{s:s, s:s}", "type", "warning", "message",
					  "the rest of what setup told was too much to be kept"));
	}
	json_decref(event);
}

static char *to_hex(const char *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	char *hex = xcalloc(2 * len + 1, 1);

	for (size_t i = 0; i < len; i++) {
		hex[2 * i] = digits[(unsigned char)data[i] >> 4];
		hex[2 * i + 1] = digits[data[i] & 15];
	}
	return hex;
}

/* Small files only; of the others the name must do. */
static void keep_artifact(struct worker *w, json_t *list, const char *relative, size_t *total)
{
	_cleanup_free_ char *path = path_join(w->env.dir, relative), *hex = NULL;
	_cleanup_buf_ struct buf data = {};
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (uint64_t)st.st_size > ARTIFACT_MAX_BYTES ||
	    *total + (size_t)st.st_size > ARTIFACTS_MAX_BYTES ||
	    file_read(path, ARTIFACT_MAX_BYTES, &data, NULL) < 0)
		return;
	*total += data.len;
	hex = to_hex(buf_str(&data), data.len);
	json_array_append_new(list, json_pack("{s:s, s:s}", "path", relative, "data", hex));
}

static void keep_artifacts(struct worker *w)
{
	json_t *list = json_array(), *event;
	size_t i, total = 0;

	json_array_foreach(json_object_get(w->notes, "events"), i, event)
	{
		const char *path = json_string_value(json_object_get(event, "path"));

		if (path && str_eq(json_string_value(json_object_get(event, "type")), "artifact"))
			keep_artifact(w, list, path, &total);
	}
	json_object_set_new(w->notes, "artifacts", list);
}

static void finish_notes(struct making *m)
{
	struct worker *w = m->w;

	json_object_set_new(w->notes, "created", json_integer((json_int_t)time(NULL)));
	json_object_set_new(w->notes, "seconds",
			    json_real((double)(now_ns() - m->start_ns) / (double)NS_PER_SEC));
	keep_artifacts(w);
	if (w->script)
		json_object_set_new(w->notes, "files", script_files_read(w->script));
}

/* --- saving -------------------------------------------------------------------------------- */

static bool was_started(const struct worker_machine *m)
{
	return m->was_started;
}

/* All at one instant: they may be in the middle of talking to each other. */
static int save_started(struct worker *w, struct error *err)
{
	_cleanup_free_ struct machine **machines = xcalloc(w->n_machines + 1, sizeof(*machines));
	_cleanup_free_ struct saved **saved = xcalloc(w->n_machines + 1, sizeof(*saved));
	size_t n = 0, k = 0;
	int r;

	for (size_t i = 0; i < w->n_machines; i++)
		if (was_started(&w->machines[i]))
			machines[n++] = w->machines[i].machine;
	r = machine_save_all(machines, n, false, worker_scaled(w, SAVE_TIMEOUT_NS), saved, err);
	for (size_t i = 0; i < w->n_machines && r == 0; i++)
		if (was_started(&w->machines[i]))
			w->machines[i].saved = saved[k++];
	return r;
}

static int save(struct making *m, struct error *err)
{
	struct worker *w = m->w;
	struct template *t = &m->template;
	int r;

	m->phase = "save";
	worker_phase(w, "save", worker_scaled(w, SAVE_TIMEOUT_NS));
	r = save_started(w, err);
	if (r < 0)
		return r;
	finish_notes(m);
	snprintf(t->key, sizeof(t->key), "%s", json_string_value(json_object_get(w->job, "key")));
	t->title = (char *)json_string_value(json_object_get(w->job, "title"));
	t->notes = w->notes;
	t->lock_fd = -EBADF;
	t->machines = xcalloc(w->n_machines + 1, sizeof(*t->machines));
	for (size_t i = 0; i < w->n_machines; i++)
		t->machines[t->n_machines++] = (struct template_machine){
			.name = w->machines[i].spec->name,
			.saved = w->machines[i].saved,
		};
	r = template_commit(t, err);
	free(t->machines);
	return r;
}

/* --- a machine that has booted ------------------------------------------------------------- */

/* Forks shall not all finish the same boot once more. One that never settles is taken as it is. */
static int settle_one(struct worker *w, struct worker_machine *m, struct error *err)
{
	struct error why = {};
	json_t *times = NULL;
	int r;

	r = machine_boot_times(m->machine, worker_scaled(w, SETTLE_TIMEOUT_NS), &times, &why);
	json_decref(times);
	if (r < 0 && why.kind != ERROR_TIMEOUT)
		return error_propagate(err, &why);
	return machine_wait_idle(m->machine, worker_scaled(w, IDLE_TIMEOUT_NS), err);
}

static int make_booted(struct making *m, struct error *err)
{
	static const struct machines_call call = {was_started, settle_one, "machines to settle"};
	struct worker *w = m->w;
	int r;

	m->phase = "boot";
	r = machines_make(w, err);
	if (r == 0)
		r = machines_boot(w, err);
	if (r == 0) {
		worker_phase(w, "settle", worker_scaled(w, SETTLE_TIMEOUT_NS));
		r = machines_each(w, &call, err);
	}
	return r < 0 ? r : save(m, err);
}

/* --- a group after its setup --------------------------------------------------------------- */

static int fork_and_load(struct making *m, struct error *err)
{
	struct worker *w = m->w;
	int r;

	m->phase = "fork";
	r = machines_make(w, err);
	if (r < 0)
		return r;
	r = fork_open(w, &m->broken);
	if (r < 0)
		return error_propagate(err, &m->broken.error);
	fork_prestart(w);
	m->phase = "load";
	r = worker_load(w, err);
	if (r == 0)
		r = machines_bind(w, err);
	if (r < 0)
		return r;
	m->phase = "fork";
	r = fork_restore(w, &m->broken);
	return r < 0 ? error_propagate(err, &m->broken.error) : 0;
}

static void warn_of_changes(struct worker *w, json_t *before)
{
	const char *group = json_string_value(json_object_get(w->job, "group"));
	json_t *after = script_visible_values(w->script, group), *names, *name;
	size_t i;

	names = script_values_changed(before, after);
	json_array_foreach(names, i, name)
	{
		_cleanup_free_ char *text = xasprintf(
			"setup changes %s, which tests do not see: it runs in another process",
			json_string_value(name));
		json_t *fields =
			json_pack("{s:o, s:s}", "message", text_json(text), "hint",
				  "what setup returns is given to each test as its argument");

		on_told(w, "warning", fields);
		worker_emit(w, "warning", fields);
	}
	json_decref(names);
	json_decref(after);
}

static int check_panics(struct worker *w, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < w->n_machines && r == 0; i++)
		r = machine_check_panic(w->machines[i].machine, err);
	return r;
}

static int make_prepared(struct making *m)
{
	struct worker *w = m->w;
	const char *group = json_string_value(json_object_get(w->job, "group"));
	json_t *before, *value = NULL;
	int r;

	r = fork_and_load(m, &m->failure.error);
	if (r < 0)
		return r;
	m->phase = "setup";
	before = script_visible_values(w->script, group);
	w->on_told = on_told;
	r = worker_setup(w, &value, &m->failure);
	w->on_told = NULL;
	if (r == 0)
		r = check_panics(w, &m->failure.error);
	if (r == 0) {
		script_end_test(w->script);
		warn_of_changes(w, before);
		json_object_set_new(w->notes, "value", value ? value : json_null());
		r = save(m, &m->failure.error);
	}
	json_decref(before);
	return r;
}

/* --- the whole ----------------------------------------------------------------------------- */

static int open_work_dirs(struct worker *w, char **ret_memory, char **ret_work, struct error *err)
{
	json_t *machines = json_object_get(w->job, "machines"), *json;
	uint64_t bytes = 0;
	size_t i;
	int r;

	json_array_foreach(machines, i, json)
	{
		struct machine_spec *spec = NULL;

		r = machine_spec_parse(json, &spec, err);
		if (r < 0)
			return r;
		bytes += spec->memory_bytes;
		machine_spec_free(spec);
	}
	r = template_work_dirs(bytes, ret_memory, ret_work, err);
	if (r == 0) {
		w->env.memory_dir = *ret_memory;
		w->env.work_dir = *ret_work;
	}
	return r;
}

static void tell(struct making *m, int r)
{
	struct worker *w = m->w;
	struct script_failure *f = &m->failure;
	json_t *fields = json_object();

	if (r < 0 && m->broken.key[0]) {
		fork_tell_broken(w, &m->broken);
		json_decref(fields);
		return;
	}
	if (r < 0) {
		if (f->error.kind != ERROR_CANCELLED &&
		    verdict_of_error(f->error.kind) != VERDICT_SKIPPED)
			diagnose_machines(w);
		json_object_set_new(fields, "error",
				    worker_error_json(&f->error, m->phase, f->detail, f->trace));
	}
	worker_emit(w, "template-made", fields);
}

void worker_template_job(struct worker *w)
{
	struct making m = {.w = w, .phase = "load", .start_ns = now_ns()};
	_cleanup_free_ char *memory_dir = NULL, *work_dir = NULL;
	int r;

	w->notes = json_pack("{s:[]}", "events");
	r = open_work_dirs(w, &memory_dir, &work_dir, &m.failure.error);
	if (r == 0) {
		bool booted = str_eq(json_string_value(json_object_get(w->job, "level")), "boot");

		r = booted ? make_booted(&m, &m.failure.error) : make_prepared(&m);
	}
	tell(&m, r);
	machines_end(w);
	fork_done(w);
	for (size_t i = 0; i < w->n_machines; i++)
		w->machines[i].saved = saved_unref(w->machines[i].saved);
	json_decref(TAKE_PTR(w->notes));
	script_failure_done(&m.failure);
	/* Borrowed from here. */
	w->env.memory_dir = w->env.work_dir = NULL;
}
