/* SPDX-License-Identifier: MIT */
/* SHA-256 against the vectors that NIST publishes for FIPS 180-4. */
#include "base/file.h"
#include "unit-test.h"

static void check_digest(const void *data, size_t len, const char *wanted)
{
	char got[DIGEST_HEX_MAX];
	struct sha256 s;

	sha256_init(&s);
	sha256_update(&s, data, len);
	sha256_hex(&s, got);
	assert_string_equal(got, wanted);
}

static void known_vectors(void **state)
{
	check_digest("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	check_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	check_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
		     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void a_million_in_odd_pieces(void **state)
{
	char got[DIGEST_HEX_MAX], piece[997];
	size_t left = 1000000, n = 1;
	struct sha256 s;

	memset(piece, 'a', sizeof(piece));
	sha256_init(&s);
	while (left > 0) {
		n = MIN(left, n % sizeof(piece) + 1);
		sha256_update(&s, piece, n);
		left -= n;
	}
	sha256_hex(&s, got);
	assert_string_equal(got,
			    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Every length around the padding's border, at once and byte by byte. */
static void pieces_do_not_matter(void **state)
{
	char once[DIGEST_HEX_MAX], bytes[DIGEST_HEX_MAX], data[200];

	memset(data, 'q', sizeof(data));
	for (size_t len = 0; len <= sizeof(data); len++) {
		struct sha256 a, b;

		sha256_init(&a);
		sha256_update(&a, data, len);
		sha256_hex(&a, once);
		sha256_init(&b);
		for (size_t i = 0; i < len; i++)
			sha256_update(&b, data + i, 1);
		sha256_hex(&b, bytes);
		assert_string_equal(once, bytes);
	}
}

static void strings_have_borders(void **state)
{
	char x[DIGEST_HEX_MAX], y[DIGEST_HEX_MAX];
	struct sha256 a, b;

	sha256_init(&a);
	sha256_update_str(&a, "ab");
	sha256_update_str(&a, "c");
	sha256_hex(&a, x);
	sha256_init(&b);
	sha256_update_str(&b, "a");
	sha256_update_str(&b, "bc");
	sha256_hex(&b, y);
	assert_string_not_equal(x, y);
}

static void files(void **state)
{
	char got[DIGEST_HEX_MAX];
	struct error err = {};

	assert_int_equal(sha256_file("/dev/null", got, NULL), 0);
	assert_string_equal(got,
			    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_int_equal(sha256_file("/no/such", got, &err), -ENOENT);
	assert_string_equal(err.message, "cannot open '/no/such': No such file or directory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_vectors),
		cmocka_unit_test(a_million_in_odd_pieces),
		cmocka_unit_test(pieces_do_not_matter),
		cmocka_unit_test(strings_have_borders),
		cmocka_unit_test(files),
	};

	return cmocka_run_group_tests_name("sha256", tests, NULL, NULL);
}
