/* SPDX-License-Identifier: MIT */
/* Machines saved and restored: what comes back, what is told, what is refused. */
#include <dirent.h>
#include <fcntl.h>

#include "machine-test.h"
#include "machine/saved.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

static void write_file(struct rig *rig, const char *path, const char *text)
{
	struct agent *agent;

	check_ok(machine_agent(rig->m, SOON, &agent, &why));
	check_ok(agent_write_file(agent, path, text, strlen(text), 0, NULL, SOON, &why));
}

static void check_file(struct rig *rig, const char *path, const char *text)
{
	_cleanup_buf_ struct buf b = {};
	struct agent *agent;

	check_ok(machine_agent(rig->m, SOON, &agent, &why));
	check_ok(agent_read_file(agent, path, 100, SOON, &b, &why));
	check_str(buf_str(&b), text);
}

static double boot_time(struct rig *rig, const char *key)
{
	json_t *times = NULL;
	double ret;

	check_ok(machine_boot_times(rig->m, SOON, &times, &why));
	ret = json_number_value(json_object_get(times, key));
	json_decref(times);
	return ret;
}

#define EXEC                                                                                       \
	"'fake': {'boot_text': 'booted', 'exec': {'say': {'console': 'said\\n'}, 'count': "        \
	"{'answers': [{'code': 1}, {'code': 2}, {'code': 3}]}}}"

FIBER_TEST(what_was_saved_comes_back_any_number_of_times)
{
	_cleanup_saved_ struct saved *one = NULL;
	_cleanup_saved_ struct saved *two = NULL;
	RIG(rig, EXEC);

	write_file(&rig, "/n", "1");
	check(run(&rig, "count", SOON, NULL) == 1);
	check_ok(machine_save(rig.m, true, SOON, &one, &why));
	check_state(&rig, MACHINE_UP);
	check(one->memory_fd < 0 && one->devices_fd >= 0);
	write_file(&rig, "/n", "2");
	check(run(&rig, "count", SOON, NULL) == 2);
	check_ok(machine_save(rig.m, true, SOON, &two, &why));
	write_file(&rig, "/n", "3");
	for (int i = 0; i < 2; i++) {
		check_ok(machine_restore(rig.m, one, NULL, SOON, &why));
		check_file(&rig, "/n", "1");
		check(run(&rig, "count", SOON, NULL) == 2);
		check_ok(machine_restore(rig.m, two, NULL, SOON, &why));
		check_file(&rig, "/n", "2");
		check(run(&rig, "count", SOON, NULL) == 3);
	}
	check_ok(machine_unplug(rig.m, &why));
	check_file(&rig, "/n", "2"); /* the disk, over a power cycle */
	check_str(buf_str(&rig.events),
		  "starting up off starting up <restored> off starting up <restored> off starting "
		  "up <restored> off starting up <restored> off starting up ");
}

FIBER_TEST(a_template_and_its_forks)
{
	struct machine_start_opts savable = {.savable = true};
	struct machine_restore_opts own_id = {.machine_id = "0123456789abcdef0123456789abcdef"};
	_cleanup_saved_ struct saved *s = NULL;
	RIG(rig, EXEC);
	RIG(fork, EXEC);

	check_ok(machine_start(rig.m, &savable, SOON, &why));
	write_file(&rig, "/n", "1");
	check_ok(machine_save(rig.m, false, SOON, &s, &why));
	check_state(&rig, MACHINE_OFF);
	check(s->memory_fd >= 0);
	check_ok(machine_restore(fork.m, s, NULL, SOON, &why));
	check_file(&fork, "/n", "1");
	write_file(&fork, "/n", "2");
	check_ok(machine_restore(rig.m, s, &own_id, SOON, &why));
	check_file(&rig, "/n", "1");
	check_file(&rig, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
	check_str(buf_str(&fork.events), "starting up <restored> ");
}

/* As if the boot had been this machine's own. */
FIBER_TEST(the_templates_past_is_the_forks_own)
{
	_cleanup_saved_ struct saved *s = NULL;
	_cleanup_free_ char *text = NULL;
	json_t *found = NULL;
	RIG(rig, EXEC);
	RIG(fork, EXEC);

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check(boot_time(&rig, "total") > 0 && boot_time(&rig, "fork") == 0);
	check_ok(console_wait_text(machine_console(rig.m), "booted", false, SOON, NULL, &why));
	check_ok(run(&rig, "say", SOON, &why));
	check_ok(machine_pause(rig.m, &why));
	check_ok(machine_continue(rig.m, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(run(&rig, "say", SOON, &why)); /* no longer of the past */

	check_ok(machine_restore(fork.m, s, NULL, SOON, &why));
	check(boot_time(&fork, "total") == boot_time(&rig, "total"));
	check(boot_time(&fork, "fork") > 0);
	text = console_text(machine_console(fork.m));
	check_str(text, "bootedsaid\n");
	/* What a wait has passed by stays behind it; from the boot on it is there. */
	check_fails(
		console_wait_text(machine_console(fork.m), "booted", false, 10 * MS, NULL, &why),
		ERROR_TIMEOUT,
		"timed out after 10 ms waiting for console text that matches 'booted'; the "
		"console's last lines:\nbootedsaid");
	check_ok(console_wait_text(machine_console(fork.m), "said", false, SOON, NULL, &why));
	check_ok(console_wait_text(machine_console(fork.m), "booted", true, SOON, NULL, &why));
	check_ok(machine_wait_qmp_event(fork.m, "RESUME", NULL, NULL, true, SOON, &found, &why));
	json_decref(found);
	/* A boot that was met is not waited for. */
	check_fails(machine_wait_boot(fork.m, 10 * MS, &why), ERROR_TIMEOUT,
		    "timed out after 10 ms waiting for the agent of machine 'web'; it still runs "
		    "what it ran before");
	check_ok(machine_reboot(fork.m, SOON, &why));
	check(boot_time(&fork, "fork") == 0);
}

FIBER_TEST(a_restored_machine_reboots_and_resets)
{
	_cleanup_saved_ struct saved *s = NULL;
	RIG(rig, EXEC);

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(machine_reset(rig.m, &why)); /* of the boot that is restored */
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_ok(machine_reset(rig.m, &why));
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	check_ok(run(&rig, "true", SOON, &why));
}

struct sleeper {
	struct rig *rig;
	struct error err;
};

static int sleeper_main(void *userdata)
{
	struct sleeper *s = userdata;

	return run(s->rig, "sleep 100", 200 * NS_PER_SEC, &s->err);
}

FIBER_TEST(calls_rest_while_it_is_saved_and_end_when_it_is_restored)
{
	_cleanup_saved_ struct saved *s = NULL;
	struct agent *before;
	struct fiber *fiber;
	RIG(rig, EXEC);
	struct sleeper sleeper = {.rig = &rig};

	check_ok(machine_agent(rig.m, SOON, &before, &why));
	fiber_start("sleeper", sleeper_main, &sleeper, &fiber);
	check_ok(fiber_sleep(5 * MS, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(fiber_sleep(5 * MS, &why));
	check(!fiber_is_done(fiber));
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
	check_ok(fiber_join(fiber, SOON, &why));
	check(fiber_result(fiber) < 0);
	check_str(sleeper.err.message, "machine 'web' was restored");
	check_fails(agent_ping(before, SOON, &why), ERROR_CRASH, "machine 'web' was restored");
	fiber_unref(fiber);
}

FIBER_TEST(off_is_a_state_too)
{
	_cleanup_saved_ struct saved *never = NULL;
	_cleanup_saved_ struct saved *off = NULL;
	_cleanup_saved_ struct saved *again = NULL;
	RIG(rig, EXEC);

	check_ok(machine_save(rig.m, true, SOON, &never, &why));
	write_file(&rig, "/n", "1");
	check_ok(machine_shutdown(rig.m, SOON, &why));
	check_ok(machine_save(rig.m, true, SOON, &off, &why));
	check(off->devices_fd < 0);
	write_file(&rig, "/n", "2");
	check_ok(machine_restore(rig.m, off, NULL, SOON, &why));
	check_state(&rig, MACHINE_OFF);
	check_ok(machine_save(rig.m, true, SOON, &again, &why));
	check_file(&rig, "/n", "1");
	check_ok(machine_restore(rig.m, again, NULL, SOON, &why));
	check_file(&rig, "/n", "1");
	check_ok(machine_restore(rig.m, never, NULL, SOON, &why));
	check(run(&rig, "cat /n", SOON, NULL) == 1);
}

FIBER_TEST(a_machine_without_an_agent)
{
	_cleanup_saved_ struct saved *s = NULL;
	RIG(rig, "'agent': false, 'fake': {'boot_text': 'hello'}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(console_wait_text(machine_console(rig.m), "hello", false, SOON, NULL, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_ok(console_wait_text(machine_console(rig.m), "hello", true, SOON, NULL, &why));
}

FIBER_TEST(not_now)
{
	struct machine_start_opts no_wait = {.no_wait = true};
	struct saved *s = NULL;
	RIG(rig, "'fake': {'boot_delay': 0.05}");

	check_ok(machine_start(rig.m, &no_wait, SOON, &why));
	check_fails(machine_save(rig.m, true, SOON, &s, &why), ERROR_USAGE,
		    "machine 'web' boots, and cannot be saved now");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_pause(rig.m, &why));
	check_fails(machine_save(rig.m, true, SOON, &s, &why), ERROR_USAGE,
		    "machine 'web' is paused");
	check_ok(machine_continue(rig.m, &why));
	check(run(&rig, "true", SOON, NULL) == 0);
	check_ok(machine_unplug(rig.m, &why));
	check(!s);
}

FIBER_TEST(it_cannot_be_saved_and_goes_on)
{
	struct saved *s = NULL;
	RIG(rig, "'fake': {'save_fails': 'no room'}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_fails(machine_save(rig.m, true, SOON, &s, &why), ERROR_INFRA,
		    "machine 'web': the fake VMM cannot save: no room");
	check_state(&rig, MACHINE_UP);
	check_ok(run(&rig, "true", SOON, &why));
	check_fails(machine_save(rig.m, false, SOON, &s, &why), ERROR_INFRA,
		    "machine 'web': the fake VMM cannot save: no room");
	check_state(&rig, MACHINE_OFF);
	check(!s);
}

FIBER_TEST(the_vmm_dies_while_it_is_saved)
{
	struct saved *s = NULL;
	RIG(rig, "'fake': {'save_dies': true}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_fails(machine_save(rig.m, true, SOON, &s, &why), ERROR_CRASH,
		    "machine 'web' died: fake-vmm was killed by signal 9 (Killed)");
	check_state(&rig, MACHINE_CRASHED);
	check_fails(machine_save(rig.m, true, SOON, &s, &why), ERROR_USAGE,
		    "machine 'web' has crashed: there is nothing to be saved");
	check(!s);
	check_ok(machine_start(rig.m, NULL, SOON, &why));
}

FIBER_TEST(it_cannot_be_restored)
{
	_cleanup_saved_ struct saved *s = NULL;
	_cleanup_saved_ struct saved *torn = saved_new();
	RIG(rig, "'fake': {}");
	RIG(fork, "'fake': {'restore_fails': 'it is of another make'}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_fails(machine_restore(fork.m, s, NULL, SOON, &why), ERROR_INFRA,
		    "machine 'web': the saved state was not taken up: it is of another make");
	check_state(&fork, MACHINE_OFF);
	check_ok(machine_start(fork.m, NULL, SOON, &why));

	torn->devices_fd = fcntl(s->disks[0].layers[0], F_DUPFD_CLOEXEC, 0);
	check_fails(machine_restore(rig.m, torn, NULL, SOON, &why), ERROR_INFRA,
		    "machine 'web': the fake memory is missing");
	check_state(&rig, MACHINE_OFF);
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
}

/* The time-out may be over by then: the guest must not be left frozen for that. */
FIBER_TEST(it_goes_on_though_saving_took_all_the_time)
{
	_cleanup_saved_ struct saved *s = NULL;
	RIG(rig, "'fake': {'save_takes': 0.06}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_fails(machine_save(rig.m, true, 50 * MS, &s, &why), ERROR_TIMEOUT,
		    "machine 'web': the time to save passed while sleeping");
	check_state(&rig, MACHINE_UP);
	check(run(&rig, "true", SOON, NULL) == 0);
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
	check(run(&rig, "true", SOON, NULL) == 0);
}

static int save_main(void *userdata)
{
	struct rig *rig = userdata;
	struct saved *s = NULL;

	return machine_save(rig->m, true, SOON, &s, NULL);
}

FIBER_TEST(it_goes_on_though_nobody_waits_any_more)
{
	struct fiber *fiber;
	RIG(rig, "'fake': {'save_takes': 100}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	fiber_start("save", save_main, &rig, &fiber);
	check_ok(fiber_sleep(10 * MS, &why));
	fiber_stop(fiber);
	check(fiber_result(fiber) == -ECANCELED);
	fiber_unref(fiber);
	check(run(&rig, "true", SOON, NULL) == 0);
}

/* Why a machine was stopped the last time is of no interest the next time. */
FIBER_TEST(unplugged_after_a_restore)
{
	_cleanup_saved_ struct saved *s = NULL;
	struct fiber *fiber;
	RIG(rig, EXEC);
	struct sleeper sleeper = {.rig = &rig};

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	check_ok(machine_unplug(rig.m, &why));
	check_ok(machine_restore(rig.m, s, NULL, SOON, &why)); /* nothing had to be stopped */
	fiber_start("sleeper", sleeper_main, &sleeper, &fiber);
	check_ok(fiber_sleep(5 * MS, &why));
	check_ok(machine_unplug(rig.m, &why));
	check_ok(fiber_join(fiber, SOON, &why));
	check_str(sleeper.err.message, "machine 'web' was unplugged");
	fiber_unref(fiber);
}

static unsigned count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	check(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

FIBER_TEST(restoring_often_takes_no_descriptors)
{
	_cleanup_saved_ struct saved *s = NULL;
	unsigned before = 0;
	RIG(rig, EXEC);

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_save(rig.m, true, SOON, &s, &why));
	for (int i = 0; i < 6; i++) {
		check_ok(machine_restore(rig.m, s, NULL, SOON, &why));
		check_ok(fiber_sleep(5 * MS, &why));
		if (i == 0)
			before = count_descriptors();
	}
	check(count_descriptors() == before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_saved_comes_back_any_number_of_times),
		cmocka_unit_test(a_template_and_its_forks),
		cmocka_unit_test(the_templates_past_is_the_forks_own),
		cmocka_unit_test(a_restored_machine_reboots_and_resets),
		cmocka_unit_test(calls_rest_while_it_is_saved_and_end_when_it_is_restored),
		cmocka_unit_test(off_is_a_state_too),
		cmocka_unit_test(a_machine_without_an_agent),
		cmocka_unit_test(not_now),
		cmocka_unit_test(it_cannot_be_saved_and_goes_on),
		cmocka_unit_test(the_vmm_dies_while_it_is_saved),
		cmocka_unit_test(it_cannot_be_restored),
		cmocka_unit_test(it_goes_on_though_saving_took_all_the_time),
		cmocka_unit_test(it_goes_on_though_nobody_waits_any_more),
		cmocka_unit_test(unplugged_after_a_restore),
		cmocka_unit_test(restoring_often_takes_no_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
