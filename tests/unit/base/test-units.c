/* SPDX-License-Identifier: MIT */
/* Numbers, durations and sizes. */
#include <limits.h>

#include "base/str.h"
#include "unit-test.h"

static void parses_durations(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {
		{"250ms", 250 * NS_PER_MS},
		{"90s", 90 * NS_PER_SEC},
		{"5m", 300 * NS_PER_SEC},
		{"2h", 7200 * NS_PER_SEC},
		{"1d", 86400 * NS_PER_SEC},
		{"1.5", 1500 * NS_PER_MS},
		{"0", 0},
		{"0.25s", 250 * NS_PER_MS},
		{".5", 500 * NS_PER_MS},
		{"7us", 7000},
		{"1.5h", 5400 * NS_PER_SEC},
		{"0.000001", 1000},
	};
	static const char *const bad[] = {
		"",	      "s",    "-1", "1 s", "1x", "1.2.3", "1e3",
		"inf",	      "0x10", " 1", "1s ", ".",	 "ms",	  "99999999999999999999",
		"9999999999d"};
	uint64_t ns;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_duration(good[i].text, &ns), 0);
		assert_int_equal(ns, good[i].ns);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_duration(bad[i], &ns), -EINVAL);
	assert_int_equal(parse_duration(NULL, &ns), -EINVAL);
}

static void parses_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"512M", 512 * MIB},  {"1G", GIB},	     {"64K", 64 * KIB}, {"2T", 2048 * GIB},
		{"123", 123},	      {"512MiB", 512 * MIB}, {"1GB", GIB},	{"17B", 17},
		{"1.5G", 1536 * MIB}, {"2g", 2 * GIB},	     {"0.5K", 512},	{"0", 0},
	};
	static const char *const bad[] = {"", "M", "-1M", "1 M", "1X", "1Mi", "1.5", "1MB2", "1iB"};
	uint64_t bytes;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse_size(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_size(bad[i], &bytes), -EINVAL);
	assert_int_equal(parse_size("20000000T", &bytes), -ERANGE);
	assert_int_equal(parse_size("18446744073709551616", &bytes), -ERANGE);
	assert_int_equal(parse_size("18446744073709551615", &bytes), 0);
	assert_true(bytes == UINT64_MAX);
}

static void parses_integers(void **state)
{
	uint64_t u;
	int i;

	assert_int_equal(parse_u64("42", &u), 0);
	assert_int_equal(u, 42);
	assert_int_equal(parse_u64("-1", &u), -EINVAL);
	assert_int_equal(parse_u64("1.0", &u), -EINVAL);
	assert_int_equal(parse_u64("+1", &u), -EINVAL);
	assert_int_equal(parse_int("-2147483648", &i), 0);
	assert_int_equal(i, INT_MIN);
	assert_int_equal(parse_int("2147483647", &i), 0);
	assert_int_equal(i, INT_MAX);
	assert_int_equal(parse_int("2147483648", &i), -ERANGE);
	assert_int_equal(parse_int("-2147483649", &i), -ERANGE);
	assert_int_equal(parse_int("--1", &i), -EINVAL);
	assert_int_equal(parse_int("", &i), -EINVAL);
	assert_int_equal(parse_int(NULL, &i), -EINVAL);
}

static void formats_durations(void **state)
{
	static const struct {
		uint64_t ns;
		const char *text;
	} cases[] = {
		{0, "0 s"},
		{250, "250 ns"},
		{9474, "9.47 µs"},
		{300000, "0.3 ms"},
		{53 * NS_PER_MS, "53 ms"},
		{99600000, "100 ms"},
		{250 * NS_PER_MS, "0.25 s"},
		{5 * NS_PER_SEC, "5 s"},
		{5004 * NS_PER_MS, "5 s"},
		{9996 * NS_PER_MS, "10 s"},
		{12340 * NS_PER_MS, "12.3 s"},
		{59960 * NS_PER_MS, "1 min"},
		{60 * NS_PER_SEC, "1 min"},
		{200 * NS_PER_SEC, "3 min 20 s"},
		{3600 * NS_PER_SEC, "1 h"},
		{7500 * NS_PER_SEC, "2 h 5 min"},
		{90000 * NS_PER_SEC, "1 d 1 h"},
		{NS_FOREVER, "forever"},
		{NS_FOREVER - 1, "213503 d 23 h"},
	};
	char buf[FORMAT_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(format_duration(cases[i].ns, buf), cases[i].text);
}

static void formats_sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1 KiB"},
		{380 * KIB, "380 KiB"},
		{1288490189, "1.2 GiB"},
		{9 * MIB + 990 * KIB, "10 MiB"},
		{MIB - 1, "1 MiB"},
		{UINT64_MAX, "16 EiB"},
	};
	char buf[FORMAT_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(format_size(cases[i].bytes, buf), cases[i].text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_durations), cmocka_unit_test(parses_sizes),
		cmocka_unit_test(parses_integers),  cmocka_unit_test(formats_durations),
		cmocka_unit_test(formats_sizes),
	};

	return cmocka_run_group_tests_name("units", tests, NULL, NULL);
}
