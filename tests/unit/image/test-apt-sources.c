/* SPDX-License-Identifier: MIT */
/* Reading the host's apt sources, and choosing those for another suite. */
#include "image-test.h"

#include "image/apt-sources.h"

static const char DEB822[] = "# a comment\n"
			     "Types: deb deb-src\n"
			     "URIs: http://mirror.example.org/debian/\n"
			     "Suites: bookworm bookworm-updates\n"
			     "Components: main contrib\n"
			     "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
			     "\n"
			     "Types: deb\n"
			     "URIs: http://mirror.example.org/debian-security\n"
			     "Suites: bookworm-security\n"
			     "Components: main\n"
			     "\n"
			     "Types: deb\n"
			     "Enabled: no\n"
			     "URIs: http://off.example.org/debian\n"
			     "Suites: bookworm\n"
			     "Components: main\n"
			     "\n"
			     "Types: deb-src\n"
			     "URIs: http://src.example.org/debian\n"
			     "Suites: bookworm\n"
			     "Components: main\n";

static void deb822_is_read(void **state)
{
	_cleanup_apt_sources_ struct apt_sources s = {};

	apt_sources_parse_deb822(&s, DEB822);
	assert_int_equal(s.n, 3);
	assert_string_equal(s.items[0].uri, "http://mirror.example.org/debian");
	assert_string_equal(s.items[0].suite, "bookworm");
	assert_string_equal(s.items[0].components[1], "contrib");
	assert_string_equal(s.items[0].signed_by, "/usr/share/keyrings/debian-archive-keyring.gpg");
	assert_string_equal(s.items[1].suite, "bookworm-updates");
	assert_string_equal(s.items[2].suite, "bookworm-security");
	assert_null(s.items[2].signed_by);
}

static void inline_keys_are_kept(void **state)
{
	_cleanup_apt_sources_ struct apt_sources s = {};

	apt_sources_parse_deb822(&s, "Types: deb\nURIs: http://m/debian\nSuites: trixie\n"
				     "Components: main\nSigned-By:\n -----BEGIN PGP-----\n .\n mQ\n"
				     " -----END PGP-----\n");
	assert_int_equal(s.n, 1);
	assert_string_equal(s.items[0].signed_by, "-----BEGIN PGP-----\n\nmQ\n-----END PGP-----");
}

static void lines_are_read(void **state)
{
	_cleanup_apt_sources_ struct apt_sources s = {};

	apt_sources_parse_list(&s, "# deb http://no/debian bookworm main\n"
				   "deb-src http://no/debian bookworm main\n"
				   "  deb [ arch=amd64 signed-by=/k.gpg trusted=yes ] "
				   "http://a/debian bookworm main # why\n"
				   "deb http://b/debian bookworm-updates main contrib\r\n"
				   "deb http://flat/ ./\n"
				   "deb [arch=amd64 http://broken/debian bookworm main\n"
				   "deb\n");
	assert_int_equal(s.n, 2);
	assert_string_equal(s.items[0].uri, "http://a/debian");
	assert_string_equal(s.items[0].signed_by, "/k.gpg");
	assert_true(s.items[0].trusted);
	assert_int_equal(strv_len(s.items[0].components), 1);
	assert_string_equal(s.items[1].suite, "bookworm-updates");
	assert_int_equal(strv_len(s.items[1].components), 2);
}

static void check_format(const struct apt_sources *s, const char *keyring, const char *wanted)
{
	_cleanup_buf_ struct buf text = {};

	apt_sources_format(s, keyring, &text);
	assert_string_equal(buf_str(&text), wanted);
}

static void another_suite_comes_from_the_same_mirror(void **state)
{
	_cleanup_apt_sources_ struct apt_sources host = {}, s = {};

	apt_sources_parse_list(&host, "deb https://apt.example.com bookworm main\n");
	apt_sources_parse_deb822(&host, DEB822);
	apt_sources_for_suite(&host, "trixie", NULL, &s);
	check_format(&s, "/k.gpg",
		     "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
		     "http://mirror.example.org/debian trixie main\n"
		     "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
		     "http://mirror.example.org/debian trixie-updates main\n"
		     "deb [signed-by=/k.gpg] http://mirror.example.org/debian-security "
		     "trixie-security main\n");
}

/* A mirror without security support must not be asked for it. */
static void pockets_that_the_host_lacks_are_left_out(void **state)
{
	_cleanup_apt_sources_ struct apt_sources host = {}, s = {};

	apt_sources_parse_list(&host, "deb [trusted=yes] file:///srv/mirror stable main\n");
	apt_sources_for_suite(&host, "trixie", NULL, &s);
	check_format(&s, NULL, "deb [trusted=yes] file:///srv/mirror trixie main\n");
}

static void other_hosts_use_the_default(void **state)
{
	_cleanup_apt_sources_ struct apt_sources host = {}, s = {};

	apt_sources_parse_list(&host, "deb http://archive.ubuntu.com/ubuntu noble main\n");
	apt_sources_for_suite(&host, "bookworm", NULL, &s);
	check_format(&s, NULL,
		     "deb http://deb.debian.org/debian bookworm main\n"
		     "deb http://deb.debian.org/debian bookworm-updates main\n"
		     "deb http://deb.debian.org/debian-security bookworm-security main\n");
}

static void the_override_stands_alone(void **state)
{
	_cleanup_apt_sources_ struct apt_sources host = {}, s = {};

	apt_sources_parse_deb822(&host, DEB822);
	apt_sources_for_suite(&host, "trixie", "http://other/debian", &s);
	assert_int_equal(s.n, 1);
	assert_string_equal(s.items[0].uri, "http://other/debian");
	assert_string_equal(s.items[0].suite, "trixie");
}

static void guests_learn_no_secrets(void **state)
{
	_cleanup_apt_sources_ struct apt_sources s = {};
	_cleanup_buf_ struct buf text = {};

	apt_sources_parse_list(&s, "deb https://me:secret@m.example.org/debian trixie main\n"
				   "deb [signed-by=/home/me/key.gpg] http://localhost:3142/debian "
				   "trixie-updates main\n"
				   "deb file:///srv/debian-security trixie-security main\n");
	apt_sources_format_guest(&s, "/k.gpg", &text);
	assert_string_equal(buf_str(&text),
			    "deb [signed-by=/k.gpg] https://m.example.org/debian trixie main\n"
			    "deb [signed-by=/k.gpg] http://deb.debian.org/debian trixie-updates "
			    "main\n"
			    "deb [signed-by=/k.gpg] http://deb.debian.org/debian-security "
			    "trixie-security main\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deb822_is_read),
		cmocka_unit_test(inline_keys_are_kept),
		cmocka_unit_test(lines_are_read),
		cmocka_unit_test(another_suite_comes_from_the_same_mirror),
		cmocka_unit_test(pockets_that_the_host_lacks_are_left_out),
		cmocka_unit_test(other_hosts_use_the_default),
		cmocka_unit_test(the_override_stands_alone),
		cmocka_unit_test(guests_learn_no_secrets),
	};

	return cmocka_run_group_tests_name("image-apt-sources", tests, NULL, NULL);
}
