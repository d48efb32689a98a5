/* SPDX-License-Identifier: MIT */
/* Where two declarations of one file differ, in a person's words. */
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "runner/worker.h"

#define VALUE_MAX 60

/* How an element of an array is named: "machine 'server'", else its number from 1. */
static char *element_name(const char *array, json_t *element, size_t i)
{
	const char *name = json_string_value(json_object_get(element, "name"));
	size_t len = strlen(array);

	if (len > 1 && array[len - 1] == 's')
		len--; /* "machines" → "machine" */
	if (name && *name)
		return xasprintf("%.*s '%s'", (int)len, array, name);
	if (name && str_eq(array, "groups"))
		return xstrdup("the top level");
	return xasprintf("%.*s %zu", (int)len, array, i + 1);
}

static char *value_text(json_t *value)
{
	char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (text && strlen(text) > VALUE_MAX)
		memcpy(text + VALUE_MAX - 3, "...", 4);
	return text ? text : xstrdup("nothing");
}

static json_t *find_named(json_t *array, const char *name)
{
	json_t *element;
	size_t i;

	json_array_foreach(array, i,
			   element) if (str_eq(json_string_value(json_object_get(element, "name")),
					       name)) return element;
	return NULL;
}

static bool find_difference(json_t *was, json_t *now, const char *key, struct buf *ret);

static bool missing_element(json_t *from, json_t *in, const char *key, const char *what,
			    struct buf *ret)
{
	json_t *element;
	size_t i;

	json_array_foreach(from, i, element)
	{
		const char *name = json_string_value(json_object_get(element, "name"));
		_cleanup_free_ char *text = NULL;

		if (!name || find_named(in, name))
			continue;
		text = element_name(key, element, i);
		buf_printf(ret, "%s %s", text, what);
		return true;
	}
	return false;
}

static bool array_difference(json_t *was, json_t *now, const char *key, struct buf *ret)
{
	json_t *element;
	size_t i;

	if (missing_element(was, now, key, "is gone", ret) ||
	    missing_element(now, was, key, "is new", ret))
		return true;
	if (json_array_size(was) != json_array_size(now)) {
		buf_printf(ret, "%s: %zu instead of %zu", key, json_array_size(now),
			   json_array_size(was));
		return true;
	}
	json_array_foreach(was, i, element)
	{
		_cleanup_free_ char *text = element_name(key, element, i);

		if (json_equal(element, json_array_get(now, i)))
			continue;
		buf_printf(ret, "%s: ", text);
		return find_difference(element, json_array_get(now, i), key, ret);
	}
	return false;
}

static bool object_difference(json_t *was, json_t *now, struct buf *ret)
{
	const char *key;
	json_t *value;

	json_object_foreach(now, key, value) if (!json_object_get(was, key))
	{
		_cleanup_free_ char *text = value_text(value);

		buf_printf(ret, "%s is %s and was not given", key, text);
		return true;
	}
	json_object_foreach(was, key, value)
	{
		json_t *other = json_object_get(now, key);

		if (json_equal(value, other))
			continue;
		if (!json_is_array(value) && json_is_object(value) && other)
			buf_printf(ret, "%s: ", key);
		return find_difference(value, other, key, ret);
	}
	return false;
}

/* Appends where the first difference is; false if there is none. */
static bool find_difference(json_t *was, json_t *now, const char *key, struct buf *ret)
{
	_cleanup_free_ char *old = NULL, *new = NULL;

	if (json_equal(was, now))
		return false;
	if (json_is_object(was) && json_is_object(now))
		return object_difference(was, now, ret);
	if (json_is_array(was) && json_is_array(now))
		return array_difference(was, now, key, ret);
	old = value_text(was);
	new = value_text(now);
	buf_printf(ret, "%s is %s and was %s", key, new, old);
	return true;
}

int declarations_compare(json_t *planned, json_t *now, struct error *err)
{
	_cleanup_buf_ struct buf where = {};
	const char *file = json_string_value(json_object_get(planned, "file"));
	int r;

	if (!find_difference(planned, now, "file", &where))
		return 0;
	r = error_set(err, ERROR_USAGE, ESTALE,
		      "'%s' does not declare what it declared when the run was planned: %s",
		      file ? file : "the file", buf_str(&where));
	error_hint(err,
		   "either it was changed in between, or what it declares depends on something "
		   "other than params");
	return r;
}
