/* SPDX-License-Identifier: MIT */
/* What reports are told of templates: those that are made, those that were there. */
#include <string.h>

#include "base/str.h"
#include "report/text.h"
#include "runner/template-set.h"

const char *wanted_level(const struct wanted *w)
{
	return w->machine ? "boot" : "setup";
}

void report_start(struct template_set *s, const struct wanted *w, const char *dir)
{
	run_emit(s->run, "template-start",
		 json_pack("{s:s, s:o, s:s, s:s}", "file", s->job->tests[0].file->path, "name",
			   text_json(w->title), "level", wanted_level(w), "dir", dir));
}

static void tell_end(struct template_set *s, const struct wanted *w, bool cached, double seconds,
		     json_t *error, struct collector *kept, const char *dir)
{
	json_t *fields =
		json_pack("{s:s, s:o, s:s, s:b, s:f, s:s, s:O*, s:s*}", "file",
			  s->job->tests[0].file->path, "name", text_json(w->title), "level",
			  wanted_level(w), "cached", (int)cached, "seconds", seconds, "state",
			  error ? "failed" : "ready", "error", error, "dir", dir);

	collector_finish(kept, fields);
	run_emit(s->run, "template-end", fields);
}

void report_made(struct template_set *s, const struct wanted *w, const char *dir, uint64_t start_ns,
		 struct collector *kept, json_t *error)
{
	tell_end(s, w, false, (double)(now_ns() - start_ns) / (double)NS_PER_SEC, error, kept, dir);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False: it is none. */
static bool from_hex(const char *hex, struct buf *ret)
{
	for (; *hex; hex += 2) {
		int high = hex_digit(hex[0]), low = high < 0 ? -1 : hex_digit(hex[1]);

		if (low < 0)
			return false;
		buf_putc(ret, (char)(high << 4 | low));
	}
	return true;
}

/* A path in a folder of ours: what the store says is not believed. */
static bool is_inside(const char *path)
{
	_cleanup_strv_ char **parts = strv_split(path, "/");

	return *path && *path != '/' && !strv_contains(parts, "..");
}

/* The small files that setup left, into this run's report. */
static void write_artifacts(struct template_set *s, json_t *artifacts, const char *dir)
{
	json_t *artifact;
	size_t i;

	json_array_foreach(artifacts, i, artifact)
	{
		const char *path = json_string_value(json_object_get(artifact, "path"));
		const char *hex = json_string_value(json_object_get(artifact, "data"));
		_cleanup_free_ char *top = path_join(s->run->dir, dir), *file = NULL,
				    *parent = NULL;
		_cleanup_buf_ struct buf data = {};

		if (!path || !is_inside(path) || !hex || !from_hex(hex, &data))
			continue;
		file = path_join(top, path);
		parent = path_dirname(file);
		if (path_make_dirs(parent, 0755, NULL) == 0)
			(void)file_write_atomic(file, buf_str(&data), data.len, 0644, NULL);
	}
}

void report_found(struct template_set *s, const struct wanted *w, const struct template *t)
{
	json_t *event, *artifacts = json_object_get(t->notes, "artifacts");
	_cleanup_free_ char *dir = NULL;
	struct collector kept;
	size_t i;

	if (!s->run->templates_told)
		s->run->templates_told = json_object();
	if (json_object_get(s->run->templates_told, t->key))
		return;
	json_object_set_new(s->run->templates_told, t->key, json_true());
	collector_init(&kept);
	json_array_foreach(json_object_get(t->notes, "events"), i, event)
		collector_event(&kept, event);
	if (json_array_size(artifacts) > 0) {
		dir = outdir_test_name(s->run, s->job->tests[0].file, w->id, 0);
		write_artifacts(s, artifacts, dir);
	}
	tell_end(s, w, true, json_number_value(json_object_get(t->notes, "seconds")), NULL, &kept,
		 dir);
	collector_done(&kept);
}
