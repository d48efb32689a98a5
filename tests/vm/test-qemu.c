/* SPDX-License-Identifier: MIT */
/* The QEMU backend with a real guest (tiny), through machine.h: life, power, faults. */
#include <signal.h>

#include "guest-test.h"

/* The serial numbers of all virtio disks, a line each. */
#define SERIALS "for d in /sys/block/vd*; do echo $(cat $d/serial); done"

FIBER_TEST(life_of_a_machine)
{
	struct guest g;

	guest_init(&g, "{\"name\": \"server\", \"image\": \"tiny\", \"memory\": \"256M\"}");
	must(machine_start(g.m, NULL, LONG, err));
	check(machine_is_up(g.m));
	expect_run(&g, "hostname", "server");
	free(guest_run(&g, "echo kept > /kept; sync"));

	must(machine_pause(g.m, err));
	check(machine_get_state(g.m) == MACHINE_PAUSED);
	must(machine_continue(g.m, err));
	must(machine_reboot(g.m, LONG, err));
	expect_run(&g, "cat /kept", "kept");
	must(machine_reset(g.m, err));
	must(machine_wait_boot(g.m, LONG, err));
	expect_run(&g, "cat /kept", "kept");

	/* The overlay outlives the VMM. */
	must(machine_shutdown(g.m, LONG, err));
	check(machine_get_state(g.m) == MACHINE_OFF);
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, "cat /kept", "kept");
	free(guest_run(&g, "echo again > /kept; sync"));
	must(machine_unplug(g.m, err));
	check(machine_get_state(g.m) == MACHINE_OFF);
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, "cat /kept", "again");
	guest_done(&g);
}

FIBER_TEST(microvm)
{
	struct guest g;

	guest_init(&g, "{\"name\": \"small\", \"image\": \"tiny\", \"memory\": \"256M\", "
		       "\"machine_type\": \"microvm\", \"disks\": [\"16M\"]}");
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, SERIALS " | sort | tr '\\n' ' '", "disk1 root0 scratch0 ");
	must(machine_reboot(g.m, LONG, err));
	must(machine_shutdown(g.m, LONG, err));
	guest_done(&g);
}

FIBER_TEST(disks)
{
	struct guest g;
	_cleanup_free_ char *path = path_join(dir, "data.img");
	_cleanup_buf_ struct buf file = {};
	char data[4096] = "from the host\n";

	must(file_write_atomic(path, data, sizeof(data), 0644, err));
	guest_init(&g,
		   "{\"name\": \"disks\", \"image\": \"tiny\", \"memory\": \"256M\", \"disks\": ["
		   "{\"size\": \"64M\", \"name\": \"empty\"}, {\"path\": \"data.img\"}, "
		   "{\"path\": \"data.img\", \"readonly\": true, \"name\": \"ro\"}]}");
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, SERIALS " | tr '\\n' ' '", "root0 scratch0 empty disk2 ro ");
	expect_run(&g, "head -n1 /dev/vdd", "from the host");
	expect_run(&g, "head -n1 /dev/vde; cat /sys/block/vde/ro", "from the host\n1");
	expect_run(&g, "cat /sys/block/vdc/size", "131072");
	free(guest_run(&g, "echo from the guest > /dev/vdd; sync"));
	expect_run(&g, "head -n1 /dev/vdd", "from the guest");
	guest_done(&g);
	must(file_read(path, 8192, &file, err));
	check(memcmp(file.data, data, sizeof(data)) == 0);
}

struct victim {
	struct guest *g;
	const char *script;
	struct error err;
};

static int victim_main(void *userdata)
{
	struct victim *v = userdata;
	struct agent_command cmd = {.script = v->script};
	struct agent_result result = {};
	int r = agent_run(v->g->agent, &cmd, LONG, &result, &v->err);

	agent_result_done(&result);
	return r < 0 ? machine_explain_crash(v->g->m, &v->err) : r;
}

FIBER_TEST(the_vmm_is_killed_in_the_middle_of_a_command)
{
	struct fiber *fiber;
	struct guest g;
	struct victim v = {.g = &g, .script = "sleep 1000"};

	guest_init(&g, "{\"name\": \"victim\", \"image\": \"tiny\", \"memory\": \"256M\"}");
	must(machine_start(g.m, NULL, LONG, err));
	free(guest_run(&g, "true"));
	fiber_start("victim", victim_main, &v, &fiber);
	fiber_yield();
	check(kill(vmm_pid(&g), SIGKILL) == 0);
	check(fiber_join(fiber, 30 * NS_PER_SEC, NULL) == 0);
	check(fiber_result(fiber) < 0);
	check(v.err.kind == ERROR_CRASH);
	check(strstr(v.err.message, "killed by signal 9"));
	check(machine_get_state(g.m) == MACHINE_CRASHED);
	fiber_unref(fiber);
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, "hostname", "victim");
	guest_done(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life_of_a_machine),
		cmocka_unit_test(microvm),
		cmocka_unit_test(disks),
		cmocka_unit_test(the_vmm_is_killed_in_the_middle_of_a_command),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
