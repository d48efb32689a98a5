/* SPDX-License-Identifier: MIT */
/* Saved states with a real guest (tiny), through machine.h: templates, forks, snapshots, faults. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "guest-test.h"
#include "machine/saved.h"

#define Q35 "{\"name\": \"m\", \"image\": \"tiny\", \"memory\": \"256M\"}"
#define MICROVM                                                                                    \
	"{\"name\": \"m\", \"image\": \"tiny\", \"memory\": \"256M\", \"machine_type\": "          \
	"\"microvm\"}"

static void start_savable(struct guest *g)
{
	struct machine_start_opts opts = {.savable = true};

	must(machine_start(g->m, &opts, LONG, err));
}

/* Not synced: what the guest has in its memory only must be there, too. */
static void write_text(struct guest *g, const char *path, const char *text)
{
	_cleanup_free_ char *script = xasprintf("echo '%s' > %s", text, path);

	free(guest_run(g, script));
}

static void expect_text(struct guest *g, const char *path, const char *text)
{
	_cleanup_free_ char *script = xasprintf("cat %s", path);

	expect_run(g, script, text);
}

static struct saved *make_template(const char *definition)
{
	struct saved *s = NULL;
	struct guest g;

	guest_init(&g, definition);
	start_savable(&g);
	write_text(&g, "/root/file", "of the template");
	must(machine_save(g.m, false, LONG, &s, err));
	check(machine_get_state(g.m) == MACHINE_OFF);
	check(s->devices_fd >= 0 && s->memory_fd >= 0);
	check(s->n_disks == 1 && s->disks[0].n_layers == 1);
	guest_done(&g);
	return s;
}

static void forks_are_apart(const char *definition)
{
	_cleanup_saved_ struct saved *s = make_template(definition);
	_cleanup_free_ char *written = path_join(dir, "vmm-m.txt");
	_cleanup_buf_ struct buf commands = {};
	struct guest a, b;
	struct stat before, after;

	check(fstat(s->disks[0].layers[0], &before) == 0);
	guest_init(&a, definition);
	guest_init(&b, definition);
	must(machine_restore(a.m, s, NULL, LONG, err));
	check(machine_is_up(a.m));
	must(machine_restore(b.m, s, NULL, LONG, err));
	expect_text(&a, "/root/file", "of the template");
	expect_text(&b, "/root/file", "of the template");
	write_text(&a, "/root/file", "of a");
	write_text(&b, "/root/other", "of b");
	free(guest_run(&a, "sync"));
	expect_text(&b, "/root/file", "of the template");
	expect_run(&a, "ls /root/other 2>/dev/null || echo none", "none");
	check(fstat(s->disks[0].layers[0], &after) == 0);
	check(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
	      before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);

	/* Its disk is its own over a power cycle, and a reboot within QEMU. */
	must(machine_unplug(a.m, err));
	must(machine_start(a.m, NULL, LONG, err));
	expect_text(&a, "/root/file", "of a");
	free(guest_run(&b, "sync"));
	must(machine_reboot(b.m, LONG, err));
	expect_text(&b, "/root/other", "of b");
	expect_text(&b, "/root/file", "of the template");
	guest_done(&a);
	guest_done(&b);
	must(file_read(written, MIB, &commands, err));
	check(strstr(buf_str(&commands),
		     "# Start 1 of 'm', which goes on from a saved state (a fork)"));
}

FIBER_TEST(forks_of_a_q35)
{
	forks_are_apart(Q35);
}

FIBER_TEST(forks_of_a_microvm)
{
	forks_are_apart(MICROVM);
}

/* What a setup makes of the booted machine is a template, too; it leaves the first one alone. */
FIBER_TEST(a_second_level)
{
	_cleanup_saved_ struct saved *booted = make_template(Q35);
	_cleanup_saved_ struct saved *set_up = NULL;
	struct machine_restore_opts opts = {.savable = true};
	struct guest g;

	guest_init(&g, Q35);
	must(machine_restore(g.m, booted, &opts, LONG, err));
	write_text(&g, "/root/file", "of the setup");
	must(machine_save(g.m, false, LONG, &set_up, err));
	check(set_up->memory_fd >= 0 && set_up->disks[0].n_layers == 2);
	must(machine_restore(g.m, booted, NULL, LONG, err));
	expect_text(&g, "/root/file", "of the template");
	must(machine_restore(g.m, set_up, NULL, LONG, err));
	expect_text(&g, "/root/file", "of the setup");
	guest_done(&g);
}

static void snapshots_within(struct guest *g)
{
	_cleanup_saved_ struct saved *one = NULL;
	_cleanup_saved_ struct saved *two = NULL;

	write_text(g, "/root/n", "1");
	must(machine_save(g->m, true, LONG, &one, err));
	check(one->memory_fd < 0);
	write_text(g, "/root/n", "2");
	must(machine_save(g->m, true, LONG, &two, err));
	check(!strstr(buf_str(&g->events), "paused")); /* nobody asked for that */
	write_text(g, "/root/n", "3");
	free(guest_run(g, "sync"));
	must(machine_restore(g->m, one, NULL, LONG, err));
	expect_text(g, "/root/n", "1");
	must(machine_restore(g->m, two, NULL, LONG, err));
	expect_text(g, "/root/n", "2");
	write_text(g, "/root/n", "4");
	must(machine_restore(g->m, one, NULL, LONG, err));
	expect_text(g, "/root/n", "1");
	free(guest_run(g, "sync"));
	must(machine_unplug(g->m, err));
	must(machine_start(g->m, NULL, LONG, err));
	expect_text(g, "/root/n", "1");
}

FIBER_TEST(snapshots_of_a_machine_and_of_a_fork)
{
	_cleanup_saved_ struct saved *s = make_template(Q35);
	struct guest g;

	guest_init(&g, Q35);
	must(machine_start(g.m, NULL, LONG, err));
	snapshots_within(&g);
	must(machine_restore(g.m, s, NULL, LONG, err));
	snapshots_within(&g);
	guest_done(&g);
}

static void write_disks(struct guest *g, const char *text)
{
	_cleanup_free_ char *script =
		xasprintf("for d in vdc vdd vde; do echo %s | dd of=/dev/$d conv=sync,fsync "
			  "2>/dev/null; done",
			  text);

	free(guest_run(g, script));
}

#define HEADS "for d in vdc vdd vde; do head -n1 /dev/$d; done | tr '\\n' ' '"

/* Empty ones, raw and qcow2 files of the user's, read-only ones: all at the same instant, and the
 * user's files stay as they are. */
FIBER_TEST(disks_of_every_kind)
{
	_cleanup_free_ char *raw = path_join(dir, "data.raw");
	_cleanup_free_ char *qcow2 = path_join(dir, "data.qcow2");
	_cleanup_saved_ struct saved *one = NULL;
	_cleanup_close_ int fd = open(qcow2, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	static char data[MIB] = "from the host\n";
	char before[DIGEST_HEX_MAX], after[DIGEST_HEX_MAX];
	struct guest g;

	check(fd >= 0);
	must(qcow2_write_empty(fd, 32 * MIB, err));
	must(file_write_atomic(raw, data, sizeof(data), 0644, err));
	must(sha256_file(qcow2, before, err));
	guest_init(&g, "{\"name\": \"m\", \"image\": \"tiny\", \"memory\": \"256M\", \"disks\": ["
		       "\"16M\", {\"path\": \"data.raw\"}, {\"path\": \"data.qcow2\"}, "
		       "{\"path\": \"data.raw\", \"readonly\": true, \"name\": \"ro\"}]}");
	must(machine_start(g.m, NULL, LONG, err));
	write_disks(&g, "one");
	must(machine_save(g.m, true, LONG, &one, err));
	check(one->n_disks == 4);
	write_disks(&g, "two");
	for (int i = 0; i < 2; i++) {
		must(machine_restore(g.m, one, NULL, LONG, err));
		expect_run(&g, HEADS, "one one one ");
		expect_run(&g, "head -n1 /dev/vdf", "from the host");
		write_disks(&g, "three");
		expect_run(&g, HEADS, "three three three ");
	}
	must(machine_unplug(g.m, err));
	expect_run(&g, HEADS, "three three three ");
	guest_done(&g);
	must(sha256_file(qcow2, after, err));
	check_str(after, before);
}

FIBER_TEST(a_machine_that_is_off_is_its_disks)
{
	_cleanup_saved_ struct saved *never = NULL;
	_cleanup_saved_ struct saved *off = NULL;
	struct guest g;

	guest_init(&g, Q35);
	must(machine_save(g.m, true, LONG, &never, err));
	check(never->devices_fd < 0 && never->n_disks == 0);
	write_text(&g, "/root/n", "1");
	must(machine_shutdown(g.m, LONG, err));
	must(machine_save(g.m, true, LONG, &off, err));
	check(off->devices_fd < 0 && off->disks[0].n_layers == 1);
	write_text(&g, "/root/n", "2");
	must(machine_restore(g.m, off, NULL, LONG, err));
	check(machine_get_state(g.m) == MACHINE_OFF);
	expect_text(&g, "/root/n", "1");
	must(machine_restore(g.m, never, NULL, LONG, err));
	expect_run(&g, "ls /root/n 2>/dev/null || echo none", "none");
	guest_done(&g);
}

FIBER_TEST(a_vmm_that_waits)
{
	_cleanup_saved_ struct saved *s = make_template(Q35);
	struct guest g;

	guest_init(&g, Q35);
	machine_prestart(g.m, s);
	must(machine_restore(g.m, s, NULL, LONG, err));
	expect_text(&g, "/root/file", "of the template");
	must(machine_unplug(g.m, err));
	/* It need not be used, whatever comes. */
	machine_prestart(g.m, s);
	write_text(&g, "/root/n", "1");
	must(machine_unplug(g.m, err));
	machine_prestart(g.m, s);
	guest_done(&g);
}

struct saver {
	struct guest *g;
	struct saved *saved;
	struct error err;
};

static int saver_main(void *userdata)
{
	struct saver *s = userdata;

	return machine_save(s->g->m, true, LONG, &s->saved, &s->err);
}

/* Every moment of it: after so many turns of the loop. */
FIBER_TEST(the_vmm_is_killed_while_it_is_saved)
{
	bool ended = false;

	for (int turns = 1; turns < 4000 && !ended; turns *= 4) {
		struct fiber *fiber;
		struct guest g;
		struct saver s = {.g = &g};

		guest_init(&g, Q35);
		must(machine_start(g.m, NULL, LONG, err));
		fiber_start("saver", saver_main, &s, &fiber);
		for (int i = 0; i < turns && !fiber_is_done(fiber); i++)
			fiber_yield();
		ended = fiber_is_done(fiber);
		check(kill(vmm_pid(&g), SIGKILL) == 0);
		check(fiber_join(fiber, 60 * NS_PER_SEC, NULL) == 0);
		if (!ended) {
			check(fiber_result(fiber) < 0 && !s.saved);
			check(s.err.kind == ERROR_CRASH);
			check(strstr(s.err.message, "killed by signal 9"));
		}
		while (machine_get_state(g.m) != MACHINE_CRASHED)
			fiber_yield();
		fiber_unref(fiber);
		saved_unref(s.saved);
		must(machine_start(g.m, NULL, LONG, err));
		expect_run(&g, "hostname", "m");
		guest_done(&g);
	}
}

/* A state that is not whole is the host's fault, and the machine can be used afterwards. */
FIBER_TEST(a_state_that_is_cut_off)
{
	_cleanup_saved_ struct saved *s = make_template(Q35);
	struct error why = {};
	struct stat st;
	struct guest g;

	check(fstat(s->devices_fd, &st) == 0);
	check(ftruncate(s->devices_fd, st.st_size / 2) == 0);
	guest_init(&g, Q35);
	check(machine_restore(g.m, s, NULL, LONG, &why) < 0);
	check(why.kind == ERROR_INFRA);
	check(strstr(why.message, "machine 'm': the saved state was not taken up: "));
	check(machine_get_state(g.m) == MACHINE_OFF);
	must(machine_start(g.m, NULL, LONG, err));
	expect_run(&g, "hostname", "m");
	guest_done(&g);
}

/* The state does not fit: nothing is saved, and the machine goes on. */
FIBER_TEST(the_disk_is_full)
{
	_cleanup_free_ char *small = path_join(dir, "small");
	struct saved *s = NULL;
	struct error why = {};
	struct guest g;

	check(mkdir(small, 0700) == 0);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", small, "tmpfs", 0, "size=16m") < 0) {
		print_message("not root: no small disk can be made\n");
		return;
	}
	guest_init(&g, Q35);
	g.env.work_dir = small;
	must(machine_start(g.m, NULL, LONG, err));
	write_text(&g, "/root/n", "1");
	check(machine_save(g.m, true, LONG, &s, &why) < 0);
	check(why.kind == ERROR_INFRA && !s);
	check(strstr(why.message, "machine 'm': QEMU cannot save the machine: "));
	check(machine_is_up(g.m));
	expect_text(&g, "/root/n", "1");
	guest_done(&g);
	check(umount(small) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forks_of_a_q35),
		cmocka_unit_test(forks_of_a_microvm),
		cmocka_unit_test(a_second_level),
		cmocka_unit_test(snapshots_of_a_machine_and_of_a_fork),
		cmocka_unit_test(disks_of_every_kind),
		cmocka_unit_test(a_machine_that_is_off_is_its_disks),
		cmocka_unit_test(a_vmm_that_waits),
		cmocka_unit_test(the_vmm_is_killed_while_it_is_saved),
		cmocka_unit_test(a_state_that_is_cut_off),
		cmocka_unit_test(the_disk_is_full),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
