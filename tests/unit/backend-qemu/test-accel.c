/* SPDX-License-Identifier: MIT */
/* The accelerator probe: judgements on findings, and what it says of this host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"
#include "loop/loop.h"
#include "machine/accel-guest.h"
#include "machine/accel-internal.h"

static void judge(const struct accel_findings *f, bool good, bool final, const char *want)
{
	struct accel_verdict v = {};

	assert_int_equal(accel_judge(f, &v), final);
	assert_int_equal(v.kvm, good);
	assert_true(v.timeout_scale == (good ? 1.0 : 4.0));
	assert_string_equal(v.reason, want);
}

static void test_judgements(void **state)
{
	struct accel_findings f = {.step = GUEST_STEP_DONE, .best_per_sec = 2.6e9, .ended = true};

	judge(&f, true, true,
	      "a test guest ran 64-bit kernel-mode code at 2600 million loop iterations a second");

	/* All instructions are there, and each of them takes a microsecond. */
	f.best_per_sec = 1.9e6;
	judge(&f, false, true,
	      "/dev/kvm emulates 64-bit kernel-mode code: 1.9 million loop iterations a second, "
	      "where hardware does hundreds");

	f = (struct accel_findings){.step = GUEST_STEP_CMPXCHG16B,
				    .best_per_sec = 2e6,
				    .ended = true,
				    .exit_reason = 17};
	judge(&f, false, true,
	      "/dev/kvm emulates 64-bit kernel-mode code (2.0 million loop iterations a second; "
	      "hardware does hundreds) and fails at cmpxchg16b");

	/* Fast, but an instruction does not do what it should. */
	f = (struct accel_findings){
		.step = GUEST_STEP_XSAVE, .best_per_sec = 2e9, .ended = true, .exit_reason = 2};
	judge(&f, false, true, "a test guest under /dev/kvm fails at xsave (KVM exit reason 2)");
}

static void test_no_final_judgement_on_a_busy_host(void **state)
{
	struct accel_findings f = {.step = GUEST_STEP_LOOP, .best_per_sec = 2e9};

	judge(&f, false, false,
	      "a test guest under /dev/kvm was still at a loop of 4 million iterations after 300 "
	      "ms");
	f = (struct accel_findings){};
	judge(&f, false, false,
	      "a test guest under /dev/kvm was still at its first instruction after 300 ms");
	f = (struct accel_findings){
		.failed_call = "KVM_CREATE_VM", .failed_errno = ENOMEM, .ended = true};
	judge(&f, false, false, "/dev/kvm opens, but KVM_CREATE_VM fails: Cannot allocate memory");
	f.failed_errno = ENOTTY;
	judge(&f, false, true,
	      "/dev/kvm opens, but KVM_CREATE_VM fails: Inappropriate ioctl for device");
}

/* --- The real one --------------------------------------------------------------------------- */

static char dir[] = "/tmp/assay-test-XXXXXX";

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	return setenv("XDG_RUNTIME_DIR", dir, 1);
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

/* Whatever this host is, the answer comes soon and has a reason. The deadline is 0.3 s; what is
 * above it is room for a busy host. */
static void test_this_host(void **state)
{
	struct accel_verdict v = {}, again = {};
	struct error err = {};
	uint64_t start = now_ns();

	assert_int_equal(accel_probe(&v, &err), 0);
	assert_true(now_ns() - start < 5 * NS_PER_SEC);
	assert_true(strlen(v.reason) > 0);
	print_message("kvm: %s (%s)\n", v.kvm ? "yes" : "no", v.reason);
	assert_int_equal(accel_probe(&again, &err), 0);
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		assert_false(v.kvm);
		assert_string_equal(again.reason, v.reason);
	}
}

static void put_cache(const char *path, const char *key)
{
	_cleanup_free_ char *text = xasprintf("%s\ntcg\nremembered\n", key);

	assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, NULL), 0);
}

/* A verdict of this boot is believed, one of another is not. */
static void test_the_cache_ends_with_the_boot(void **state)
{
	_cleanup_free_ char *path = path_join(dir, "assay/accel");
	_cleanup_buf_ struct buf key = {};
	struct accel_verdict v = {};

	/* Its first line, from a verdict of the probe's own (if this host was good for a final
	 * one). */
	if (!path_exists(path))
		skip();
	assert_int_equal(file_read(path, 4096, &key, NULL), 0);
	buf_truncate(&key, strcspn(key.data, "\n"));

	put_cache(path, key.data);
	assert_int_equal(accel_probe(&v, NULL), 0);
	assert_string_equal(v.reason, "remembered");

	key.data[5] = key.data[5] == '0' ? '1' : '0'; /* in the boot id */
	put_cache(path, key.data);
	assert_int_equal(accel_probe(&v, NULL), 0);
	assert_string_not_equal(v.reason, "remembered");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_judgements),
		cmocka_unit_test(test_no_final_judgement_on_a_busy_host),
		cmocka_unit_test(test_this_host),
		cmocka_unit_test(test_the_cache_ends_with_the_boot),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
