/* SPDX-License-Identifier: MIT */
/* Typed reading of one option, with messages that say where it stands and what was found. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "machine/spec-internal.h"

/*
 * All messages have one shape: where (option, place in a list, machine), what is wanted, what was
 * found. A test file's author sees nothing else of this parser.
 */

/* "'cpus' of machine 'server'", "'size' of disks[2] of machine 'server'". */
static void ref_name(struct option_ref ref, char *buf, size_t len)
{
	if (ref.outer)
		snprintf(buf, len, "option '%s' in %s of machine '%s'", ref.name, ref.outer,
			 ref.machine);
	else
		snprintf(buf, len, "option '%s' of machine '%s'", ref.name, ref.machine);
}

int option_error(struct option_ref ref, struct error *err, const char *fmt, ...)
{
	char name[256];
	va_list ap;

	va_start(ap, fmt);
	error_setv(err, ERROR_USAGE, EINVAL, fmt, ap);
	va_end(ap);
	if (err) {
		_cleanup_free_ char *rest = xstrdup(err->message);

		ref_name(ref, name, sizeof(name));
		snprintf(err->message, sizeof(err->message), "%s %s", name, rest);
	}
	return -EINVAL;
}

/* What a person wrote, as he would call it. */
static void describe(json_t *found, char *buf, size_t len)
{
	switch (json_typeof(found)) {
	case JSON_STRING:
		snprintf(buf, len, "the string \"%.80s\"", json_string_value(found));
		break;
	case JSON_INTEGER:
		snprintf(buf, len, "the number %lld", (long long)json_integer_value(found));
		break;
	case JSON_REAL:
		snprintf(buf, len, "the number %g", json_real_value(found));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		snprintf(buf, len, "%s", json_is_true(found) ? "true" : "false");
		break;
	case JSON_NULL:
		snprintf(buf, len, "nil");
		break;
	case JSON_ARRAY:
		snprintf(buf, len, "a list");
		break;
	case JSON_OBJECT:
		snprintf(buf, len, "a table");
		break;
	}
}

int option_type_error(struct option_ref ref, const char *wanted, json_t *found, struct error *err)
{
	char what[128];

	describe(found, what, sizeof(what));
	return option_error(ref, err, "must be %s, not %s", wanted, what);
}

int option_check_keys(json_t *obj, const char *machine, const char *outer, const char *const *names,
		      struct error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach(obj, key, value)
	{
		const char *near;
		bool known = false;

		for (const char *const *n = names; *n && !known; n++)
			known = str_eq(*n, key);
		if (known)
			continue;
		error_set(err, ERROR_USAGE, EINVAL, "unknown option '%.80s' %s%s%smachine '%s'",
			  key, outer ? "in " : "of ", outer ?: "", outer ? " of " : "", machine);
		near = nearest_name(key, names);
		if (near) {
			error_hint(err, "did you mean '%s'?", near);
		} else {
			_cleanup_free_ char *all = strv_join((char *const *)names, ", ");

			error_hint(err, "the options are %s", all);
		}
		return -EINVAL;
	}
	return 0;
}

/* Numbers are accepted where text is. Returns malloc'd text, or NULL for another type. */
static char *as_text(json_t *v)
{
	if (json_is_string(v))
		return xstrdup(json_string_value(v));
	if (json_is_integer(v))
		return xasprintf("%lld", (long long)json_integer_value(v));
	if (json_is_real(v))
		return xasprintf("%.14g", json_real_value(v));
	return NULL;
}

int option_string(json_t *obj, struct option_ref ref, char **ret, struct error *err)
{
	json_t *v = json_object_get(obj, ref.name);
	char *text;

	if (!v)
		return 0;
	text = as_text(v);
	if (!text)
		return option_type_error(ref, "a string", v, err);
	if (!*text || (json_is_string(v) && strlen(text) != json_string_length(v))) {
		bool empty = !*text && json_string_length(v) == 0;

		free(text);
		return option_error(ref, err,
				    empty ? "must not be empty" : "must not hold a NUL byte");
	}
	free(*ret);
	*ret = text;
	return 0;
}

int option_bool(json_t *obj, struct option_ref ref, bool *ret, struct error *err)
{
	json_t *v = json_object_get(obj, ref.name);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return option_type_error(ref, "true or false", v, err);
	*ret = json_is_true(v);
	return 0;
}

int option_unsigned(json_t *obj, struct option_ref ref, uint64_t min, uint64_t max, uint64_t *ret,
		    struct error *err)
{
	json_t *v = json_object_get(obj, ref.name);
	char wanted[96];
	double d;

	if (!v)
		return 0;
	snprintf(wanted, sizeof(wanted), "a whole number from %llu to %llu",
		 (unsigned long long)min, (unsigned long long)max);
	if (!json_is_number(v))
		return option_type_error(ref, wanted, v, err);
	d = json_number_value(v);
	if (d != floor(d) || d < (double)min || d > (double)max)
		return option_type_error(ref, wanted, v, err);
	*ret = (uint64_t)d;
	return 0;
}

int option_size(json_t *obj, struct option_ref ref, uint64_t min, uint64_t *ret, struct error *err)
{
	json_t *v = json_object_get(obj, ref.name);
	_cleanup_free_ char *text = NULL;
	char least[FORMAT_MAX];
	uint64_t bytes;

	if (!v)
		return 0;
	text = as_text(v);
	if (!text || parse_size(text, &bytes) < 0)
		return option_type_error(ref, "a size such as \"512M\" or \"1G\"", v, err);
	if (bytes < min) {
		option_error(ref, err, "must be at least %s, not %s", format_size(min, least),
			     text);
		if (json_is_number(v))
			error_hint(err, "a bare number is bytes; write \"%sM\" for MiB", text);
		return -EINVAL;
	}
	*ret = bytes;
	return 0;
}

int option_strings(json_t *obj, struct option_ref ref, char ***ret, struct error *err)
{
	json_t *v = json_object_get(obj, ref.name), *item;
	_cleanup_strv_ char **list = NULL;
	size_t i;
	char *text;

	if (!v)
		return 0;
	text = as_text(v);
	if (text) {
		strv_push_take(&list, text);
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, item)
		{
			text = as_text(item);
			if (!text)
				return option_type_error(ref, "a list of strings", item, err);
			strv_push_take(&list, text);
		}
	} else if (!json_is_object(v) || json_object_size(v) > 0) {
		/* An empty Lua table may arrive as either. */
		return option_type_error(ref, "a list of strings", v, err);
	}
	strv_free(*ret);
	*ret = TAKE_PTR(list);
	return 0;
}

int option_string_map(json_t *obj, struct option_ref ref, json_t **ret, struct error *err)
{
	json_t *v = json_object_get(obj, ref.name), *item, *map;
	const char *key;

	if (!v || (json_is_array(v) && json_array_size(v) == 0))
		return 0;
	if (!json_is_object(v))
		return option_type_error(ref, "a table of names and texts", v, err);
	map = json_object();
	json_object_foreach(v, key, item)
	{
		_cleanup_free_ char *text = as_text(item);

		if (!text) {
			json_decref(map);
			return option_type_error(ref, "a table of names and texts", item, err);
		}
		json_object_set_new(map, key, json_string(text));
	}
	json_decref(*ret);
	*ret = map;
	return 0;
}
