/* SPDX-License-Identifier: MIT */
/* States, power cycles, and what happens to calls when a machine dies, at every stage. */
#include "machine-test.h"
#include "machine/machine-internal.h"

static const struct backend_ops backend_bare;
const struct backend_ops *const backend_registry[] = {&backend_fake, &backend_bare, NULL};

/* --- power --- */

FIBER_TEST(start_run_shutdown)
{
	RIG(rig, "'fake': {}");
	check_state(&rig, MACHINE_OFF);
	check(machine_accel(rig.m) == NULL);
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_ok(run(&rig, "true", SOON, &why));
	check(run(&rig, "exit 3", SOON, NULL) == 3);
	check_ok(machine_shutdown(rig.m, SOON, &why));
	check_state(&rig, MACHINE_OFF);
	check_ok(machine_shutdown(rig.m, SOON, &why)); /* off is off */
	check_str(buf_str(&rig.events), "starting up off ");
}

FIBER_TEST(a_call_starts_the_machine)
{
	RIG(rig, "'fake': {'boot_delay': 0.01}");
	check_ok(run(&rig, "true", SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_ok(machine_start(rig.m, NULL, SOON, &why)); /* up already */
}

FIBER_TEST(start_without_wait)
{
	struct machine_start_opts opts = {.no_wait = true};
	RIG(rig, "'fake': {'boot_delay': 0.02}");

	check_ok(machine_start(rig.m, &opts, SOON, &why));
	check_state(&rig, MACHINE_STARTING);
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
}

FIBER_TEST(files_survive_a_power_cycle_and_processes_do_not)
{
	struct agent *agent, *before;
	_cleanup_buf_ struct buf b = {};
	RIG(rig, "'fake': {}");

	check_ok(machine_agent(rig.m, SOON, &before, &why));
	check_ok(agent_write_file(before, "/etc/x", "kept", 4, 0, NULL, SOON, &why));
	check_ok(machine_unplug(rig.m, &why));
	check_state(&rig, MACHINE_OFF);
	check_fails(agent_ping(before, SOON, &why), ERROR_CRASH, "machine 'web' was unplugged");
	check_ok(machine_agent(rig.m, SOON, &agent, &why));
	check(agent != before);
	check_ok(agent_read_file(agent, "/etc/x", 100, SOON, &b, &why));
	check_str(buf_str(&b), "kept");
	check_ok(machine_unplug(rig.m, &why));
	check_ok(machine_unplug(rig.m, &why)); /* no error when off */
}

FIBER_TEST(reboot_waits_for_another_boot)
{
	RIG(rig, "'fake': {'boot_delay': 0.01}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_reboot(rig.m, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_ok(run(&rig, "true", SOON, &why));
	check_str(buf_str(&rig.events), "starting up starting up ");
}

FIBER_TEST(reset_returns_at_once_and_no_call_meets_the_old_boot)
{
	RIG(rig, "'fake': {'boot_delay': 0.02, 'exec': {'id': {'answers': [{'code': 1}, {'code': "
		 "2}]}}}");
	check(run(&rig, "id", SOON, NULL) == 1);
	check_ok(machine_reset(rig.m, &why));
	check_state(&rig, MACHINE_STARTING);
	check(run(&rig, "id", SOON, NULL) == 2);
	check_ok(machine_reset(rig.m, &why));
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	check_state(&rig, MACHINE_UP);
}

FIBER_TEST(a_fast_reboot_is_not_missed)
{
	struct agent_process *p = NULL;
	struct agent_command cmd = {.script = "reboot"};
	struct agent *agent;
	RIG(rig, "'fake': {}");

	check_ok(machine_agent(rig.m, SOON, &agent, &why));
	check_ok(agent_process_start(agent, &cmd, &p, &why));
	fiber_sleep(60 * MS, NULL); /* it is up again long before anybody waits */
	check_state(&rig, MACHINE_UP);
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	/* Only once. */
	check_fails(machine_wait_boot(rig.m, 30 * MS, &why), ERROR_TIMEOUT,
		    "timed out after 30 ms waiting for the agent of machine 'web'; it still runs "
		    "what it ran before");
	agent_process_free(p);
}

FIBER_TEST(a_boot_that_a_call_has_met_is_not_waited_for)
{
	RIG(rig, "'fake': {'reset_after': 0.02, 'only_boot': 1}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	wait_events(&rig, "crashed up");
	check_ok(run(&rig, "true", SOON, &why)); /* under the second one */
	check(machine_wait_boot(rig.m, 30 * MS, NULL) == -ETIMEDOUT);
}

FIBER_TEST(wait_boot_goes_over_the_reset_that_it_waits_for)
{
	RIG(rig, "'fake': {'reset_after': 0.03, 'only_boot': 1, 'boot_delay': 0.01}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_str(buf_str(&rig.events), "starting up crashed up ");
}

FIBER_TEST(a_guest_that_turns_itself_off_is_off)
{
	RIG(rig, "'fake': {}");
	check_fails(run(&rig, "poweroff", SOON, &why), ERROR_CRASH,
		    "machine 'web' has turned itself off");
	check_state(&rig, MACHINE_OFF);
	check_ok(machine_wait_shutdown(rig.m, SOON, &why));
	check_ok(run(&rig, "true", SOON, &why)); /* starts it again */
}

FIBER_TEST(wait_shutdown_times_out)
{
	RIG(rig, "'fake': {}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_fails(machine_wait_shutdown(rig.m, 20 * MS, &why), ERROR_TIMEOUT,
		    "timed out after 20 ms waiting for machine 'web' to turn itself off");
}

FIBER_TEST(pause_and_continue)
{
	RIG(rig, "'fake': {}");
	check_fails(machine_pause(rig.m, &why), ERROR_USAGE,
		    "machine 'web' is off and cannot be paused");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_pause(rig.m, &why));
	check_state(&rig, MACHINE_PAUSED);
	check_ok(machine_pause(rig.m, &why));
	check_fails(run(&rig, "true", SOON, &why), ERROR_USAGE, "machine 'web' is paused");
	check_fails(machine_shutdown(rig.m, SOON, &why), ERROR_USAGE, "machine 'web' is paused");
	check_ok(machine_continue(rig.m, &why));
	check_ok(machine_continue(rig.m, &why));
	check_ok(run(&rig, "true", SOON, &why));
	check_str(buf_str(&rig.events), "starting up paused up ");
}

FIBER_TEST(without_an_agent)
{
	struct agent *agent;
	RIG(rig, "'agent': false, 'fake': {'boot_text': 'hello\\n', 'reset_after': 0.01, "
		 "'only_boot': 1}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_state(&rig, MACHINE_UP);
	check_fails(machine_agent(rig.m, SOON, &agent, &why), ERROR_USAGE,
		    "machine 'web' has no agent (agent = false)");
	check_fails(machine_wait_boot(rig.m, SOON, &why), ERROR_USAGE,
		    "machine 'web' has no agent (agent = false)");
	check_ok(
		console_wait_text(machine_console(rig.m), "hello\nhello", false, SOON, NULL, &why));
	check_state(&rig, MACHINE_UP);		       /* a reset is none of our business */
	check_ok(machine_shutdown(rig.m, SOON, &why)); /* by the power button */
	check_state(&rig, MACHINE_OFF);
}

static int start_it(void *userdata)
{
	return machine_start(userdata, NULL, SOON, NULL);
}

FIBER_TEST(several_fibers_start_it_once)
{
	struct fiber *f[4];
	RIG(rig, "'fake': {'boot_delay': 0.01}");

	for (size_t i = 0; i < ARRAY_SIZE(f); i++)
		fiber_start("start", start_it, rig.m, &f[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
		check(fiber_join(f[i], SOON, NULL) == 0);
		check(fiber_result(f[i]) == 0);
		fiber_unref(f[i]);
	}
	check_str(buf_str(&rig.events), "starting up ");
}

FIBER_TEST(a_cancelled_start_leaves_a_machine_that_can_be_freed)
{
	struct fiber *f;
	RIG(rig, "'fake': {'never_boot': true}");

	fiber_start("start", start_it, rig.m, &f);
	fiber_sleep(5 * MS, NULL);
	fiber_cancel(f);
	check(fiber_join(f, SOON, NULL) == 0);
	check(fiber_result(f) == -ECANCELED);
	fiber_unref(f);
	check_state(&rig, MACHINE_STARTING);
}

/* --- boots that do not succeed --- */

FIBER_TEST(it_never_boots)
{
	RIG(rig, "'fake': {'never_boot': true}");
	check_fails(machine_start(rig.m, NULL, 30 * MS, &why), ERROR_TIMEOUT,
		    "timed out after 30 ms waiting for the agent of machine 'web'");
	check_state(&rig, MACHINE_STARTING);
}

FIBER_TEST(the_tests_deadline_keeps_its_kind)
{
	struct deadline_scope scope;
	struct error err = {};
	RIG(rig, "'fake': {'never_boot': true}");

	deadline_enter(&scope, 20 * MS, ERROR_DEADLINE, "the test's time-out of 20 ms");
	check(machine_start(rig.m, NULL, SOON, &err) < 0);
	deadline_leave(&scope);
	check(err.kind == ERROR_DEADLINE);
}

FIBER_TEST(streams_outlive_the_deadline_of_who_started_it)
{
	struct deadline_scope scope;
	RIG(rig, "'fake': {}");

	deadline_enter(&scope, 30 * MS, ERROR_DEADLINE, "a short time");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	deadline_leave(&scope);
	fiber_sleep(40 * MS, NULL);
	check_ok(run(&rig, "true", SOON, &why));
	check_ok(console_send(machine_console(rig.m), "x\n", 2, SOON, &why));
	check_ok(console_wait_text(machine_console(rig.m), "\n", true, SOON, NULL, &why));
}

FIBER_TEST(the_vmm_does_not_start)
{
	RIG(rig, "'fake': {'start_fails': 'no memory'}");
	check_fails(machine_start(rig.m, NULL, SOON, &why), ERROR_INFRA,
		    "machine 'web': the fake VMM does not start: no memory");
	check_state(&rig, MACHINE_OFF);
}

FIBER_TEST(the_initramfs_gives_up)
{
	RIG(rig, "'fake': {'boot_fails': 'no disk root0'}");
	check_fails(machine_start(rig.m, NULL, SOON, &why), ERROR_INFRA,
		    "machine 'web' could not boot: no disk root0");
	check_state(&rig, MACHINE_CRASHED);
}

FIBER_TEST(it_resets_itself_while_it_boots)
{
	struct error err = {};
	RIG(rig, "'fake': {'never_boot': true, 'reset_after': 0.01}");

	check(machine_start(rig.m, NULL, 60 * MS, &err) == -ETIMEDOUT);
	check(err.kind == ERROR_TIMEOUT);
	check(str_starts(err.message,
			 "timed out after 60 ms waiting for the agent of machine 'web'; "
			 "it has reset itself "));
}

FIBER_TEST(an_agent_of_another_version)
{
	struct error err = {};
	RIG(rig, "'fake': {'version': 99}");

	check(machine_start(rig.m, NULL, SOON, &err) < 0);
	check(err.kind == ERROR_INFRA);
	check(strstr(err.message, "speaks version 99"));
	check(str_starts(err.message, "machine 'web': "));
}

/* --- each death, at each stage --- */

#define DEATH_NS (400 * MS) /* how long a call may hang on a machine that is gone */

struct death {
	const char *script; /* what happens 30 ms after the start */
	const char *message;
	enum machine_state state;
};

static const struct death deaths[] = {
	{"'die_after': 0.03", "fake-vmm was killed by signal 9 (Killed)", MACHINE_CRASHED},
	{"'panic_after': 0.03", "Kernel panic - not syncing: fake panic", MACHINE_CRASHED},
	{"'reset_after': 0.03", "machine 'web' reset itself unexpectedly (guest-reset)",
	 MACHINE_CRASHED},
	{"'close_after': 0.03", "machine 'web': the connection to the guest agent has ended",
	 MACHINE_CRASHED},
	{"'poweroff_after': 0.03", "machine 'web' has turned itself off", MACHINE_OFF},
};

static void check_death(const struct death *d, struct error *err, uint64_t before)
{
	if (!strstr(err->message, d->message) || err->kind != ERROR_CRASH) {
		fprintf(stderr, "%s: got '%s' (%s), wanted '%s'\n", d->script, err->message,
			error_kind_name(err->kind), d->message);
		abort();
	}
	check(now_ns() - before < 30 * MS + DEATH_NS);
}

FIBER_TEST(a_death_while_it_boots_ends_the_wait)
{
	for (size_t i = 0; i < ARRAY_SIZE(deaths); i++) {
		_cleanup_free_ char *options = xasprintf(
			"'fake': {'boot_delay': 1000, 'only_boot': 1, %s}", deaths[i].script);
		uint64_t before = now_ns();
		struct error err = {};
		RIG(rig, options);

		if (strstr(deaths[i].script, "reset")) /* which a booting guest may do */
			continue;
		check(machine_start(rig.m, NULL, SOON, &err) < 0);
		check_death(&deaths[i], &err, before);
		check_state(&rig, deaths[i].state);
	}
}

FIBER_TEST(a_death_ends_the_pending_call_and_later_ones)
{
	for (size_t i = 0; i < ARRAY_SIZE(deaths); i++) {
		_cleanup_free_ char *options = xasprintf(
			"'fake': {'boot_delay': 0, 'only_boot': 1, %s}", deaths[i].script);
		bool returns = strstr(deaths[i].script, "reset");
		uint64_t before = now_ns();
		struct error err = {};
		RIG(rig, options);

		check_ok(machine_start(rig.m, NULL, SOON, &why));
		check(run(&rig, "sleep 30", 60 * NS_PER_SEC, &err) < 0);
		check_death(&deaths[i], &err, before);
		if (deaths[i].state == MACHINE_CRASHED && !returns) {
			check_state(&rig, MACHINE_CRASHED);
			error_clear(&err);
			before = now_ns();
			check(run(&rig, "true", SOON, &err) < 0);
			check_death(&deaths[i], &err, before);
		}
		(void)machine_check_panic(rig.m, NULL);
		/* And it can be used again. */
		check_ok(machine_start(rig.m, NULL, SOON, &why));
		check_ok(run(&rig, "true", SOON, &why));
		check_ok(machine_shutdown(rig.m, SOON, &why));
	}
}

FIBER_TEST(a_death_ends_shutdown_and_reboot)
{
	static const char *const scripts[] = {"'die_after': 0.03", "'panic_after': 0.03"};

	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		/* An agent that hangs never powers off. */
		_cleanup_free_ char *options =
			xasprintf("'fake': {'hang_after': 0.01, %s}", scripts[i]);
		struct error err = {};
		uint64_t before = now_ns();
		RIG(rig, options);

		check_ok(machine_start(rig.m, NULL, SOON, &why));
		fiber_sleep(15 * MS, NULL);
		check(machine_shutdown(rig.m, SOON, &err) < 0);
		check(err.kind == ERROR_CRASH);
		check(now_ns() - before < DEATH_NS);
		(void)machine_check_panic(rig.m, NULL);
	}
}

FIBER_TEST(an_agent_that_hangs_is_not_waited_for_longer_than_asked)
{
	struct error err = {};
	uint64_t before;
	/* The death ends what the channel does to wind the call up, not the wait. */
	RIG(rig, "'fake': {'hang_after': 0.01, 'die_after': 0.15}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	fiber_sleep(15 * MS, NULL);
	before = now_ns();
	check(machine_shutdown(rig.m, 30 * MS, &err) < 0);
	check(err.kind == ERROR_TIMEOUT);
	check(str_starts(err.message, "the time-out of 30 ms passed while waiting for the guest to "
				      "accept a power-off"));
	check(now_ns() - before < NS_PER_SEC);
}

FIBER_TEST(a_death_ends_waits_on_the_console_and_for_events)
{
	struct error err = {};
	RIG(rig, "'fake': {'die_after': 0.02, 'boot_text': ['one']}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check(console_wait_text(machine_console(rig.m), "never", false, SOON, NULL, &err) < 0);
	check_str(err.message, "machine 'web' died: fake-vmm was killed by signal 9 (Killed)");
	check_ok(console_wait_text(machine_console(rig.m), "one", false, SOON, NULL, &why));
	check(machine_wait_qmp_event(rig.m, "RESET", NULL, NULL, true, SOON, NULL, &err) < 0);
	check(machine_qmp(rig.m, "query-status", NULL, SOON, NULL, NULL) < 0);
	check(machine_reset(rig.m, NULL) < 0);
}

FIBER_TEST(a_command_that_kills_its_machine)
{
	static const struct {
		const char *answer, *message;
	} table[] = {
		{"{'die': true}", "machine 'web' died: fake-vmm was killed by signal 9 (Killed)"},
		{"{'panic': true}", "machine 'web': Kernel panic - not syncing: fake panic"},
		{"{'close': true}", "machine 'web': the connection to the guest agent has ended"},
		{"{'reset': true}", "machine 'web' reset itself unexpectedly (guest-reset)"},
		{"{'violate': true}", "machine 'web': the guest agent sent more than it was "
				      "allowed to (stream 3, 0 bytes)"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_free_ char *options = xasprintf(
			"'fake': {'boot_delay': 0.05, 'exec': {'go': %s}}", table[i].answer);
		RIG(rig, options);

		check_ok(machine_start(rig.m, NULL, SOON, &why));
		check_fails(run(&rig, "go", SOON, &why), ERROR_CRASH, table[i].message);
		check_state(&rig, MACHINE_CRASHED);
		check_fails(run(&rig, "true", SOON, &why), ERROR_CRASH, table[i].message);
		(void)machine_check_panic(rig.m, NULL);
	}
}

FIBER_TEST(after_an_unexpected_reset_it_is_up_again)
{
	RIG(rig, "'fake': {'boot_delay': 0.02, 'exec': {'go': {'reset': true}}}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check(run(&rig, "go", SOON, NULL) < 0);
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	check_ok(run(&rig, "true", SOON, &why));
}

/* --- panics --- */

FIBER_TEST(a_panic_is_consumed_by_its_wait)
{
	json_t *panic = NULL;
	const char *trace;
	RIG(rig, "'fake': {'panic_after': 0.02}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_wait_panic(rig.m, SOON, &panic, &why));
	check_str(json_string_value(json_object_get(panic, "message")),
		  "Kernel panic - not syncing: fake panic");
	trace = json_string_value(json_object_get(panic, "trace"));
	check(strstr(trace, "Call Trace:"));
	check(str_ends(trace, "---[ end Kernel panic - not syncing: fake panic ]---\n"));
	json_decref(panic);
	check_ok(machine_check_panic(rig.m, &why));
	check_state(&rig, MACHINE_CRASHED);
	check_str(buf_str(&rig.events), "starting up <panic> crashed ");
}

FIBER_TEST(a_panic_that_nobody_waited_for_is_told_at_the_end)
{
	RIG(rig, "'fake': {'panic_after': 0.01}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	wait_events(&rig, "<panic>");
	check_fails(machine_check_panic(rig.m, &why), ERROR_CRASH,
		    "machine 'web' panicked, and no one waited for it: Kernel panic - not syncing: "
		    "fake panic");
	check_ok(machine_check_panic(rig.m, &why)); /* told once */
}

static int console_says_why(void *userdata)
{
	fiber_sleep(20 * MS, NULL);
	panic_line(userdata, "[    1.0] Kernel panic - not syncing: late words");
	panic_line(userdata, "[    1.0] ---[ end Kernel panic - not syncing: late words ]---");
	return 0;
}

FIBER_TEST(the_rest_of_a_panic_that_is_being_told_is_waited_for)
{
	_cleanup_fiber_ struct fiber *console = NULL;
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	panic_from_vmm(rig.m);
	fiber_start("console", console_says_why, rig.m, &console);
	check_fails(machine_check_panic(rig.m, &why), ERROR_CRASH,
		    "machine 'web' panicked, and no one waited for it: Kernel panic - not syncing: "
		    "late words");
	check_state(&rig, MACHINE_CRASHED);
}

FIBER_TEST(an_oops_before_a_panic_is_in_its_trace)
{
	json_t *panic = NULL;
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	console_feed(machine_console(rig.m),
		     "[    1.0] harmless\n[    2.0] BUG: unable to handle page fault\n"
		     "[    2.1] RIP: 0010:foo\n"
		     "[    2.2] Kernel panic - not syncing: Fatal exception\n",
		     strlen("[    1.0] harmless\n[    2.0] BUG: unable to handle page fault\n"
			    "[    2.1] RIP: 0010:foo\n"
			    "[    2.2] Kernel panic - not syncing: Fatal exception\n"));
	/* No end mark: after a moment it counts all the same. */
	check_ok(machine_wait_panic(rig.m, SOON, &panic, &why));
	check_str(json_string_value(json_object_get(panic, "trace")),
		  "[    2.0] BUG: unable to handle page fault\n[    2.1] RIP: 0010:foo\n"
		  "[    2.2] Kernel panic - not syncing: Fatal exception\n");
	json_decref(panic);
}

FIBER_TEST(text_about_panics_is_no_panic)
{
	static const char *const lines[] = {
		"root@web:~# echo Kernel panic - not syncing: no\n",
		"x Kernel panic - not syncing: no\n",
		"---[ end Kernel panic - not syncing: no ]---\n",
		"Kernel panic is a good band\n",
	};
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		console_feed(machine_console(rig.m), lines[i], strlen(lines[i]));
	check_ok(run(&rig, "true", SOON, &why));
	check_ok(machine_check_panic(rig.m, &why));
	check_fails(machine_wait_panic(rig.m, 20 * MS, NULL, &why), ERROR_TIMEOUT,
		    "timed out after 20 ms waiting for a kernel panic of machine 'web'");
}

FIBER_TEST(a_machine_that_is_off_cannot_panic)
{
	RIG(rig, "'fake': {}");
	check_fails(machine_wait_panic(rig.m, SOON, NULL, &why), ERROR_EXPECT,
		    "machine 'web' is off: it cannot panic any more");
}

FIBER_TEST(after_a_panic_the_reset_button_helps)
{
	RIG(rig, "'fake': {'panic_after': 0.01, 'only_boot': 1}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_wait_panic(rig.m, SOON, NULL, &why));
	check_ok(machine_reset(rig.m, &why));
	check_ok(run(&rig, "true", SOON, &why));
	check_state(&rig, MACHINE_UP);
}

FIBER_TEST(a_panic_in_the_vmms_last_words_is_the_reason)
{
	RIG(rig, "'fake': {'exec': {'go': {'console': '[    9.0] Kernel panic - not syncing: x\\n',"
		 " 'die': true}}}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_fails(run(&rig, "go", SOON, &why), ERROR_CRASH,
		    "machine 'web': Kernel panic - not syncing: x");
	check_ok(machine_wait_panic(rig.m, SOON, NULL, &why));
}

FIBER_TEST(a_panic_with_its_vmm_gone_stays_a_panic)
{
	struct error err = {};
	RIG(rig, "'fake': {'panic_after': 0.01, 'die_after': 0.03}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	fiber_sleep(60 * MS, NULL);
	check(run(&rig, "true", SOON, &err) < 0);
	check_str(err.message, "machine 'web': Kernel panic - not syncing: fake panic");
	check(machine_check_panic(rig.m, NULL) < 0);
}

/* --- the VMM's words --- */

static bool by_guest(json_t *data, void *userdata)
{
	++*(int *)userdata;
	return json_is_true(json_object_get(data, "guest"));
}

FIBER_TEST(events_are_kept_from_the_start)
{
	json_t *event = NULL;
	int asked = 0;
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_reset(rig.m, &why));
	check_ok(machine_wait_boot(rig.m, SOON, &why));
	check_ok(machine_reboot(rig.m, SOON, &why));
	check_ok(
		machine_wait_qmp_event(rig.m, "RESET", by_guest, &asked, true, SOON, &event, &why));
	check(asked == 2);
	check_str(json_string_value(json_object_get(event, "name")), "RESET");
	check(json_is_real(json_object_get(event, "seconds")));
	json_decref(event);
	check(machine_wait_qmp_event(rig.m, "RESET", NULL, NULL, false, 20 * MS, NULL, NULL) ==
	      -ETIMEDOUT);
}

FIBER_TEST(qmp_commands)
{
	json_t *ret = NULL;
	RIG(rig, "'fake': {'qmp': {'query-version': {'qemu': {'major': 7}}}}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_qmp(rig.m, "query-version", NULL, SOON, &ret, &why));
	check(json_object_get(ret, "qemu"));
	json_decref(ret);
	check_fails(machine_qmp(rig.m, "nonsense", NULL, SOON, NULL, &why), ERROR_EXPECT,
		    "machine 'web': QMP command 'nonsense' failed: CommandNotFound: The command "
		    "nonsense has not been found");
	check_ok(machine_qmp(rig.m, "stop", NULL, SOON, NULL, &why));
	check_state(&rig, MACHINE_PAUSED);
}

FIBER_TEST(eject_knows_the_disks)
{
	RIG(rig, "'disks': ['64M', {'size': '1G', 'name': 'data'}], 'fake': {}");
	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_eject(rig.m, "disk1", &why));
	check_fails(machine_eject(rig.m, "date", &why), ERROR_USAGE,
		    "machine 'web' has no disk 'date'");
}

/* --- boot times --- */

FIBER_TEST(boot_times_add_up)
{
	json_t *t = NULL;
	double agent, total;
	RIG(rig, "'fake': {'boot_delay': 0.02, 'exec': {'~systemctl show': "
		 "'UserspaceTimestampMonotonic=30000\\nFinishTimestampMonotonic=90000\\n'}}");

	check_ok(machine_boot_times(rig.m, SOON, &t, &why));
	agent = json_number_value(json_object_get(t, "agent"));
	total = json_number_value(json_object_get(t, "total"));
	check(agent >= 0.02 && agent < 0.5);
	check(total >= 0.09 && total < 0.6);
	check(json_number_value(json_object_get(t, "userspace")) > 0.0599);
	check(json_object_get(t, "firmware") && json_object_get(t, "kernel"));
	json_decref(t);
}

FIBER_TEST(boot_times_without_systemd)
{
	json_t *t = NULL;
	RIG(rig, "'fake': {'systemd': false}");

	check_ok(machine_boot_times(rig.m, SOON, &t, &why));
	check(json_object_get(t, "agent") && json_object_get(t, "total"));
	check(!json_object_get(t, "userspace"));
	json_decref(t);
}

/* --- a backend that can do next to nothing, badly --- */

static unsigned bare_caps(void)
{
	return MACHINE_CAP_CONSOLE;
}

static int bare_open(const struct vm_init *init, struct vm **ret, struct error *err)
{
	*ret = xcalloc(1, sizeof(**ret));
	**ret = (struct vm){.ops = &backend_bare, .init = *init};
	return 0;
}

static void bare_close(struct vm *vm)
{
	free(vm);
}

/* Its VMM has ended before anybody knows that it began, unless a kernel is named. */
static int bare_start(struct vm *vm, const struct vm_start *how, struct vm_streams *ret,
		      struct error *err)
{
	struct vm_exit e = {.how = "bare-vmm exited with status 1", .last_lines = "no luck"};

	*ret = (struct vm_streams){.epoch_ns = now_ns()};
	if (!how->opts->kernel)
		vm->init.events->on_exit(&e, vm->init.userdata);
	return 0;
}

static void bare_kill(struct vm *vm)
{
	struct vm_exit e = {.how = "bare-vmm was killed", .last_lines = ""};

	vm->init.events->on_exit(&e, vm->init.userdata);
}

static const struct backend_ops backend_bare = {
	.name = "bare",
	.caps = bare_caps,
	.open = bare_open,
	.close = bare_close,
	.start = bare_start,
	.kill = bare_kill,
};

static void bare_init(struct rig *rig)
{
	json_t *json = json_pack("{ss, ss, sb, ss}", "name", "web", "backend", "bare", "agent", 0,
				 "image", "none");

	*rig = (struct rig){.env = {.emit = rig_emit, .userdata = rig}};
	check(machine_spec_parse(json, &rig->spec, NULL) == 0);
	check(machine_new(rig->spec, &rig->env, &rig->m, NULL) == 0);
	json_decref(json);
}

FIBER_TEST(a_vmm_that_ends_within_its_start)
{
	_cleanup_(rig_done) struct rig rig;

	bare_init(&rig);
	check_fails(machine_start(rig.m, NULL, SOON, &why), ERROR_CRASH,
		    "machine 'web' died while it booted: bare-vmm exited with status 1: no luck");
	check_state(&rig, MACHINE_CRASHED);
	check_str(buf_str(&rig.events), "starting crashed ");
}

FIBER_TEST(what_a_backend_cannot_do_has_one_error)
{
	struct machine_start_opts works = {.kernel = "x"};
	_cleanup_(rig_done) struct rig rig;

	bare_init(&rig);
	check_ok(machine_start(rig.m, &works, SOON, &why));
	check_fails(machine_pause(rig.m, &why), ERROR_UNSUPPORTED,
		    "machine 'web': backend 'bare' cannot pause a machine");
	check_fails(machine_reset(rig.m, &why), ERROR_UNSUPPORTED,
		    "machine 'web': backend 'bare' cannot press the reset button");
	check_fails(machine_shutdown(rig.m, SOON, &why), ERROR_UNSUPPORTED,
		    "machine 'web': backend 'bare' cannot press the power button");
	check_fails(machine_qmp(rig.m, "stop", NULL, SOON, NULL, &why), ERROR_UNSUPPORTED,
		    "machine 'web': backend 'bare' cannot speak QMP");
	check_fails(machine_wait_qmp_event(rig.m, "STOP", NULL, NULL, true, SOON, NULL, &why),
		    ERROR_UNSUPPORTED, "machine 'web': backend 'bare' cannot speak QMP");
	check_ok(machine_unplug(rig.m, &why));
}

/* --- cost --- */

FIBER_TEST(fake_machines_are_cheap)
{
	uint64_t before = now_ns(), took;

	for (int i = 0; i < 200; i++) {
		RIG(rig, "'fake': {}");
		check_ok(run(&rig, "true", SOON, &why));
	}
	took = now_ns() - before;
	fprintf(stderr, "%.1f ms for each of 200 machines\n", (double)took / 200 / MS);
	check(took < 20 * NS_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(start_run_shutdown),
		cmocka_unit_test(a_call_starts_the_machine),
		cmocka_unit_test(start_without_wait),
		cmocka_unit_test(files_survive_a_power_cycle_and_processes_do_not),
		cmocka_unit_test(reboot_waits_for_another_boot),
		cmocka_unit_test(reset_returns_at_once_and_no_call_meets_the_old_boot),
		cmocka_unit_test(a_fast_reboot_is_not_missed),
		cmocka_unit_test(wait_boot_goes_over_the_reset_that_it_waits_for),
		cmocka_unit_test(a_guest_that_turns_itself_off_is_off),
		cmocka_unit_test(wait_shutdown_times_out),
		cmocka_unit_test(pause_and_continue),
		cmocka_unit_test(without_an_agent),
		cmocka_unit_test(several_fibers_start_it_once),
		cmocka_unit_test(a_cancelled_start_leaves_a_machine_that_can_be_freed),
		cmocka_unit_test(it_never_boots),
		cmocka_unit_test(the_tests_deadline_keeps_its_kind),
		cmocka_unit_test(streams_outlive_the_deadline_of_who_started_it),
		cmocka_unit_test(the_vmm_does_not_start),
		cmocka_unit_test(the_initramfs_gives_up),
		cmocka_unit_test(it_resets_itself_while_it_boots),
		cmocka_unit_test(an_agent_of_another_version),
		cmocka_unit_test(a_death_while_it_boots_ends_the_wait),
		cmocka_unit_test(a_death_ends_the_pending_call_and_later_ones),
		cmocka_unit_test(a_death_ends_shutdown_and_reboot),
		cmocka_unit_test(an_agent_that_hangs_is_not_waited_for_longer_than_asked),
		cmocka_unit_test(a_death_ends_waits_on_the_console_and_for_events),
		cmocka_unit_test(a_command_that_kills_its_machine),
		cmocka_unit_test(after_an_unexpected_reset_it_is_up_again),
		cmocka_unit_test(a_panic_is_consumed_by_its_wait),
		cmocka_unit_test(a_panic_that_nobody_waited_for_is_told_at_the_end),
		cmocka_unit_test(the_rest_of_a_panic_that_is_being_told_is_waited_for),
		cmocka_unit_test(an_oops_before_a_panic_is_in_its_trace),
		cmocka_unit_test(text_about_panics_is_no_panic),
		cmocka_unit_test(a_machine_that_is_off_cannot_panic),
		cmocka_unit_test(after_a_panic_the_reset_button_helps),
		cmocka_unit_test(a_panic_with_its_vmm_gone_stays_a_panic),
		cmocka_unit_test(events_are_kept_from_the_start),
		cmocka_unit_test(qmp_commands),
		cmocka_unit_test(eject_knows_the_disks),
		cmocka_unit_test(boot_times_add_up),
		cmocka_unit_test(boot_times_without_systemd),
		cmocka_unit_test(a_boot_that_a_call_has_met_is_not_waited_for),
		cmocka_unit_test(a_panic_in_the_vmms_last_words_is_the_reason),
		cmocka_unit_test(a_vmm_that_ends_within_its_start),
		cmocka_unit_test(what_a_backend_cannot_do_has_one_error),
		cmocka_unit_test(fake_machines_are_cheap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
