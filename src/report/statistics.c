/* SPDX-License-Identifier: MIT */
/* Numbers about samples: count, median, percentiles; and how they look. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/str.h"
#include "report/reporters.h"
#include "report/text.h"

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Linear interpolation between the nearest ranks (type 7 of Hyndman and Fan, the usual one). */
static double quantile(const double *sorted, size_t n, double q)
{
	double position = q * (double)(n - 1);
	size_t i = (size_t)position;

	if (i + 1 >= n)
		return sorted[n - 1];
	return sorted[i] + (position - (double)i) * (sorted[i + 1] - sorted[i]);
}

void collect_statistics(json_t *samples, json_t *ret)
{
	size_t n = json_array_size(samples);
	_cleanup_free_ double *values = xcalloc(n + 1, sizeof(*values));

	json_object_set_new(ret, "n", json_integer((json_int_t)n));
	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		values[i] = json_number_value(json_array_get(samples, i));
	qsort(values, n, sizeof(*values), compare_doubles);
	json_object_set_new(ret, "median", json_real(quantile(values, n, 0.5)));
	json_object_set_new(ret, "p5", json_real(quantile(values, n, 0.05)));
	json_object_set_new(ret, "p95", json_real(quantile(values, n, 0.95)));
}

/* --- quantities --------------------------------------------------------------------------------
 */

/* Units of one kind, the smaller ones first; `size` in the kind's smallest. */
struct unit_step {
	const char *name;
	double size;
};
static const struct unit_step times[] = {{"ns", 1},	{"µs", 1e3},   {"ms", 1e6}, {"s", 1e9},
					 {"min", 60e9}, {"h", 3600e9}, {NULL, 0}};
static const struct unit_step sizes[] = {
	{"B", 1}, {"KiB", 1024.}, {"MiB", 1048576.}, {"GiB", 1073741824.}, {"TiB", 1099511627776.},
	{NULL, 0}};
static const struct unit_step *const kinds[] = {times, sizes};

/* What people write for a unit of ours. */
static const char *canonical_unit(const char *unit)
{
	static const char *const aliases[][2] = {{"us", "µs"},	 {"sec", "s"},	{"seconds", "s"},
						 {"bytes", "B"}, {"byte", "B"}, {"nsec", "ns"},
						 {"usec", "µs"}, {"msec", "ms"}};

	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		if (str_eq(unit, aliases[i][0]))
			return aliases[i][1];
	return unit;
}

/* Moves value to the largest unit that leaves it at 1 or above; the unit's own name if it is of no
 * kind known. */
static const char *scale_unit(double *value, const char *unit)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		for (const struct unit_step *own = kinds[i]; own->name; own++) {
			const struct unit_step *best = kinds[i];
			double smallest = *value * own->size;

			if (!str_eq(own->name, unit))
				continue;
			if (smallest == 0)
				return unit;
			for (const struct unit_step *s = kinds[i]; s->name; s++)
				if (fabs(smallest) >= s->size)
					best = s;
			*value = smallest / best->size;
			return best->name;
		}
	return unit;
}

char *report_quantity(double value, const char *unit, char buf[QUANTITY_MAX])
{
	const char *scaled = scale_unit(&value, canonical_unit(unit));
	_cleanup_free_ char *plain = text_plain(scaled);
	double size = fabs(value);
	/* Three digits that count; below a thousandth the exponent says more than zeros. */
	int digits = size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3;

	if (size < 1e15 && value == (double)(int64_t)value)
		digits = 0;
	snprintf(buf, QUANTITY_MAX, size > 0 && size < 0.001 ? "%.*e%s%s" : "%.*f%s%s", digits,
		 value, *plain ? " " : "", plain);
	return buf;
}
