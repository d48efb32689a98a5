/* SPDX-License-Identifier: MIT */
/* Templates: what is committed is found as it was; what is broken is thrown away. */
#include "template-test.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "machine/backend.h"

const struct backend_ops *const backend_registry[] = {&backend_fake, NULL};

static ino_t inode(int fd)
{
	struct stat st;

	check(fstat(fd, &st) == 0);
	return st.st_ino;
}

static dev_t device(const char *path)
{
	struct stat st;

	check(stat(path, &st) == 0);
	return st.st_dev;
}

static void what_is_committed_is_found(void **state)
{
	struct template *made, *t = NULL;
	const struct saved *s;
	struct stat st;

	assert_int_equal(template_open(KEY_A, &t, NULL), 0);
	made = new_template(KEY_A, "server (debian-13)");
	made->fork_bytes = 40 * MIB;
	assert_int_equal(template_open(KEY_A, &t, NULL), 0);
	assert_int_equal(template_commit(made, NULL), 0);
	assert_int_equal(template_open(KEY_A, &t, NULL), 1);
	assert_string_equal(t->key, KEY_A);
	assert_string_equal(t->title, "server (debian-13)");
	assert_string_equal(json_string_value(json_object_get(t->notes, "result")), "ready");
	assert_int_equal(t->fork_bytes, 40 * MIB);
	assert_int_equal(t->n_machines, 2);
	assert_string_equal(t->machines[0].name, "server");
	assert_string_equal(t->machines[1].name, "spare");
	assert_null(t->machines[1].saved);
	s = t->machines[0].saved;
	check_text(s->devices_fd, "devices");
	check_text(s->memory_fd, "memory");
	assert_int_equal(s->n_disks, 1);
	assert_string_equal(s->disks[0].name, "scratch0");
	assert_int_equal(s->disks[0].n_layers, 2);
	check_text(s->disks[0].layers[0], "below");
	check_text(s->disks[0].layers[1], "above");
	assert_string_equal(json_string_value(json_object_get(s->vm, "machine")), "pc-q35-7.2");
	assert_int_equal(json_integer_value(json_object_get(s->core, "boots")), 3);
	/* Nothing was copied, and the memory is where it was made. */
	assert_int_equal(inode(s->memory_fd), inode(made->machines[0].saved->memory_fd));
	assert_int_equal(inode(s->devices_fd), inode(made->machines[0].saved->devices_fd));
	assert_int_equal(fstat(s->memory_fd, &st), 0);
	assert_int_equal(st.st_size, MEMORY_BYTES);
	assert_int_equal(st.st_dev, device(tmpfs_dir));
	template_free(made);
	template_free(t);
}

static void machines_that_are_off_have_disks_only(void **state)
{
	struct template *t = new_template(KEY_A, "off");
	struct saved *s = t->machines[0].saved;

	close(s->devices_fd);
	close(s->memory_fd);
	s->devices_fd = s->memory_fd = -1;
	json_decref(t->notes);
	t->notes = NULL;
	assert_int_equal(template_commit(t, NULL), 0);
	template_free(t);
	assert_int_equal(template_open(KEY_A, &t, NULL), 1);
	s = t->machines[0].saved;
	assert_int_equal(s->devices_fd, -1);
	assert_int_equal(s->memory_fd, -1);
	assert_int_equal(s->disks[0].n_layers, 2);
	assert_true(json_is_object(t->notes));
	template_free(t);
	assert_int_equal(count_below(tmpfs_dir), 3); /* the user's, this cache's, its owner */
}

/* The second level lies on the first one's layers, and outlives it. */
static void layers_of_another_are_linked(void **state)
{
	struct template *below, *above = new_template(KEY_B, "above");
	struct saved *s;
	int layer;

	commit_new(KEY_A, "below");
	assert_int_equal(template_open(KEY_A, &below, NULL), 1);
	layer = below->machines[0].saved->disks[0].layers[1];
	saved_push_layer(above->machines[0].saved, "data", dup(layer));
	assert_int_equal(template_commit(above, NULL), 0);
	template_free(above);
	assert_int_equal(template_discard(KEY_A, NULL), 0);
	/* Whoever has it open goes on. */
	check_text(layer, "above");
	check_text(below->machines[0].saved->memory_fd, "memory");
	assert_int_equal(template_open(KEY_A, &above, NULL), 0);
	assert_int_equal(template_open(KEY_B, &above, NULL), 1);
	s = above->machines[0].saved;
	assert_int_equal(inode(saved_find_disk(s, "data")->layers[0]), inode(layer));
	template_free(below);
	template_free(above);
	assert_int_equal(template_discard(KEY_A, NULL), 0);
}

/* Files of another file system, and files whose last name is gone. */
static void what_cannot_be_linked_is_copied(void **state)
{
	struct template *t = new_template(KEY_A, "copied"), *found;
	struct saved *s = t->machines[0].saved;
	_cleanup_free_ char *path = path_join(cache_dir, "file");
	struct stat st;
	int gone;

	close(s->memory_fd);
	s->memory_fd = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->memory_fd, MEMORY_BYTES), 0);
	assert_int_equal(pwrite(s->memory_fd, "x", 1, MEMORY_BYTES / 2), 1);
	gone = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(gone, "gone", 4), 0);
	assert_int_equal(unlink(path), 0);
	saved_push_layer(s, "data", gone);
	assert_int_equal(template_commit(t, NULL), 0);
	template_free(t);
	assert_int_equal(template_open(KEY_A, &found, NULL), 1);
	s = found->machines[0].saved;
	check_text(saved_find_disk(s, "data")->layers[0], "gone");
	assert_int_equal(fstat(s->memory_fd, &st), 0);
	assert_int_equal(st.st_size, MEMORY_BYTES);
	assert_true(st.st_blocks * 512 < MEMORY_BYTES / 2);
	template_free(found);
}

static void a_second_one_takes_the_place_of_the_first(void **state)
{
	struct template *first, *second;

	commit_new(KEY_A, "first");
	assert_int_equal(template_open(KEY_A, &first, NULL), 1);
	commit_new(KEY_A, "second");
	assert_int_equal(template_open(KEY_A, &second, NULL), 1);
	assert_string_equal(second->title, "second");
	check_text(first->machines[0].saved->memory_fd, "memory");
	template_free(first);
	template_free(second);
	/* Two machines, and nothing of the first one: directory, link, 3 files of the machine,
	 * manifest, used. */
	assert_int_equal(count_templates(), 7);
}

/* ---- what is broken --------------------------------------------------------------------- */

static void break_it(const char *command)
{
	_cleanup_free_ char *all =
		xasprintf("cd '%s/templates/%.12s' && %s", cache_dir, KEY_A, command);

	assert_int_equal(system(all), 0);
}

static const struct {
	const char *command, *message;
} faults[] = {
	{"printf X | dd of=0.devices conv=notrunc status=none && touch -r ref 0.devices",
	 "its device state (0.devices) does not have the digest that it was saved with"},
	{"truncate -s 4096 memory/0.memory",
	 "its memory (0.memory) has 4096 bytes instead of 1048576"},
	{"printf X | dd of=memory/0.memory conv=notrunc status=none",
	 "its memory (0.memory) was changed since"},
	{"rm memory/0.memory", "its memory (0.memory) cannot be opened: No such file or directory"},
	{"rm 0.0.1", "its disk 'scratch0' (0.0.1) cannot be opened: No such file or directory"},
	{"cp 0.0.0 x && touch -r 0.0.0 x && mv x 0.0.0",
	 "its disk 'scratch0' (0.0.0) was changed since"},
};

static void a_broken_one_is_thrown_away(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		_cleanup_free_ char *wanted = xasprintf(
			"template 'web' is broken: machine 'server': %s", faults[i].message);
		struct template *t;
		struct error err = {};

		commit_new(KEY_A, "web");
		break_it("cp -p 0.devices ref");
		break_it(faults[i].command);
		assert_int_equal(template_open(KEY_A, &t, &err), -EBADMSG);
		/* The link says where, the user does not care. */
		for (char *p; (p = strstr(err.message, "memory/0."));)
			memmove(p, p + 7, strlen(p + 7) + 1);
		assert_string_equal(err.message, wanted);
		assert_int_equal(err.kind, ERROR_INFRA);
		assert_int_equal(template_open(KEY_A, &t, NULL), 0);
		assert_int_equal(count_templates(), 0);
		assert_int_equal(count_below(tmpfs_dir), 3);
	}
}

static void a_broken_manifest_too(void **state)
{
	static const struct {
		const char *command, *message;
	} manifests[] = {
		{"rm manifest.json",
		 "template 'aaaaaaaaaaaa' is broken: its manifest cannot be read: No such file or "
		 "directory"},
		{"printf '{' > manifest.json",
		 "template 'aaaaaaaaaaaa' is broken: its manifest is no JSON: string or '}' "
		 "expected near end of file"},
		{"sed -i 's/\"version\": 1/\"version\": 99/' manifest.json",
		 "template 'aaaaaaaaaaaa' is broken: its manifest is of another version"},
		{"sed -i 's/\"machines\"/\"things\"/' manifest.json",
		 "template 'aaaaaaaaaaaa' is broken: its manifest lacks what a template is"},
		{"sed -i 's/\"core\"/\"corn\"/' manifest.json",
		 "template 'web' is broken: machine 'server': its manifest lacks what a saved "
		 "machine is"},
		{"sed -i 's/\"inode\"/\"node\"/' manifest.json",
		 "template 'web' is broken: machine 'server': its manifest does not say what the "
		 "file of its device state is"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(manifests); i++) {
		struct template *t;
		struct error err = {};

		commit_new(KEY_A, "web");
		break_it(manifests[i].command);
		assert_int_equal(template_open(KEY_A, &t, &err), -EBADMSG);
		assert_string_equal(err.message, manifests[i].message);
		assert_int_equal(template_open(KEY_A, &t, NULL), 0);
		assert_int_equal(count_templates(), 0);
	}
}

/* Nothing was synced to disk, and memory on the tmpfs is gone anyway: no fault, just old. */
static void another_boots_is_none(void **state)
{
	struct template *t;
	struct error err = {};

	commit_new(KEY_A, "web");
	break_it("sed -i 's/\"boot\": \"[^\"]*/\"boot\": \"other/' manifest.json");
	assert_int_equal(template_open(KEY_A, &t, &err), 0);
	assert_false(error_is_set(&err));
	assert_int_equal(count_templates(), 0);
	assert_int_equal(count_below(tmpfs_dir), 3);
}

/* Of which the store knows only the beginning. */
static void another_key_is_not_taken_for_this_one(void **state)
{
	char other[DIGEST_HEX_MAX] = KEY_A;
	struct template *t;

	other[63] = 'f';
	commit_new(KEY_A, "web");
	assert_int_equal(template_open(other, &t, NULL), 0);
	assert_true(is_there(KEY_A));
}

static void the_largest_cost_counts(void **state)
{
	struct template *t;

	template_note_cost(KEY_A, 5); /* there is none */
	commit_new(KEY_A, "web");
	assert_int_equal(template_open(KEY_A, &t, NULL), 1);
	assert_int_equal(t->fork_bytes, 0);
	template_free(t);
	template_note_cost(KEY_A, 40 * MIB);
	template_note_cost(KEY_A, 30 * MIB);
	assert_int_equal(template_open(KEY_A, &t, NULL), 1);
	assert_int_equal(t->fork_bytes, 40 * MIB);
	template_free(t);
}

/* ---- things that happen meanwhile ------------------------------------------------------- */

static void the_cache_is_removed_meanwhile(void **state)
{
	struct template *t = new_template(KEY_A, "web");

	assert_int_equal(path_remove_tree(cache_dir, NULL), 0);
	assert_int_equal(template_commit(t, NULL), 0);
	assert_true(is_there(KEY_A));
	template_free(t);
	assert_int_equal(path_remove_tree(cache_dir, NULL), 0);
	assert_false(is_there(KEY_A));
	/* Its memory may be that of a container with the same path: it goes an hour later, when
	 * the next one is made. */
	commit_new(KEY_B, "other");
	assert_true(count_below(tmpfs_dir) > 5);
	make_memory_idle();
	commit_new(KEY_A, "other");
	assert_int_equal(count_below(tmpfs_dir), 7);
}

/* Killed by the signal of a file that grows too large, right in the copying. */
static void a_killed_commit_is_never_found(void **state)
{
	struct template *t = new_template(KEY_A, "web");
	struct rlimit limit = {64 * KIB, 64 * KIB};
	_cleanup_free_ char *memory_dir = NULL, *work_dir = NULL;
	int status;
	pid_t pid;

	t->machines[1].saved = saved_new();
	t->machines[1].saved->memory_fd = memfd_create("memory", MFD_CLOEXEC);
	for (size_t i = 0; i < 100; i++)
		assert_int_equal(pwrite(t->machines[1].saved->memory_fd, cache_dir, 64,
					(off_t)(i * 4 * KIB)),
				 64);
	pid = fork();
	if (pid == 0) {
		const struct rlimit no_core = {0, 0};

		setrlimit(RLIMIT_CORE, &no_core);
		setrlimit(RLIMIT_FSIZE, &limit);
		signal(SIGXFSZ, SIG_DFL);
		(void)template_commit(t, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
	/* Much is there, and none of it counts. */
	assert_true(count_templates() > 3);
	assert_int_equal(count_below(tmpfs_dir), 5);
	assert_false(is_there(KEY_A));
	assert_int_equal(template_work_dirs(1, &memory_dir, &work_dir, NULL), 0);
	assert_int_equal(count_templates(), 0);
	assert_int_equal(count_below(tmpfs_dir), 3);
	template_free(t);
}

static void a_failed_commit_leaves_nothing(void **state)
{
	struct template *t = new_template(KEY_A, "web");
	struct rlimit old, limit;
	struct error err = {};
	int r;

	t->machines[1].saved = saved_new();
	t->machines[1].saved->memory_fd = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(t->machines[1].saved->memory_fd, 2 * MIB), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){MIB, old.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	r = template_commit(t, &err);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(r, -EFBIG);
	assert_true(str_starts(err.message, "template 'web' cannot be kept: '"));
	assert_int_equal(count_templates(), 0);
	assert_int_equal(count_below(tmpfs_dir), 3);
	template_free(t);
}

/* As two runs do: whoever has the lock first makes it, the other one finds it. */
static int ensure(bool *ret_made)
{
	_cleanup_close_ int lock = -EBADF;
	struct template *t;
	int r = template_lock(KEY_A, &lock, NULL);

	if (r >= 0)
		r = template_open(KEY_A, &t, NULL);
	if (r == 1)
		template_free(t);
	*ret_made = r == 0;
	if (r == 0)
		commit_new(KEY_A, "web");
	return r;
}

static int other_run(void *userdata)
{
	bool made;

	return ensure(&made) < 0 ? 2 : made;
}

static void two_runs_make_it_once(void **state)
{
	int made = 0, lock = -EBADF, status;
	pid_t pids[4];

	/* All of them meet at the lock. */
	assert_true(template_lock(KEY_A, &lock, NULL) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			close(lock);
			_exit(loop_main("other", other_run, NULL));
		}
	}
	close(lock);
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		assert_true(waitpid(pids[i], &status, 0) == pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
		made += WEXITSTATUS(status);
	}
	assert_true(made == 1);
	assert_true(is_there(KEY_A));
}

int main(void)
{
#define CLEAN(t) cmocka_unit_test_setup_teardown(t, make_dirs, remove_dirs)
	const struct CMUnitTest tests[] = {
		CLEAN(what_is_committed_is_found),
		CLEAN(machines_that_are_off_have_disks_only),
		CLEAN(layers_of_another_are_linked),
		CLEAN(what_cannot_be_linked_is_copied),
		CLEAN(a_second_one_takes_the_place_of_the_first),
		CLEAN(a_broken_one_is_thrown_away),
		CLEAN(a_broken_manifest_too),
		CLEAN(another_boots_is_none),
		CLEAN(another_key_is_not_taken_for_this_one),
		CLEAN(the_largest_cost_counts),
		CLEAN(the_cache_is_removed_meanwhile),
		CLEAN(a_killed_commit_is_never_found),
		CLEAN(a_failed_commit_leaves_nothing),
		CLEAN(two_runs_make_it_once),
	};

	return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
