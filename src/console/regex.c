/* SPDX-License-Identifier: MIT */
/* PCRE2 with our options: multi-line, UTF-8 that may be broken, and limits on what a match costs.
 */
#include "console/regex-internal.h"

#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "loop/loop.h"

/*
 * Limits. A pattern comes from a test file and may be as bad as (a+)+$. PCRE2's own limit counts
 * the steps of a match from *one* starting position and starts anew at the next, so that \w+x
 * on a megabyte of word characters is quadratic and never hits it. Hence a search is cut into
 * slices of starting positions (PCRE2_USE_OFFSET_LIMIT), and the clock is looked at between two of
 * them. The first slice is short enough for the worst pattern; as long as slices turn out cheap
 * (most patterns begin with a literal, and the search is a memchr) each is longer than the one
 * before.
 */
#define MATCH_LIMIT    10000000
#define HEAP_LIMIT_KIB (64 * 1024)
#define SEARCH_MAX_NS  (10 * NS_PER_SEC)
#define SLICE_WORK     (64 * MIB) /* the first slice: start positions × text to look at */
#define SLICE_CHEAP_NS (4 * NS_PER_MS)
#define BYTE_CHEAP_NS  2 /* for each byte of the text: it is scanned, perhaps checked, each time */

static int compile(const char *pattern, uint32_t options, pcre2_code **ret, struct error *err)
{
	PCRE2_UCHAR why[160];
	PCRE2_SIZE offset;
	int code;

	*ret = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
			     PCRE2_MULTILINE | PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT | options, &code,
			     &offset, NULL);
	if (*ret)
		return 0;
	pcre2_get_error_message(code, why, sizeof(why));
	return error_set(err, ERROR_USAGE, EINVAL,
			 "regular expression '%.200s' is wrong at character %zu: %s", pattern,
			 offset + 1, (const char *)why);
}

int regex_compile(const char *pattern, struct regex **ret, struct error *err)
{
	struct regex *re = xcalloc(1, sizeof(*re));
	uint32_t lookbehind = 0;
	int r;

	re->pattern = xstrdup(pattern);
	r = compile(pattern, PCRE2_MATCH_INVALID_UTF, &re->code, err);
	if (r < 0) {
		regex_free(re);
		return r;
	}
	re->data = pcre2_match_data_create_from_pattern(re->code, NULL);
	re->context = pcre2_match_context_create(NULL);
	if (!re->data || !re->context)
		abort();
	pcre2_set_match_limit(re->context, MATCH_LIMIT);
	pcre2_set_heap_limit(re->context, HEAP_LIMIT_KIB);
	pcre2_pattern_info(re->code, PCRE2_INFO_MAXLOOKBEHIND, &lookbehind);
	re->lookbehind_bytes =
		(lookbehind + 1) * 4; /* characters; UTF-8 has at most 4 bytes each */
	*ret = re;
	return 0;
}

void regex_free(struct regex *re)
{
	if (!re)
		return;
	pcre2_match_data_free(re->data);
	pcre2_match_context_free(re->context);
	pcre2_code_free(re->code);
	pcre2_code_free(re->stream_code);
	free(re->pattern);
	free(re);
}

/* {"0": whole, "1": …, "name": …}; groups that took no part are absent. */
static json_t *captures(const struct regex *re, const char *text, int n)
{
	const PCRE2_SIZE *o = pcre2_get_ovector_pointer(re->data);
	json_t *ret = json_object();
	uint32_t count = 0, size = 0;
	PCRE2_SPTR table = NULL;

	for (int i = 0; i < n; i++) {
		char key[16];

		if (o[2 * i] == PCRE2_UNSET || o[2 * i + 1] < o[2 * i])
			continue;
		snprintf(key, sizeof(key), "%d", i);
		json_object_set_new(ret, key,
				    json_stringn_nocheck(text + o[2 * i], o[2 * i + 1] - o[2 * i]));
	}
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMECOUNT, &count);
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMEENTRYSIZE, &size);
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMETABLE, &table);
	/* An entry: the group's number in two bytes, the name, a NUL. */
	for (uint32_t i = 0; i < count; i++, table += size) {
		int group = table[0] << 8 | table[1];
		char key[16];
		json_t *value;

		snprintf(key, sizeof(key), "%d", group);
		value = json_object_get(ret, key);
		if (value)
			json_object_set(ret, (const char *)table + 2, value);
	}
	return ret;
}

static int fail(const struct regex *re, int code, size_t len, struct error *err)
{
	PCRE2_UCHAR why[160];

	if (code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_DEPTHLIMIT ||
	    code == PCRE2_ERROR_HEAPLIMIT) {
		error_set(err, ERROR_USAGE, ELOOP,
			  "regular expression '%.200s' needs too many steps on this text",
			  re->pattern);
		error_hint(err, "nested repetitions such as (a+)+ do that; say more precisely what "
				"may come in between");
		return -ELOOP;
	}
	pcre2_get_error_message(code, why, sizeof(why));
	return error_set(err, ERROR_BUG, EINVAL, "PCRE2 fails for '%.200s' on %zu bytes: %s",
			 re->pattern, len, (const char *)why);
}

void regex_pace_begin(struct regex_pace *p, size_t len)
{
	p->slice = SLICE_WORK / (len + 1) + 1;
	p->cheap_ns = SLICE_CHEAP_NS + len * BYTE_CHEAP_NS;
}

void regex_pace_step(struct regex_pace *p, uint64_t took_ns)
{
	if (took_ns < p->cheap_ns && p->slice < SIZE_MAX / 8)
		p->slice *= 8;
	else if (took_ns > 8 * p->cheap_ns && p->slice > 1)
		p->slice /= 2;
}

int regex_search(struct regex *re, enum regex_mode mode, const char *text, size_t len, size_t start,
		 size_t last_start, size_t *ret_start, size_t *ret_end, json_t **ret_captures,
		 struct error *err)
{
	pcre2_code *code = re->code;
	const PCRE2_SIZE *o;
	uint32_t options = 0;
	int n;

	assert(start <= len);
	if (mode == REGEX_STREAM_MORE || mode == REGEX_STREAM_NOW) {
		if (!re->stream_code) {
			int r = compile(re->pattern, 0, &re->stream_code, err);

			if (r < 0)
				return r;
		}
		code = re->stream_code;
		options = PCRE2_NO_UTF_CHECK;
	}
	if (mode == REGEX_STREAM_MORE || mode == REGEX_ANY_MORE)
		options |= PCRE2_PARTIAL_HARD;
	pcre2_set_offset_limit(re->context, last_start < len ? last_start : len);
	n = pcre2_match(code, (PCRE2_SPTR)text, len, start, options, re->data, re->context);
	if (n == PCRE2_ERROR_NOMATCH)
		return REGEX_NONE;
	if (n < 0 && n != PCRE2_ERROR_PARTIAL)
		return fail(re, n, len, err);
	o = pcre2_get_ovector_pointer(re->data);
	if (ret_start)
		*ret_start = o[0];
	if (ret_end)
		*ret_end = o[1];
	if (n == PCRE2_ERROR_PARTIAL)
		return REGEX_PARTIAL;
	if (ret_captures)
		*ret_captures = captures(re, text, n);
	return REGEX_FOUND;
}

/* Most texts are, and then nothing needs to be checked at every slice. */
static bool is_ascii(const char *text, size_t len)
{
	uint64_t word, bits = 0;

	for (; len >= sizeof(word); text += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, text, sizeof(word));
		bits |= word;
	}
	for (; len > 0; text++, len--)
		bits |= (uint8_t)*text;
	return (bits & 0x8080808080808080ULL) == 0;
}

/* All of a text in slices; as regex_search(). */
static int search_all(struct regex *re, enum regex_mode mode, const char *text, size_t len,
		      size_t start, size_t *ret_start, size_t *ret_end, json_t **ret_captures,
		      struct error *err)
{
	uint64_t now = now_ns(), give_up = now + SEARCH_MAX_NS;
	struct regex_pace pace;

	regex_pace_begin(&pace, len - start);
	for (;;) {
		size_t last = len - start > pace.slice ? start + pace.slice : len;
		uint64_t before = now;
		int r;

		r = regex_search(re, mode, text, len, start, last, ret_start, ret_end, ret_captures,
				 err);
		if (r != REGEX_NONE)
			return r;
		if (last >= len)
			return REGEX_NONE;
		now = now_ns();
		regex_pace_step(&pace, now - before);
		if (now > give_up) {
			error_set(err, ERROR_USAGE, ELOOP,
				  "regular expression '%.200s' was not through with %zu bytes of "
				  "text after %llu s",
				  re->pattern, len, SEARCH_MAX_NS / NS_PER_SEC);
			error_hint(err,
				   "a repetition at its beginning (\\w+…) does that on long lines");
			return -ELOOP;
		}
		start = last + 1;
		/* A start in the midst of a character is none. */
		while (start < len && ((unsigned char)text[start] & 0xC0) == 0x80)
			start++;
	}
}

int regex_match(struct regex *re, const char *text, size_t len, size_t start, size_t *ret_start,
		size_t *ret_end, json_t **ret_captures, struct error *err)
{
	enum regex_mode mode = REGEX_ANY_TEXT;

	if (start > len)
		return 0;
	if (is_ascii(text, len))
		mode = REGEX_STREAM_NOW;
	/* REGEX_FOUND is 1 */
	return search_all(re, mode, text, len, start, ret_start, ret_end, ret_captures, err);
}

/* Without the first bytes of a character whose others are still to come. */
static size_t whole_characters(const char *text, size_t len)
{
	for (size_t back = 1; back <= 3 && back <= len; back++) {
		unsigned char c = (unsigned char)text[len - back];
		size_t need = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;

		if ((c & 0xC0) != 0x80)
			return need > back ? len - back : len;
	}
	return len;
}

int regex_match_growing(struct regex *re, const char *text, size_t len, size_t *start,
			size_t *ret_end, json_t **ret_captures, struct error *err)
{
	size_t base = *start > re->lookbehind_bytes ? *start - re->lookbehind_bytes : 0;
	size_t from, whole, partial = 0, end = 0;
	enum regex_mode mode;
	int r;

	if (*start > len)
		return 0;
	/* Not in the midst of a character. What is before that is not looked at any more. */
	base = whole_characters(text, base);
	text += base;
	from = *start - base;
	mode = is_ascii(text, len - base) ? REGEX_STREAM_NOW : REGEX_ANY_TEXT;
	r = search_all(re, mode, text, len - base, from, NULL, &end, ret_captures, err);
	if (ret_end)
		*ret_end = base + end;
	if (r != REGEX_NONE)
		return r;
	whole = whole_characters(text, len - base);
	if (whole < from)
		return 0;
	mode = mode == REGEX_STREAM_NOW ? REGEX_STREAM_MORE : REGEX_ANY_MORE;
	r = search_all(re, mode, text, whole, from, &partial, NULL, NULL, err);
	if (r < 0)
		return r;
	*start = base + (r == REGEX_NONE ? whole : partial);
	return 0;
}
