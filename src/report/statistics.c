/* SPDX-License-Identifier: MIT */
/* Numbers about samples: count, median, percentiles. */
#include <stdlib.h>

#include "base/str.h"
#include "report/event.h"

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
