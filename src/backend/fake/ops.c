/* SPDX-License-Identifier: MIT */
/* What the fake agent's calls do, except for commands. */
#include <stdio.h>
#include <string.h>

#include "backend/fake/fake.h"
#include "base/str.h"
#include "loop/loop.h"
#include "proto/tree-wire.h"

/*
 * Waits look at the guest's state whenever anything in it changed, or at the moment at which it is
 * scripted to change by itself; errors have the words of the real agent, because what the Lua layer
 * does with them is tested here.
 */

/* --- waits --- */

/* Waits until check() says so: 1 true, 0 not yet, < 0 it has replied. What it writes to `seen` is
 * told when the host gives up. */
static void wait_for(struct fake_call *c, int (*check)(struct fake_call *c, void *what, char *seen),
		     void *what)
{
	char seen[256] = "";
	int r;

	while ((r = check(c, what, seen)) == 0) {
		if (fake_call_wait(c, guest_next_change(c->f)))
			continue;
		if (c->cancelled)
			fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s", seen);
		return;
	}
	if (r > 0)
		fake_call_reply(c, NULL);
}

struct unit_wait {
	const char *unit, *state;
};

static int check_unit(struct fake_call *c, void *what, char *seen)
{
	const struct unit_wait *w = what;
	struct fake_unit *u = guest_unit(c->f, w->unit);
	const char *state;

	if (!u) {
		fake_call_error(c, ERROR_EXPECT, ENOENT,
				"unit '%s%s' does not exist (LoadState=not-found)", w->unit,
				strchr(w->unit, '.') ? "" : ".service");
		return -ENOENT;
	}
	state = guest_unit_state(u);
	snprintf(seen, 256, "it is %s (%s)", state, u->sub);
	if (str_eq(state, w->state))
		return 1;
	if (str_eq(state, "failed")) {
		fake_call_error(c, ERROR_EXPECT, EIO, "unit '%s' failed (Result=%s)", u->name,
				u->result);
		return -EIO;
	}
	if (str_eq(state, "inactive") && !u->job) {
		/* A oneshot that has ended well was active. */
		if (str_eq(u->type, "oneshot") && str_eq(u->result, "success"))
			return 1;
		fake_call_error(c, ERROR_EXPECT, EIO,
				"unit '%s' is inactive (%s), and nothing is going to start it",
				u->name, u->sub);
		return -EIO;
	}
	return 0;
}

static bool need_systemd(struct fake_call *c)
{
	if (!json_is_false(json_object_get(c->f->script, "systemd")))
		return true;
	fake_call_error(c, ERROR_UNSUPPORTED, ENOTSUP, "PID 1 of this machine is not systemd");
	return false;
}

static void op_wait_unit(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *unit = wire_dup_str(in, TAG_UNIT, 255);
	_cleanup_free_ char *state = wire_dup_str(in, TAG_STATE, 64);
	struct unit_wait w = {.unit = unit ?: "", .state = state ?: "active"};

	if (need_systemd(c))
		wait_for(c, check_unit, &w);
}

static void op_wait_booted(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_buf_ struct buf fields = {};

	if (!need_systemd(c))
		return;
	wire_put_str(&fields, TAG_STATE, fake_text(c->f->script, "systemd") ?: "running");
	fake_call_reply(c, &fields);
}

struct socket_wait {
	uint32_t type, port, closed;
	const char *address;
};

static int check_socket(struct fake_call *c, void *what, char *seen)
{
	const struct socket_wait *w = what;
	bool open = w->type <= AGENT_SOCKET_UDP ? guest_port_is_open(c->f, w->port)
						: guest_list_has(c->f, "sockets", w->address);

	snprintf(seen, 256, "%s", open ? "it is open" : "Connection refused");
	return open == !w->closed;
}

static void op_wait_socket(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *address = wire_dup_str(in, TAG_ADDRESS, 4096);
	struct socket_wait w = {.address = address ?: ""};

	wire_get_u32(in, TAG_SOCKET_TYPE, &w.type);
	wire_get_u32(in, TAG_PORT, &w.port);
	wire_get_u32(in, TAG_NEGATED, &w.closed);
	wait_for(c, check_socket, &w);
}

struct file_wait {
	const char *pattern;
	uint32_t gone;
};

static int check_file(struct fake_call *c, void *what, char *seen)
{
	const struct file_wait *w = what;
	bool there = guest_file_matches(c->f, w->pattern);

	snprintf(seen, 256, "%s", there ? "it is there" : "it does not exist");
	return there == !w->gone;
}

static void op_wait_file(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *pattern = wire_dup_str(in, TAG_PATH, 4096);
	struct file_wait w = {.pattern = pattern ?: ""};

	wire_get_u32(in, TAG_NEGATED, &w.gone);
	wait_for(c, check_file, &w);
}

static int check_mount(struct fake_call *c, void *what, char *seen)
{
	snprintf(seen, 256, "nothing is mounted there");
	return str_eq(what, "/") || guest_list_has(c->f, "mounts", what);
}

static void op_wait_mount(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *path = wire_dup_str(in, TAG_PATH, 4096);

	wait_for(c, check_mount, path ?: (char[]){""});
}

static void op_wait_process(struct fake_call *c, const struct wire_fields *in)
{
	json_t *list = json_object_get(c->f->script, "processes"), *v;
	size_t i;

	(void)!fake_call_write(c, WIRE_STREAM_OUT, "/sbin/init", sizeof("/sbin/init"));
	json_array_foreach(list, i, v)
	{
		const char *line = json_string_value(v) ?: "";

		if (!fake_call_write(c, WIRE_STREAM_OUT, line, strlen(line) + 1))
			break;
	}
	while (fake_call_wait(c, NS_FOREVER))
		; /* the host looks at them; no more will come */
	if (c->cancelled)
		fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT,
				"it is none of the %zu processes there", json_array_size(list) + 1);
}

/* --- files --- */

static void op_read_file(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *path = wire_dup_str(in, TAG_PATH, 4096);
	struct fake_file *file = guest_file(c->f, path ?: "");
	_cleanup_buf_ struct buf copy = {};

	if (!file || file->is_dir) {
		fake_call_error(c, ERROR_EXPECT, file ? EISDIR : ENOENT, "cannot open '%s': %s",
				path ?: "", strerror(file ? EISDIR : ENOENT));
		return;
	}
	buf_append(&copy, file->data.data, file->data.len);
	if (fake_call_write(c, WIRE_STREAM_OUT, copy.data, copy.len)) {
		_cleanup_buf_ struct buf fields = {};

		wire_put_u32(&fields, TAG_EXIT_CODE, 0);
		fake_call_reply(c, &fields);
	} else if (c->cancelled) {
		fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "killed");
	}
}

static void op_write_file(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *path = wire_dup_str(in, TAG_PATH, 4096);
	_cleanup_buf_ struct buf data = {}, fields = {};
	struct fake_file *file;
	uint32_t mode = 0;

	while (fake_call_read(c, &data))
		;
	if (c->gone || c->cancelled) {
		fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "killed");
		return;
	}
	file = guest_file_make(c->f, path ?: "");
	buf_done(&file->data);
	file->data = data;
	data = (struct buf){};
	if (wire_get_u32(in, TAG_MODE, &mode) && mode)
		file->mode = mode;
	wire_put_u32(&fields, TAG_EXIT_CODE, 0);
	fake_call_reply(c, &fields);
}

/* --- trees --- */

/* Where the decoder is: the path of the entry that is being read. */
struct unpack {
	struct fake *f;
	char *dir;  /* the open directory's path */
	char *file; /* the open file's */
	unsigned depth;
};

static char *child_path(const struct unpack *u, const char *name)
{
	return *name ? xasprintf("%s/%s", u->dir, name) : xstrdup(u->dir);
}

static void unpack_entry(struct unpack *u, const struct tree_entry *e)
{
	char *path;
	struct fake_file *file;

	if (e->type == TREE_UP) {
		char *slash = strrchr(u->dir, '/');

		if (--u->depth > 0 && slash)
			*slash = '\0';
		return;
	}
	path = child_path(u, e->name);
	file = guest_file_make(u->f, path);
	file->mode = e->mode;
	file->is_dir = e->type == TREE_DIR;
	if (e->type == TREE_DIR) {
		u->depth++;
		free(u->dir);
		u->dir = path;
		return;
	}
	buf_truncate(&file->data, 0);
	if (e->type == TREE_SYMLINK)
		file->target = xstrdup(e->target);
	free(u->file);
	u->file = path;
}

static void unpack_data(struct unpack *u, uint64_t end, const uint8_t *data, size_t len)
{
	struct fake_file *file = guest_file(u->f, u->file);

	while (file->data.len < end) /* a hole */
		buf_putc(&file->data, 0);
	buf_append(&file->data, data, len);
}

static void op_copy_in(struct fake_call *c, const struct wire_fields *in)
{
	struct unpack u = {.f = c->f, .dir = wire_dup_str(in, TAG_PATH, 4096)};
	struct tree_decoder *d = xcalloc(1, sizeof(*d));
	_cleanup_buf_ struct buf data = {};
	struct tree_item item;
	int r = 0;

	while (r >= 0 && u.dir && fake_call_read(c, &data)) {
		const uint8_t *p = (const uint8_t *)data.data;
		size_t left = data.len;

		while ((r = tree_decode(d, &p, &left, &item)) > 0) {
			if (item.record == TREE_RECORD_ENTRY)
				unpack_entry(&u, &item.entry);
			else if (item.record == TREE_RECORD_DATA)
				unpack_data(&u, item.offset, item.data, item.len);
			else if (item.record == TREE_RECORD_END_FILE)
				unpack_data(&u, item.size, NULL, 0);
		}
		buf_truncate(&data, 0);
	}
	if (!d->finished)
		fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "the tree was not complete");
	else
		fake_call_reply(c, NULL);
	free(d);
	free(u.dir);
	free(u.file);
}

static void encode_file(struct buf *out, const struct fake_file *file, const char *name)
{
	struct tree_entry e = {
		.type = file->target ? TREE_SYMLINK : TREE_FILE,
		.mode = (uint16_t)file->mode,
		.size = file->data.len,
		.name = name,
		.target = file->target,
	};

	tree_encode_entry(out, &e);
	if (file->target)
		return;
	for (size_t at = 0; at < file->data.len; at += 64 * KIB)
		tree_encode_data(out, at, file->data.data + at,
				 MIN(file->data.len - at, (size_t)(64 * KIB)));
	tree_encode_end_file(out, file->data.len);
}

/* Folders exist by what is in them; each level is found by looking through all paths. */
static uint64_t encode_dir(struct fake *f, struct buf *out, const char *path, const char *name)
{
	struct tree_entry up = {.type = TREE_UP, .name = ""};
	struct tree_entry e = {.type = TREE_DIR, .mode = 0755, .name = name};
	char **done = NULL;
	uint64_t n = 1;
	size_t len = strlen(path);

	tree_encode_entry(out, &e);
	for (size_t i = 0; i < f->guest.n_files; i++) {
		const struct fake_file *file = &f->guest.files[i];
		const char *rest = file->path + len + 1, *slash;
		char *child, *full;

		if (!str_starts(file->path, path) || file->path[len] != '/')
			continue;
		slash = strchr(rest, '/');
		child = slash ? xstrndup(rest, (size_t)(slash - rest)) : xstrdup(rest);
		if (!strv_contains(done, child)) {
			strv_push(&done, child);
			full = xasprintf("%s/%s", path, child);
			if (slash || file->is_dir) {
				n += encode_dir(f, out, full, child);
			} else {
				encode_file(out, file, child);
				n++;
			}
			free(full);
		}
		free(child);
	}
	strv_free(done);
	tree_encode_entry(out, &up);
	return n;
}

static void op_copy_out(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_free_ char *path = wire_dup_str(in, TAG_PATH, 4096) ?: xstrdup("");
	struct fake_file *file = guest_file(c->f, path);
	_cleanup_buf_ struct buf out = {};
	uint64_t n = 1;

	if (!file && !guest_file_matches(c->f, path)) {
		fake_call_error(c, ERROR_EXPECT, ENOENT, "cannot open '%s': %s", path,
				strerror(ENOENT));
		return;
	}
	tree_encode_start(&out);
	if (file && !file->is_dir)
		encode_file(&out, file, "");
	else
		n = encode_dir(c->f, &out, path, "");
	tree_encode_finish(&out, n);
	if (fake_call_write(c, WIRE_STREAM_OUT, out.data, out.len))
		fake_call_reply(c, NULL);
	else if (c->cancelled)
		fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "the tree was not complete");
}

/* --- power, clock --- */

static void op_power(struct fake_call *c, const struct wire_fields *in)
{
	struct fake *f = c->f;
	char how[16];

	wire_copy_str(in, TAG_HOW, how, sizeof(how));
	fake_call_reply(c, NULL);
	fake_later(f, str_eq(how, "reboot") ? fake_init_reboot : fake_init_poweroff);
}

static void op_set_clock(struct fake_call *c, const struct wire_fields *in)
{
	_cleanup_buf_ struct buf b = {};

	wire_put_u64(&b, TAG_DELTA_NS, 0);
	fake_call_reply(c, &b);
}

static void op_ping(struct fake_call *c, const struct wire_fields *in)
{
	fake_call_reply(c, NULL);
}

static const struct {
	enum wire_op op;
	void (*run)(struct fake_call *c, const struct wire_fields *in);
} ops[] = {
	{WIRE_OP_PING, op_ping},
	{WIRE_OP_EXEC, fake_exec},
	{WIRE_OP_READ_FILE, op_read_file},
	{WIRE_OP_WRITE_FILE, op_write_file},
	{WIRE_OP_POWER, op_power},
	{WIRE_OP_SET_CLOCK, op_set_clock},
	{WIRE_OP_WAIT_UNIT, op_wait_unit},
	{WIRE_OP_WAIT_BOOTED, op_wait_booted},
	{WIRE_OP_WAIT_SOCKET, op_wait_socket},
	{WIRE_OP_WAIT_FILE, op_wait_file},
	{WIRE_OP_WAIT_MOUNT, op_wait_mount},
	{WIRE_OP_WAIT_PROCESS, op_wait_process},
	{WIRE_OP_COPY_IN, op_copy_in},
	{WIRE_OP_COPY_OUT, op_copy_out},
};

void fake_op_run(struct fake_call *c, const struct wire_fields *in)
{
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (ops[i].op != c->op)
			continue;
		ops[i].run(c, in);
		/* An operation that gave up because of a signal, or the like, must not leave the
		 * host waiting. */
		if (!c->gone)
			fake_call_error(c, ERROR_TIMEOUT, ETIMEDOUT, "given up");
		return;
	}
	fake_call_error(c, ERROR_UNSUPPORTED, EOPNOTSUPP, "the agent does not know this operation");
}
