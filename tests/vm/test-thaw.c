/* SPDX-License-Identifier: MIT */
/* Real guests that go on after they were saved: clock, entropy, commands, timers. */
#include "guest-test.h"
#include "loop/loop.h"
#include "machine/saved.h"

#define TINY   "{\"name\": \"m\", \"image\": \"tiny\", \"memory\": \"256M\"}"
#define DEBIAN "{\"name\": \"m\", \"image\": \"debian-13\", \"memory\": \"512M\"}"

/* What is promised of a fork's clock. */
#define CLOCK_NS (50 * NS_PER_MS)

static struct saved *save_off(struct guest *g)
{
	struct saved *s = NULL;

	must(machine_save(g->m, false, LONG, &s, err));
	return s;
}

/* SET_CLOCK tells by how much it was wrong, give or take the time of the call. */
static void check_clock(struct guest *g)
{
	uint64_t begin, took;
	int64_t delta;

	must(machine_agent(g->m, LONG, &g->agent, err));
	begin = now_ns();
	must(agent_set_clock(g->agent, &delta, err));
	took = now_ns() - begin;
	fprintf(stderr, "the clock was corrected by %.3f ms, in a call of %.3f ms\n", delta / 1e6,
		took / 1e6);
	check(llabs(delta) <= (int64_t)(CLOCK_NS + took));
}

FIBER_TEST(each_copy_is_its_own)
{
	static const char id[] = "0123456789abcdef0123456789abcdef";
	struct machine_restore_opts opts = {.machine_id = id};
	_cleanup_free_ char *boot = NULL, *random[3] = {}, *uuid[3] = {};
	_cleanup_saved_ struct saved *s = NULL;
	struct machine_start_opts savable = {.savable = true};
	struct guest g;

	guest_init(&g, TINY);
	must(machine_start(g.m, &savable, LONG, err));
	boot = guest_run(&g, "cat /proc/sys/kernel/random/boot_id");
	/* It is a template of long ago. */
	free(guest_run(&g, "date -s 2001-01-01"));
	/* The kernel's generator has just been seeded, if it was time: it will not be of itself
	 * soon. */
	free(guest_run(&g, "head -c 1 /dev/urandom"));
	s = save_off(&g);
	for (int i = 0; i < 3; i++) {
		must(machine_restore(g.m, s, i == 2 ? &opts : NULL, LONG, err));
		random[i] = guest_run(&g, "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'");
		uuid[i] = guest_run(&g, "cat /proc/sys/kernel/random/uuid");
		check(strlen(random[i]) == 64 && strlen(uuid[i]) == 36);
		for (int before = 0; before < i; before++)
			check(!str_eq(random[i], random[before]) && !str_eq(uuid[i], uuid[before]));
		expect_run(&g, "cat /proc/sys/kernel/random/boot_id", boot);
		check_clock(&g);
	}
	expect_run(&g, "cat /etc/machine-id", id);
	for (int i = 0; i < 3; i++) {
		free(random[i]);
		free(uuid[i]);
		random[i] = uuid[i] = NULL;
	}
	guest_done(&g);
}

/* Floods its stdout, so it goes on only if that is read. */
static const char flood[] = "i=0; line=$(printf %4095s); while :; do echo \"$line\"; "
			    "i=$((i + 1)); echo $i > /root/flood; done";

static void check_flood_goes_on(struct guest *g)
{
	free(guest_run(g,
		       "n=$(cat /root/flood); "
		       "while [ $(cat /root/flood || echo 0) -lt $((n + 1024)) ]; do usleep 10000; "
		       "done"));
}

FIBER_TEST(commands_go_on)
{
	_cleanup_saved_ struct saved *s = NULL;
	struct agent_command cmd = {.script = flood};
	struct agent_process *p;
	struct guest g;
	_cleanup_buf_ struct buf out = {};
	int stream;

	guest_init(&g, TINY);
	must(machine_start(g.m, NULL, LONG, err));
	must(machine_agent(g.m, LONG, &g.agent, err));
	must(agent_process_start(g.agent, &cmd, &p, err));
	/* In place: the call goes on, and all that it wrote is there. */
	for (int i = 0; i < 3; i++) {
		saved_unref(s);
		must(machine_save(g.m, true, LONG, &s, err));
		while (out.len < (size_t)(i + 1) * 2 * MIB)
			must(agent_process_read(p, &out, &stream, LONG, err));
	}
	for (size_t at = 4095; at < out.len; at += 4096)
		check(out.data[at] == '\n');
	/* Restored: the call is over, the command is not. */
	must(machine_restore(g.m, s, NULL, LONG, err));
	check(agent_process_is_done(p));
	agent_process_free(p);
	check_flood_goes_on(&g);
	guest_done(&g);
}

/* Daily timers, one of them to be made up for, in a guest that is saved for a month. */
static const char make_timers[] =
	"timedatectl set-ntp false 2>/dev/null || :\n"
	"date -s \"$(date -d '-30 days' +'%F %T')\" >/dev/null\n"
	"for t in daily missed; do\n"
	"  printf '[Service]\\nType=oneshot\\nExecStart=/bin/touch /run/%s-fired\\n' $t"
	" > /etc/systemd/system/$t.service\n"
	"  printf '[Timer]\\nOnCalendar=*-*-* 00:00:00\\nAccuracySec=1s\\n'"
	" > /etc/systemd/system/$t.timer\n"
	"done\n"
	"echo Persistent=yes >> /etc/systemd/system/missed.timer\n"
	"systemctl daemon-reload\n"
	"systemctl start daily.timer missed.timer\n"
	"systemctl is-active daily.timer missed.timer\n";

FIBER_TEST(timers_do_not_fire_in_a_burst)
{
	struct machine_start_opts savable = {.savable = true};
	static const struct image_spec spec = {.from = "debian-13"};
	static const struct image_build_opts opts = {};
	_cleanup_image_ struct image *image = NULL;
	_cleanup_saved_ struct saved *s = NULL;
	struct guest g;

	must(image_ensure(&spec, &opts, &image, err));
	guest_init(&g, DEBIAN);
	must(machine_start(g.m, &savable, LONG, err));
	expect_run(&g, make_timers, "active\nactive");
	s = save_off(&g);
	must(machine_restore(g.m, s, NULL, LONG, err));
	check_clock(&g);
	expect_run(&g, "systemctl is-active daily.timer missed.timer", "active\nactive");
	/* Once systemd has been asked something it has seen the new time, and what that means. */
	expect_run(&g,
		   "systemctl list-timers daily.timer missed.timer >/dev/null; "
		   "ls /run/*-fired 2>/dev/null || echo none",
		   "none");
	guest_done(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_copy_is_its_own),
		cmocka_unit_test(commands_go_on),
		cmocka_unit_test(timers_do_not_fire_in_a_burst),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
