/* SPDX-License-Identifier: MIT */
/* The runner's side of a worker that makes a template. */
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/internal.h"

/* Those that would count as the run's own. */
static bool is_for_reports(const char *type)
{
	return !str_eq(type, "error") && !str_eq(type, "warning");
}

struct making {
	struct talk talk;
	struct template_job *job;
	bool is_made;
};

static void on_event(struct talk *t, json_t *event)
{
	struct making *m = container_of(t, struct making, talk);
	struct template_job *j = m->job;
	const char *type;

	json_object_set_new(event, "file", json_string(j->file));
	json_object_set_new(event, "template", json_string(j->title));
	if (event_validate(event, NULL) < 0) {
		t->dropped++;
		return;
	}
	type = json_string_value(json_object_get(event, "type"));
	if (str_eq(type, "template-broken") && !j->broken) {
		j->broken = json_incref(event);
	} else if (str_eq(type, "template-made")) {
		m->is_made = true;
		j->error = json_incref(json_object_get(event, "error"));
	}
	collector_event(j->kept, event);
	if (!str_eq(type, "machine-console"))
		talk_write(t, event);
	if (is_for_reports(type))
		run_event(j->run, json_incref(event));
}

static void tell_leftovers(struct making *m)
{
	struct talk *t = &m->talk;
	uint64_t dropped = t->dropped + t->child.reader.dropped;
	json_t *event;

	if (t->child.tail.len > 0) {
		_cleanup_free_ char *text = text_plain(buf_str(&t->child.tail));

		event = event_new("output", run_seconds(t->run),
				  json_pack("{s:s, s:s}", "stream", "output", "text", text));
		on_event(t, event);
		json_decref(event);
	}
	if (dropped) {
		event = event_new("events-dropped", run_seconds(t->run),
				  json_pack("{s:I, s:s}", "count", (json_int_t)dropped, "reason",
					    "they were too long, malformed, or too many"));
		on_event(t, event);
		json_decref(event);
	}
}

void template_job_run(struct template_job *j)
{
	_cleanup_free_ char *name = xasprintf("worker of %s", j->title);
	struct making m = {.job = j};
	struct error failed = {}, err = {};

	m.talk = (struct talk){
		.run = j->run,
		.dir = path_join(j->run->dir, j->dir),
		.stops_early = true,
		.on_event = on_event,
	};
	(void)talk_run(&m.talk, name, j->message, &failed);
	if (!m.is_made && !j->broken) {
		talk_explain_end(&m.talk, &failed, &err);
		j->error = json_pack("{s:s, s:o, s:s}", "kind", error_kind_name(err.kind),
				     "message", text_json(err.message), "phase",
				     *m.talk.phase ? m.talk.phase : "load");
		if (err.hint[0])
			json_object_set_new(j->error, "hint", text_json(err.hint));
	}
	tell_leftovers(&m);
	talk_done(&m.talk);
}

void template_job_done(struct template_job *j)
{
	json_decref(j->message);
	json_decref(j->error);
	json_decref(j->broken);
}
