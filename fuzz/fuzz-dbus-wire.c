/* SPDX-License-Identifier: MIT */
/* Fuzzes the reading of D-Bus messages, and of what the agent takes from systemd's. */
#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "proto/dbus-wire.h"

/* Walks the whole body by its signature. */
static void skip_body(const struct dbus_message *m)
{
	const char *sig = m->signature;
	struct dbus_reader r;

	dbus_reader_init(&r, m);
	while (*sig && dbus_skip(&r, sig, &sig) == 0)
		assert(r.pos <= r.end);
}

/* As PropertiesChanged is read, whatever the signature says. */
static void read_properties(const struct dbus_message *m)
{
	const char *text, *name, *sig;
	struct dbus_reader r;
	size_t end;

	dbus_reader_init(&r, m);
	if (dbus_read_string(&r, &text) < 0 || dbus_read_array(&r, 8, &end) < 0)
		return;
	assert(strlen(text) < m->body_len);
	while (dbus_read_property(&r, end, &name, &sig) > 0) {
		uint64_t t;
		bool b;

		if (str_eq(sig, "s"))
			dbus_read_string(&r, &text);
		else if (str_eq(sig, "t"))
			dbus_read_u64(&r, &t);
		else if (str_eq(sig, "b"))
			dbus_read_bool(&r, &b);
		else if (dbus_skip(&r, sig, NULL) < 0)
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct dbus_message m;
	ssize_t n;

	while ((n = dbus_wire_parse(data, len, &m)) > 0) {
		assert((size_t)n <= len && m.body + m.body_len == data + n);
		skip_body(&m);
		read_properties(&m);
		data += n;
		len -= n;
	}
	return 0;
}
