/* SPDX-License-Identifier: MIT */
/* Waiting until a guest has come to rest. */
#include "machine-test.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

/* What a guest tells of its load is believed or not; nothing of it is an error but its death. */
FIBER_TEST(a_guest_at_rest)
{
	struct agent *agent;
	RIG(rig, "'fake': {'files': {'/proc/stat': 'cpu  4 0 2 90 1 0 0 0\\n'}}");

	check_ok(machine_wait_idle(rig.m, SOON, &why));
	check_ok(machine_agent(rig.m, SOON, &agent, &why));
	check_ok(agent_write_file(agent, "/proc/stat", "no", 2, 0, NULL, SOON, &why));
	check_ok(machine_wait_idle(rig.m, SOON, &why));
	check_ok(machine_unplug(rig.m, &why));
}

FIBER_TEST(a_guest_that_tells_nothing_of_its_load)
{
	RIG(rig, "'fake': {}");

	check_ok(machine_wait_idle(rig.m, SOON, &why));
}

FIBER_TEST(a_guest_that_is_off)
{
	RIG(rig, "'fake': {}");

	check_ok(machine_start(rig.m, NULL, SOON, &why));
	check_ok(machine_unplug(rig.m, &why));
	check_state(&rig, MACHINE_OFF);
	/* Like any call that needs the guest, it starts it. */
	check_ok(machine_wait_idle(rig.m, SOON, &why));
	check_state(&rig, MACHINE_UP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_at_rest),
		cmocka_unit_test(a_guest_that_tells_nothing_of_its_load),
		cmocka_unit_test(a_guest_that_is_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
