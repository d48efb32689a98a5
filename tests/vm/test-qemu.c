/* SPDX-License-Identifier: MIT */
/* The QEMU backend with a real guest (tiny), through machine.h: life, power, faults. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "fiber-test.h"
#include "image/image.h"
#include "machine/machine.h"

/* Wall time that a busy host may need; nothing here waits for time to pass. */
#define LONG (300 * NS_PER_SEC)

static char dir[] = "/var/tmp/assay-test-XXXXXX";

struct guest {
	struct machine_spec *spec;
	struct machine_env env;
	struct machine *m;
	struct agent *agent;
	struct buf events; /* types, one a line */
	char *vmm_pid;
};

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return path_remove_tree(dir, NULL);
}

#define must(expr)                                                                                 \
	do {                                                                                       \
		struct error must_err_ = {};                                                       \
		struct error *err = &must_err_;                                                    \
		if ((expr) < 0) {                                                                  \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr,              \
				must_err_.message);                                                \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static void on_emit(void *userdata, const char *machine, const char *type, json_t *fields)
{
	struct guest *g = userdata;
	char *text = fields ? json_dumps(fields, JSON_COMPACT) : NULL;

	buf_printf(&g->events, "%s %s\n", type, text ? text : "");
	free(text);
}

static void guest_init(struct guest *g, const char *definition)
{
	static const struct image_spec tiny = {.from = "tiny"};
	static const struct image_build_opts opts = {};
	_cleanup_image_ struct image *image = NULL;
	json_t *json = json_loads(definition, 0, NULL);

	must(image_ensure(&tiny, &opts, &image, err));

	check(json);
	*g = (struct guest){};
	g->env = (struct machine_env){.dir = dir,
				      .work_dir = dir,
				      .base_dir = dir,
				      .accel = "auto",
				      .emit = on_emit,
				      .userdata = g};
	must(machine_spec_parse(json, &g->spec, err));
	json_decref(json);
	must(machine_new(g->spec, &g->env, &g->m, err));
}

static void guest_done(struct guest *g)
{
	machine_free(g->m);
	machine_spec_free(g->spec);
	buf_done(&g->events);
}

/* The output of a script in the guest, without its last newline. */
static char *guest_run(struct guest *g, const char *script)
{
	struct agent_command cmd = {.script = script};
	struct agent_result result = {};
	char *text;

	must(machine_agent(g->m, LONG, &g->agent, err));
	must(agent_run(g->agent, &cmd, LONG, &result, err));
	if (result.code != 0) {
		fprintf(stderr, "%s: exit status %d: %s\n", script, result.code,
			buf_str(&result.err));
		abort();
	}
	if (result.out.len > 0 && result.out.data[result.out.len - 1] == '\n')
		buf_truncate(&result.out, result.out.len - 1);
	text = xstrdup(buf_str(&result.out));
	agent_result_done(&result);
	return text;
}

static void expect_run(struct guest *g, const char *script, const char *want)
{
	_cleanup_free_ char *got = guest_run(g, script);

	check_str(got, want);
}

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

static pid_t vmm_pid(struct guest *g)
{
	const char *at = strstr(buf_str(&g->events), "\"pid\":");

	check(at);
	return (pid_t)atoi(at + strlen("\"pid\":"));
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
