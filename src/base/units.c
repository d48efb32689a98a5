/* SPDX-License-Identifier: MIT */
/* Numbers, durations and sizes: from text and to text. Independent of the locale. */
#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

/*
 * Parses digits with an optional fraction and stores value * scale. *end is left behind the
 * number. What is finer than 1/scale is cut off. -EINVAL without a digit, -ERANGE if too large.
 */
static int parse_scaled(const char *s, size_t len, uint64_t scale, uint64_t *ret)
{
	uint64_t value = 0, frac = 0, place = scale;
	const char *end = s + len;
	bool digits = false;

	for (; s < end && isdigit((unsigned char)*s); s++, digits = true)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value))
			return -ERANGE;
	if (__builtin_mul_overflow(value, scale, &value))
		return -ERANGE;
	if (s < end && *s == '.') {
		uint64_t tens = 1, fraction = 0;

		for (s++; s < end && isdigit((unsigned char)*s); s++, digits = true) {
			if (tens >= 1000000) /* more digits than any unit here can show */
				continue;
			tens *= 10;
			fraction = fraction * 10 + (uint64_t)(*s - '0');
		}
		/* Largest place is 2^50 for sizes: split, so that the product fits. */
		frac = place / tens * fraction + place % tens * fraction / tens;
	}
	if (!digits || s != end)
		return -EINVAL;
	if (__builtin_add_overflow(value, frac, &value))
		return -ERANGE;
	*ret = value;
	return 0;
}

static size_t number_length(const char *s)
{
	return strspn(s, "0123456789.");
}

int parse_duration(const char *s, uint64_t *ret_ns)
{
	static const struct {
		const char *suffix;
		uint64_t ns;
	} units[] = {
		{"", NS_PER_SEC},	   {"ns", 1},
		{"us", NS_PER_US},	   {"ms", NS_PER_MS},
		{"s", NS_PER_SEC},	   {"m", 60 * NS_PER_SEC},
		{"min", 60 * NS_PER_SEC},  {"h", 3600 * NS_PER_SEC},
		{"d", 86400 * NS_PER_SEC},
	};
	size_t n;

	if (!s)
		return -EINVAL;
	n = number_length(s);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (strcmp(s + n, units[i].suffix) == 0)
			return parse_scaled(s, n, units[i].ns, ret_ns) < 0 ? -EINVAL : 0;
	return -EINVAL;
}

int parse_size(const char *s, uint64_t *ret_bytes)
{
	static const char letters[] = "KMGTP";
	uint64_t scale = 1;
	const char *unit, *letter;
	size_t n;

	if (!s)
		return -EINVAL;
	n = number_length(s);
	unit = s + n;
	letter = *unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;
	if (letter) {
		scale <<= 10 * (letter - letters + 1);
		unit++;
		if (strcmp(unit, "iB") == 0)
			unit += 2;
	}
	if (strcmp(unit, "B") == 0)
		unit++;
	if (*unit)
		return -EINVAL;
	/* Half a byte is no size. */
	if (!letter && memchr(s, '.', n))
		return -EINVAL;
	return parse_scaled(s, n, scale, ret_bytes);
}

int parse_u64(const char *s, uint64_t *ret)
{
	if (!s || !isdigit((unsigned char)*s) || strchr(s, '.'))
		return -EINVAL;
	return parse_scaled(s, strlen(s), 1, ret);
}

int parse_int(const char *s, int *ret)
{
	bool negative = s && *s == '-';
	uint64_t value;
	int r;

	if (!s)
		return -EINVAL;
	r = parse_u64(s + negative, &value);
	if (r < 0)
		return r;
	if (value > (uint64_t)INT_MAX + negative)
		return -ERANGE;
	*ret = negative ? (int)-(int64_t)value : (int)value;
	return 0;
}

/* A number of hundredths without trailing zeros. */
static char *format_hundredths(uint64_t hundredths, const char *unit, char buf[FORMAT_MAX])
{
	uint64_t whole = hundredths / 100;
	unsigned rest = (unsigned)(hundredths % 100);

	if (rest == 0)
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 " %s", whole, unit);
	else if (rest % 10 == 0)
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 ".%u %s", whole, rest / 10, unit);
	else
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 ".%02u %s", whole, rest, unit);
	return buf;
}

static char *format_pair(uint64_t a, const char *unit_a, uint64_t b, const char *unit_b,
			 char buf[FORMAT_MAX])
{
	if (b == 0)
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 " %s", a, unit_a);
	else
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 " %s %" PRIu64 " %s", a, unit_a, b,
			       unit_b);
	return buf;
}

char *format_duration(uint64_t ns, char buf[FORMAT_MAX])
{
	uint64_t hundredths, seconds;

	if (ns == NS_FOREVER) {
		(void)snprintf(buf, FORMAT_MAX, "forever");
		return buf;
	}
	if (ns == 0)
		return format_hundredths(0, "s", buf);
	if (ns < NS_PER_US) {
		(void)snprintf(buf, FORMAT_MAX, "%" PRIu64 " ns", ns);
		return buf;
	}
	if (ns < 10 * NS_PER_US) /* "9.47 µs" */
		return format_hundredths((ns + 5) / 10, "µs", buf);
	if (ns < 10 * NS_PER_MS) /* "0.3 ms" */
		return format_hundredths((ns + 5000) / 10000, "ms", buf);
	if (ns < 100 * NS_PER_MS) /* "53 ms" */
		return format_hundredths((ns + 500000) / NS_PER_MS * 100, "ms", buf);
	hundredths = ns / (10 * NS_PER_MS) + (ns % (10 * NS_PER_MS) >= 5 * NS_PER_MS);
	if (hundredths < 1000) /* "0.25 s" */
		return format_hundredths(hundredths, "s", buf);
	hundredths = (hundredths + 5) / 10 * 10;
	if (hundredths < 6000) /* "12.5 s" */
		return format_hundredths(hundredths, "s", buf);
	seconds = ns / NS_PER_SEC + (ns % NS_PER_SEC >= NS_PER_SEC / 2);
	if (seconds < 3600)
		return format_pair(seconds / 60, "min", seconds % 60, "s", buf);
	if (seconds < 86400)
		return format_pair(seconds / 3600, "h", seconds % 3600 / 60, "min", buf);
	return format_pair(seconds / 86400, "d", seconds % 86400 / 3600, "h", buf);
}

char *format_size(uint64_t bytes, char buf[FORMAT_MAX])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t unit = 0;
	double value = (double)bytes;

	/* 1023.5 would be printed as 1024 of the smaller unit. */
	while (value >= 1023.5 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	if (unit == 0 || value >= 9.95)
		(void)snprintf(buf, FORMAT_MAX, "%.0f %s", value, units[unit]);
	else
		return format_hundredths((uint64_t)(value * 10 + 0.5) * 10, units[unit], buf);
	return buf;
}
