/* SPDX-License-Identifier: MIT */
/* The console's log: a stamp for each line, and an end that is there however long it was. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "console/console-internal.h"
#include "fiber-test.h"

static char path[64];

static int setup(void **state)
{
	int fd;

	strcpy(path, "/tmp/assay-log-test-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	return unlink(path);
}

static struct log_file *start(uint64_t max)
{
	struct log_file *l = NULL;

	assert_int_equal(log_file_open(path, max, &l, NULL), 0);
	return l;
}

static void expect(const char *wanted)
{
	_cleanup_buf_ struct buf b = {};

	assert_int_equal(file_read(path, 64 * MIB, &b, NULL), 0);
	assert_string_equal(buf_str(&b), wanted);
}

static void each_line_has_a_stamp(void **state)
{
	struct log_file *l = start(MIB);

	log_file_feed(l, "one\r\ntw", 7, 1234567890);
	log_file_feed(l, "o\r\n", 3, 2 * NS_PER_SEC);
	log_file_feed(l, "\x1b[1mthree", 9, 100000 * NS_PER_SEC);
	log_file_close(l);
	expect("[    1.234] one\r\n[    1.234] two\r\n[100000.000] \x1b[1mthree");
}

static void notes_stand_on_lines_of_their_own(void **state)
{
	struct log_file *l = start(MIB);

	log_file_feed(l, "half", 4, 0);
	log_file_note(l, "--- power on ---", 0);
	log_file_feed(l, "new\n", 4, NS_PER_MS);
	log_file_close(l);
	expect("[    0.000] half\n[    0.000] --- power on ---\n[    0.001] new\n");
}

static void a_second_log_file_appends(void **state)
{
	struct log_file *l = start(MIB);

	log_file_feed(l, "one\n", 4, 0);
	log_file_close(l);
	l = start(MIB);
	log_file_feed(l, "two\n", 4, 0);
	log_file_close(l);
	expect("[    0.000] one\n[    0.000] two\n");
}

static void the_file_stays_bounded_and_keeps_both_ends(void **state)
{
	uint64_t max = 64 * KIB, lines = 20000;
	struct log_file *l = start(max);
	_cleanup_buf_ struct buf b = {}, text = {};
	unsigned long long told = 0, size = 0;
	const char *gap;

	for (uint64_t i = 0; i < lines; i++) {
		char line[32];
		struct stat st;

		snprintf(line, sizeof(line), "line %llu\n", (unsigned long long)i);
		log_file_feed(l, line, strlen(line), 0);
		size += strlen(line) + strlen("[    0.000] ");
		assert_int_equal(stat(path, &st), 0);
		assert_true((uint64_t)st.st_size <= max);
	}
	assert_int_equal(file_read(path, MIB, &b, NULL), 0);
	assert_true(str_starts(b.data, "[    0.000] line 0\n[    0.000] line 1\n"));
	assert_true(str_ends(b.data, "[    0.000] line 19998\n[    0.000] line 19999\n"));
	gap = strstr(b.data, "[   ......]");
	assert_non_null(gap);
	assert_int_equal(sscanf(gap, "[   ......] %llu bytes", &told), 1);
	assert_int_equal(told, log_file_dropped(l));
	/* Every byte is in the file or counted. The gap line is 73 bytes. */
	assert_int_equal(b.len - 73 + told, size);
	log_file_read_text(l, &text);
	assert_true(str_starts(text.data, "line 0\nline 1\n"));
	assert_true(str_ends(text.data, "line 19999\n"));
	log_file_close(l);
}

static void a_full_disk_loses_log_and_nothing_else(void **state)
{
	struct log_file *l = NULL;

	if (access("/dev/full", W_OK) < 0)
		skip();
	assert_int_equal(log_file_open("/dev/full", MIB, &l, NULL), 0);
	log_file_feed(l, "one\n", 4, 0);
	assert_true(log_file_dropped(l) > 0);
	log_file_close(l);
}

static void a_path_that_cannot_be_is_an_error(void **state)
{
	struct log_file *l = NULL;
	struct error err = {};

	assert_true(log_file_open("/nonexistent/x.log", MIB, &l, &err) < 0);
	assert_string_equal(err.message,
			    "cannot write '/nonexistent/x.log': No such file or directory");
	assert_int_equal(err.kind, ERROR_INFRA);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(each_line_has_a_stamp),
		T(notes_stand_on_lines_of_their_own),
		T(a_second_log_file_appends),
		T(the_file_stays_bounded_and_keeps_both_ends),
		T(a_full_disk_loses_log_and_nothing_else),
		T(a_path_that_cannot_be_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
