/* SPDX-License-Identifier: MIT */
/* What a person wants to know of each machine when a test has failed. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "report/text.h"
#include "runner/worker.h"

/*
 * Runs under a shield: the test's deadline is over, or its fiber may be cancelled while we ask.
 * All machines are asked side by side and share one grace deadline; what has not come by then is
 * left out and said so.
 */
#define GRACE_NS	   (10 * NS_PER_SEC)
#define CONSOLE_TAIL_LINES 40
#define JOURNAL_TAIL_LINES 30

static const char failed_units_script[] =
	"[ -d /run/systemd/system ] || exit 3\n"
	"systemctl list-units --failed --plain --no-legend --full --no-pager";
static const char journal_script[] = "journalctl -b --no-pager -o short-precise -n 5000";

struct diagnosis {
	struct worker *w;
	struct machine *machine;
	struct fiber *fiber;
	json_t *event;
};

static void note(struct diagnosis *d, const char *what, const struct error *err)
{
	_cleanup_free_ char *text = xasprintf("%s: %s", what, err->message);

	if (!json_object_get(d->event, "note"))
		json_object_set_new(d->event, "note", text_json(text));
}

/* 0 and the output, or -1 with a note. A guest without systemd is no reason for one. */
static int ask(struct diagnosis *d, struct agent *agent, const char *script, const char *what,
	       struct buf *ret)
{
	struct agent_command cmd = {.script = script, .plain_shell = true, .max_output = 8 * MIB};
	struct agent_result result = {};
	struct error err = {};
	int r;

	r = agent_run(agent, &cmd, GRACE_NS, &result, &err);
	if (r < 0)
		note(d, what, &err);
	else if (result.code != 0)
		r = -ENOENT;
	else
		buf_append(ret, buf_str(&result.out), result.out.len);
	agent_result_done(&result);
	return r;
}

/* "nginx.service loaded failed failed A high performance web server" → the first word. */
static json_t *first_words(const char *text)
{
	_cleanup_strv_ char **lines = strv_split(text, "\n");
	json_t *units = json_array();

	for (char **l = lines; l && *l; l++) {
		const char *word = *l + strspn(*l, " *");

		json_array_append_new(units, text_jsonn(word, strcspn(word, " ")));
	}
	return units;
}

static void set_tail(json_t *event, const char *key, const char *text, unsigned lines)
{
	const char *tail = text_last_lines(text, lines);

	if (*tail)
		json_object_set_new(event, key, text_json(tail));
}

static void add_journal(struct diagnosis *d, struct agent *agent)
{
	_cleanup_buf_ struct buf journal = {};
	_cleanup_free_ char *file = NULL, *path = NULL;
	struct error err = {};

	if (ask(d, agent, journal_script, "its journal could not be read", &journal) < 0)
		return;
	set_tail(d->event, "journal_tail", buf_str(&journal), JOURNAL_TAIL_LINES);
	file = xasprintf("journal-%s.txt", machine_name(d->machine));
	path = path_join(d->w->env.dir, file);
	if (file_write_atomic(path, buf_str(&journal), journal.len, 0644, &err) < 0)
		note(d, "its journal could not be written", &err);
	else
		json_object_set_new(d->event, "journal_file", json_string(file));
}

static int ask_guest(void *userdata)
{
	struct diagnosis *d = userdata;
	_cleanup_buf_ struct buf units = {};
	struct agent *agent;
	struct error err = {};

	if (machine_agent(d->machine, GRACE_NS, &agent, &err) < 0) {
		note(d, "its agent did not answer", &err);
		return 0;
	}
	if (ask(d, agent, failed_units_script, "systemd did not answer", &units) < 0)
		return 0;
	json_object_set_new(d->event, "failed_units", first_words(buf_str(&units)));
	add_journal(d, agent);
	return 0;
}

static void name_file(struct diagnosis *d, const char *key, const char *fmt)
{
	char file[300];
	_cleanup_free_ char *path = NULL;

	snprintf(file, sizeof(file), fmt, machine_name(d->machine));
	path = path_join(d->w->env.dir, file);
	if (path_exists(path))
		json_object_set_new(d->event, key, json_string(file));
}

/* What needs no answer from the guest. */
static void look_at(struct diagnosis *d)
{
	struct console *console = machine_console(d->machine);
	_cleanup_free_ char *tail = console ? console_tail(console, CONSOLE_TAIL_LINES) : NULL;

	d->event = json_pack("{s:s, s:s}", "machine", machine_name(d->machine), "state",
			     machine_state_name(machine_get_state(d->machine)));
	if (tail)
		set_tail(d->event, "console_tail", tail, CONSOLE_TAIL_LINES);
	name_file(d, "console_file", "console-%s.log");
	name_file(d, "vmm_file", "vmm-%s.txt");
}

void diagnose_machines(struct worker *w)
{
	struct diagnosis *all = xcalloc(w->n_machines + 1, sizeof(*all));
	struct fiber_shield shield;
	size_t n = 0;

	worker_phase(w, "diagnose", GRACE_NS);
	fiber_shield_enter(&shield, GRACE_NS);
	for (size_t i = 0; i < w->n_machines; i++) {
		struct diagnosis *d = &all[n];

		if (!w->machines[i].machine)
			continue;
		*d = (struct diagnosis){.w = w, .machine = w->machines[i].machine};
		look_at(d);
		/* One that is still starting has an agent that will not answer in time. */
		if (machine_get_state(d->machine) == MACHINE_UP && w->machines[i].spec->agent)
			fiber_start("diagnosis", ask_guest, d, &d->fiber);
		n++;
	}
	for (size_t i = 0; i < n; i++) {
		struct diagnosis *d = &all[i];

		if (d->fiber) {
			(void)fiber_join(d->fiber, GRACE_NS, NULL);
			fiber_stop(d->fiber);
			fiber_unref(d->fiber);
		}
		worker_emit(w, "diagnostic", TAKE_PTR(d->event));
	}
	fiber_shield_leave(&shield);
	free(all);
}
