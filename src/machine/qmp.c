/* SPDX-License-Identifier: MIT */
/* The VMM's own words: commands, and events of which none is dropped. */
#include <stdio.h>

#include "base/str.h"
#include "machine/machine-internal.h"

int machine_qmp(struct machine *m, const char *command, json_t *args, uint64_t timeout_ns,
		json_t **ret, struct error *err)
{
	int r = machine_need_running(m, "asked by QMP", err);

	return r < 0 ? r : vm_qmp(m, command, args, timeout_ns, ret, err);
}

/* The first event from index *i on that fits; *i moves behind what was looked at. */
static json_t *find_event(struct machine *m, size_t *i, const char *name,
			  bool (*match)(json_t *data, void *userdata), void *userdata)
{
	/* match may call back into a script, and the machine be started anew meanwhile: the list is
	 * looked at afresh each time. */
	while (*i < json_array_size(m->events)) {
		json_t *e = json_array_get(m->events, (*i)++);
		bool fits = str_eq(json_string_value(json_object_get(e, "name")), name);

		json_incref(e);
		if (fits && match)
			fits = match(json_object_get(e, "data"), userdata);
		if (fits)
			return e;
		json_decref(e);
	}
	return NULL;
}

int machine_wait_qmp_event(struct machine *m, const char *name,
			   bool (*match)(json_t *data, void *userdata), void *userdata,
			   bool since_start, uint64_t timeout_ns, json_t **ret, struct error *err)
{
	uint64_t deadline = deadline_in(timeout_ns), epoch = m->epoch_ns;
	size_t i = since_start ? 0 : json_array_size(m->events);
	char what[160];
	json_t *found;
	int r;

	if (!(m->ops->caps() & MACHINE_CAP_QMP))
		return error_set(err, ERROR_UNSUPPORTED, EOPNOTSUPP,
				 "machine '%s': backend '%s' cannot speak QMP", m->spec->name,
				 m->ops->name);
	snprintf(what, sizeof(what), "the VMM's event %.60s of machine '%s'", name, m->spec->name);
	for (;;) {
		if (m->epoch_ns != epoch) { /* started anew: so is the list */
			epoch = m->epoch_ns;
			i = 0;
		}
		found = find_event(m, &i, name, match, userdata);
		if (found)
			break;
		if (m->state == MACHINE_CRASHED && !m->vmm_runs)
			return error_propagate(err, &m->crash);
		r = fiber_wait_until(&m->event_waiters, deadline, timeout_ns, what, err);
		if (r < 0)
			return r;
	}
	if (ret)
		*ret = found;
	else
		json_decref(found);
	return 0;
}
