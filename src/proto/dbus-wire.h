/* SPDX-License-Identifier: MIT */
/* The D-Bus message format, as far as a client of systemd needs it: calls out, anything in. */
#pragma once

#include "base/buf.h"
#include "base/util.h"

/*
 * Source: D-Bus Specification 0.43, "Message Protocol". Pure: bytes in, messages out. Both byte
 * orders are read, little endian is written.
 *
 * Nothing is copied: strings point into the bytes that were given, and are NUL-terminated there
 * (the format has the NUL on the wire; it is checked).
 */

/* The format allows 128 MiB; nothing that systemd sends to us comes near this. */
#define DBUS_WIRE_MESSAGE_MAX (4 * MIB)
#define DBUS_WIRE_DEPTH_MAX   64 /* of nested containers, as the specification has it */

enum dbus_type {
	DBUS_METHOD_CALL = 1,
	DBUS_METHOD_RETURN = 2,
	DBUS_ERROR = 3,
	DBUS_SIGNAL = 4,
};

struct dbus_message {
	enum dbus_type type;
	bool big_endian;
	uint32_t serial;
	uint32_t reply_serial;					     /* 0: none */
	const char *path, *interface, *member, *error_name, *sender; /* NULL: absent */
	const char *signature;					     /* "" when absent */
	const uint8_t *body;
	size_t body_len;
};

/*
 * Takes one message from the front of data. Returns its length in bytes, 0 if more bytes are
 * needed, -EBADMSG if it is no message, -EMSGSIZE if it is larger than DBUS_WIRE_MESSAGE_MAX.
 * ret is filled only for a positive result and lives as long as data does.
 */
ssize_t dbus_wire_parse(const void *data, size_t len, struct dbus_message *ret);

/*
 * Appends a method call whose arguments are strings: a signature of 's', 'o', and "as", which is an
 * array of a single one here. One string for each 's' and 'o'.
 */
void dbus_wire_call(struct buf *out, uint32_t serial, const char *path, const char *interface,
		    const char *member, const char *signature, const char *const *args);

/* --- reading a body ------------------------------------------------------------------------ */

/* A cursor in marshalled values. After the first error every call returns that error again. */
struct dbus_reader {
	const uint8_t *data; /* start of the body: alignment counts from here */
	size_t pos, end;
	bool big_endian;
	int error; /* 0 or -EBADMSG */
};

void dbus_reader_init(struct dbus_reader *r, const struct dbus_message *m);
/* Each returns 0, or -EBADMSG for bytes that are not such a value. */
int dbus_read_u32(struct dbus_reader *r, uint32_t *ret);
int dbus_read_u64(struct dbus_reader *r, uint64_t *ret);
int dbus_read_bool(struct dbus_reader *r, bool *ret);
/* Type 's' or 'o'. */
int dbus_read_string(struct dbus_reader *r, const char **ret);
/* Type 'g'; a variant's value follows its signature. */
int dbus_read_signature(struct dbus_reader *r, const char **ret);
/* Opens an array: ret_end is where it ends; its elements are read until r->pos is there. */
int dbus_read_array(struct dbus_reader *r, size_t element_align, size_t *ret_end);
/* To the start of a struct or a dict entry. */
int dbus_read_struct(struct dbus_reader *r);
/* Skips one value of the single complete type at signature; ret_rest points behind that type. */
int dbus_skip(struct dbus_reader *r, const char *signature, const char **ret_rest);

/*
 * One entry of a dictionary a{sv}. Returns 1 with the key, the variant's signature and the cursor
 * at its value, which the caller reads or skips with dbus_skip(); 0 at the end (found by
 * dbus_read_array(r, 8, &end)).
 */
int dbus_read_property(struct dbus_reader *r, size_t end, const char **ret_name,
		       const char **ret_signature);
