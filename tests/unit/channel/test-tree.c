/* SPDX-License-Identifier: MIT */
/* Trees copied in and out, with the real agent; and with one that means harm. */
#include "agent-fixture.h"

#include "proto/agent-wire.h"
#include "proto/tree-wire.h"

const char *agent_program;

/* --- the real agent -----------------------------------------------------------------------------
 */

static void copied(int rc, const struct error *err)
{
	if (rc < 0) {
		fprintf(stderr, "the copy failed: %s\n", err->message);
		abort();
	}
}

static void copy_in(struct fixture *f, const char *from, const char *to)
{
	_cleanup_free_ char *src = in_dir(f, from), *dst = in_dir(f, to);
	struct error err = {};

	copied(agent_copy_in(f->agent, src, dst, 60 * NS_PER_SEC, &err), &err);
}

static void copy_out(struct fixture *f, const char *from, const char *to)
{
	_cleanup_free_ char *src = in_dir(f, from), *dst = in_dir(f, to);
	struct error err = {};

	copied(agent_copy_out(f->agent, src, dst, 60 * NS_PER_SEC, &err), &err);
}

/* Types, modes, times, link counts, sizes, names, targets, contents. */
static void same(struct fixture *f, const char *a, const char *b)
{
	_cleanup_free_ char *script = xasprintf(
		"l() { (cd $1; find . -printf '%%y %%m %%T@ %%n %%s %%p %%l\\n' | sed 's/^d "
		"\\([0-9]* [^ ]*\\) [0-9]* [0-9]*/d \\1/' | LC_ALL=C sort); }; l %s >.a; l %s >.b; "
		"diff .a .b; diff -r --no-dereference %s %s",
		a, b, a, b);

	sh(f, script);
}

FIBER_TEST(test_round_trip)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "mkdir -p a/sub/deeper a/empty; echo text >a/file; : >a/nothing; head -c 3000000 "
	       "/dev/urandom >a/sub/random; ln a/file a/sub/hard; ln -s ../nowhere a/dangling; ln "
	       "-s /etc/passwd a/absolute; printf x >\"$(printf 'a/new\\nline')\"; printf y "
	       ">\"$(printf 'a/not\\377utf8')\"; chmod 0711 a/file; chmod 1777 a/empty; chmod 0555 "
	       "a/sub/deeper; touch -d '1971-02-03 04:05:06.123456789' a/file a/sub; touch -h -d "
	       "'2001-01-01 00:00:00.5' a/dangling; touch -d '1999-09-09' a");
	copy_in(&f, "a", "made/on/the/way/b");
	same(&f, "a", "made/on/the/way/b");
	copy_out(&f, "a", "also/made/c");
	same(&f, "a", "also/made/c");
	fixture_stop(&f);
}

FIBER_TEST(test_single_files)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "echo hello >a; chmod 0640 a; mkdir d");
	copy_in(&f, "a", "b");
	copy_in(&f, "a", "d");
	copy_in(&f, "a", "new/");
	copy_out(&f, "a", "c");
	copy_out(&f, "b", "d");
	sh(&f,
	   "for i in b c d/a d/b new/a; do cmp a $i; done; test $(stat -c %a b c d/a | sort -u) = "
	   "640; ln -s a link");
	/* A link given by name is followed. */
	copy_in(&f, "link", "e");
	copy_out(&f, "link", "g");
	sh(&f, "test ! -L e; test ! -L g; cmp a e; cmp a g");
	fixture_stop(&f);
}

FIBER_TEST(test_into_what_is_there)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "mkdir -p a/lib/x a/etc; echo new >a/lib/x/f; echo new >a/etc/conf; mkdir -p "
	       "root/usr/lib root/etc; ln -s usr/lib root/lib; echo old >root/etc/conf; chmod 0700 "
	       "root/etc; ln -s ../etc root/usr/linked");
	copy_in(&f, "a", "root");
	/* The guest's directory links stay what they are. */
	sh(&f, "test -L root/lib; test \"$(cat root/usr/lib/x/f)\" = new; test \"$(cat "
	       "root/etc/conf)\" = new; test $(stat -c %a root/etc) = 700");
	fixture_stop(&f);
}

FIBER_TEST(test_sparse)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "truncate -s 3G a; echo middle | dd of=a bs=1M seek=2000 conv=notrunc status=none; "
	       "truncate -s 4G a");
	copy_in(&f, "a", "b");
	copy_out(&f, "a", "c");
	sh(&f, "for i in b c; do test $(stat -c %s $i) = 4294967296; test $(stat -c %b $i) -le "
	       "$(stat -c %b a); cmp -i 2097100000 -n 100000 a $i; done");
	fixture_stop(&f);
}

FIBER_TEST(test_many_small_files)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "mkdir a; cd a; for i in 1 2 3; do mkdir $i; (cd $i; seq 200 | split "
	       "-l 1 "
	       "-a 3); done");
	copy_in(&f, "a", "b");
	same(&f, "a", "b");
	copy_out(&f, "a", "c");
	same(&f, "a", "c");
	fixture_stop(&f);
}

FIBER_TEST(test_fifo)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "mkdir a; mkfifo a/fifo; echo x >a/x");
	copy_in(&f, "a", "b");
	copy_out(&f, "a", "c");
	/* Kept downwards, left out upwards. */
	sh(&f, "test -p b/fifo; test ! -e c/fifo; cmp a/x c/x");
	fixture_stop(&f);
}

static void fails(int rc, struct error *err, enum error_kind kind, const char *text)
{
	check(rc < 0);
	if (err->kind != kind || !strstr(err->message, text)) {
		fprintf(stderr, "got %s '%s', wanted %s '%s'\n", error_kind_name(err->kind),
			err->message, error_kind_name(kind), text);
		abort();
	}
	error_clear(err);
}

FIBER_TEST(test_errors)
{
	struct fixture f;
	struct error err = {};
	_cleanup_free_ char *file = NULL, *below = NULL, *dir = NULL;

	fixture_start(&f, NULL);
	file = in_dir(&f, "file");
	below = in_dir(&f, "file/x");
	dir = in_dir(&f, "d");
	sh(&f, "echo x >file; mkdir -p d/file into; mkdir into/file");
	fails(agent_copy_out(f.agent, "/no/such", dir, NS_PER_SEC, &err), &err, ERROR_EXPECT,
	      "'/no/such' does not exist in the machine");
	fails(agent_copy_in(f.agent, "/no/such", dir, NS_PER_SEC, &err), &err, ERROR_USAGE,
	      "cannot copy '/no/such': No such file");
	fails(agent_copy_in(f.agent, file, below, NS_PER_SEC, &err), &err, ERROR_EXPECT, "/file'");
	fails(agent_copy_in(f.agent, dir, file, NS_PER_SEC, &err), &err, ERROR_EXPECT,
	      "a file of that name exists");
	fails(agent_copy_out(f.agent, file, below, NS_PER_SEC, &err), &err, ERROR_INFRA, "file");
	fails(agent_copy_in(f.agent, "/dev/null", dir, NS_PER_SEC, &err), &err, ERROR_USAGE,
	      "neither a file nor a directory");
	/* The session lives on. */
	check(agent_ping(f.agent, NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
}

/* Too large for the guest's disk: which file, and nothing of it is left. */
FIBER_TEST(test_disk_full)
{
	struct fixture f;
	char *as_root[] = {"unshare", "-m", NULL}, *as_user[] = {"unshare", "-Urm", NULL};
	char *probe[] = {"unshare", geteuid() == 0 ? "-m" : "-Urm", "true", NULL};
	struct run_result result = {};
	bool can = process_run(probe, NULL, NULL, 0, MIB, 20 * NS_PER_SEC, &result, NULL) >= 0 &&
		   result.status == 0;
	_cleanup_free_ char *src = NULL, *dst = NULL, *script = NULL;
	struct agent_command cmd = {};
	struct agent_result r = {};
	struct error err = {};

	run_result_done(&result);
	if (!can) {
		fprintf(stderr, "not tested: no mount namespace can be made here\n");
		return;
	}
	fixture_start(&f, geteuid() == 0 ? as_root : as_user);
	sh(&f, "mkdir -p a/sub full; head -c 3000000 /dev/zero >a/sub/large");
	script = xasprintf("mount -t tmpfs -o size=1M none %s/full", f.dir);
	cmd.script = script;
	check(agent_run(f.agent, &cmd, 20 * NS_PER_SEC, &r, NULL) == 0 && r.code == 0);
	agent_result_done(&r);
	src = in_dir(&f, "a");
	dst = in_dir(&f, "full/b");
	fails(agent_copy_in(f.agent, src, dst, 20 * NS_PER_SEC, &err), &err, ERROR_EXPECT,
	      "full/b/sub/large': No space left on device");
	free(script);
	script = xasprintf("ls -A %s/full/b/sub", f.dir);
	cmd.script = script;
	check(agent_run(f.agent, &cmd, 20 * NS_PER_SEC, &r, NULL) == 0 && r.code == 0);
	check_str(buf_str(&r.out), "");
	agent_result_done(&r);
	fixture_stop(&f);
}

/* The fiber is cancelled, or the time runs out, in mid-copy: nothing half is left. */
FIBER_TEST(test_given_up)
{
	struct fixture f;
	struct error err = {};
	_cleanup_free_ char *src = NULL, *dst = NULL;

	fixture_start(&f, NULL);
	sh(&f, "head -c 300000000 /dev/zero >a");
	src = in_dir(&f, "a");
	dst = in_dir(&f, "b");
	fails(agent_copy_in(f.agent, src, dst, 20 * NS_PER_MS, &err), &err, ERROR_TIMEOUT,
	      "the copy of '");
	sh(&f, "test ! -e b");
	fails(agent_copy_out(f.agent, src, dst, 20 * NS_PER_MS, &err), &err, ERROR_TIMEOUT,
	      "the copy of '");
	sh(&f, "test ! -e b");
	check(agent_ping(f.agent, 10 * NS_PER_SEC, NULL) == 0);
	fixture_stop(&f);
}

/* --- an agent that means harm -------------------------------------------------------------------
 */

struct villain {
	struct io *io;
	struct wire_decoder decoder;
	uint64_t nonce;
	const struct buf *tree; /* what it sends for any copy */
};

static void villain_send(struct villain *v, uint8_t type, uint16_t arg, uint8_t flags,
			 uint32_t call, const void *payload, size_t len)
{
	struct wire_header h = {
		.type = type,
		.arg = arg,
		.flags = flags,
		.call = call,
		.len = len,
		.nonce = v->nonce,
	};
	uint8_t *frame = xmalloc(WIRE_OVERHEAD + len);

	if (len > 0)
		memcpy(frame + WIRE_HEADER, payload, len);
	wire_seal(&h, frame, frame + WIRE_HEADER + len);
	io_write_all(v->io, frame, WIRE_OVERHEAD + len, NS_FOREVER, NULL);
	free(frame);
}

static void villain_answer(struct villain *v, const struct wire_header *h,
			   const struct wire_fields *in)
{
	_cleanup_buf_ struct buf b = {};
	uint64_t id;

	if (h->type == WIRE_ATTACH && wire_get_u64(in, TAG_HOST_ID, &id)) {
		wire_put_u32(&b, TAG_VERSION, WIRE_VERSION);
		wire_put_u64(&b, TAG_HOST_ID, id);
		wire_put_str(&b, TAG_BUILD, "villain");
		wire_put_str(&b, TAG_BOOT_ID, "villain");
		wire_put_str(&b, TAG_PHASE, "system");
		v->nonce = 12345;
		villain_send(v, WIRE_HELLO, 0, 0, 0, b.data, b.len);
	} else if (h->type == WIRE_CALL && h->arg == WIRE_OP_COPY_OUT) {
		villain_send(v, WIRE_DATA, WIRE_STREAM_OUT, 0, h->call, v->tree->data,
			     v->tree->len);
		villain_send(v, WIRE_DATA, WIRE_STREAM_OUT, WIRE_FIN, h->call, NULL, 0);
		villain_send(v, WIRE_REPLY, 0, 0, h->call, NULL, 0);
	}
}

static int villain_main(void *userdata)
{
	struct villain *v = userdata;

	for (;;) {
		struct wire_header h;
		const uint8_t *payload;
		size_t room;
		void *space = wire_decoder_space(&v->decoder, &room);
		ssize_t n = io_read(v->io, space, room, NS_FOREVER, NULL);

		if (n <= 0)
			return 0;
		wire_decoder_fill(&v->decoder, n);
		while (wire_decoder_next(&v->decoder, &h, &payload))
			villain_answer(v, &h, &(struct wire_fields){payload, h.len});
	}
}

/* What the host makes of a tree. */
static int receive(const struct buf *tree, const char *dst, struct error *err)
{
	struct villain v = {.tree = tree};
	_cleanup_fiber_ struct fiber *fiber = NULL;
	struct agent *a;
	int fds[2], rc;

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	wire_decoder_init(&v.decoder);
	v.io = io_new(fds[1]);
	fiber_start("villain", villain_main, &v, &fiber);
	a = agent_new(io_new(fds[0]), NULL, NULL);
	rc = agent_copy_out(a, "/whatever", dst, 20 * NS_PER_SEC, err);
	agent_free(a);
	check(fiber_join(fiber, 20 * NS_PER_SEC, NULL) == 0);
	io_free(v.io);
	wire_decoder_done(&v.decoder);
	return rc;
}

static void put(struct buf *b, enum tree_type type, const char *name, const char *target)
{
	tree_encode_entry(b, &(struct tree_entry){
				     .type = type, .mode = 06777, .name = name, .target = target});
}

FIBER_TEST(test_hostile_guest)
{
	char dir[] = "/tmp/test-tree-XXXXXX";
	struct fixture f = {};
	_cleanup_free_ char *dst = NULL;
	_cleanup_buf_ struct buf b = {};
	struct error err = {};

	check(mkdtemp(dir));
	strcpy(f.dir, dir);
	dst = in_dir(&f, "dst");
	sh(&f, "mkdir outside");
	/* A name that leads out. */
	tree_encode_start(&b);
	put(&b, TREE_DIR, "", NULL);
	put(&b, TREE_FILE, "../outside/x", NULL);
	fails(receive(&b, dst, &err), &err, ERROR_INFRA, "damaged tree for '/whatever'");
	/* A link that leads out, and an entry through it. */
	buf_truncate(&b, 0);
	tree_encode_start(&b);
	put(&b, TREE_DIR, "", NULL);
	put(&b, TREE_SYMLINK, "l", "../outside");
	put(&b, TREE_DIR, "l", NULL);
	put(&b, TREE_FILE, "x", NULL);
	fails(receive(&b, dst, &err), &err, ERROR_INFRA, "symbolic link");
	/* The top itself as a link, and nothing behind it. */
	buf_truncate(&b, 0);
	tree_encode_start(&b);
	put(&b, TREE_DIR, "", NULL);
	fails(receive(&b, dst, &err), &err, ERROR_INFRA, "ended before its end");
	/* Devices and set-user-ID files. */
	buf_truncate(&b, 0);
	tree_encode_start(&b);
	put(&b, TREE_DIR, "", NULL);
	put(&b, TREE_CHAR, "null", NULL);
	put(&b, TREE_FIFO, "fifo", NULL);
	put(&b, TREE_FILE, "suid", NULL);
	tree_encode_end_file(&b, 0);
	put(&b, TREE_UP, "", NULL);
	tree_encode_finish(&b, 4);
	check(receive(&b, dst, &err) == 0);
	sh(&f,
	   "test -z \"$(ls -A outside)\"; test \"$(ls -A dst)\" = \"$(printf 'l\\nsuid')\"; test "
	   "$(stat -c %a dst/suid) = 777; cd /; rm -r \"$OLDPWD\"");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_single_files),
		cmocka_unit_test(test_into_what_is_there),
		cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_many_small_files),
		cmocka_unit_test(test_fifo),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_disk_full),
		cmocka_unit_test(test_given_up),
		cmocka_unit_test(test_hostile_guest),
	};

	assert_int_equal(argc, 2);
	agent_program = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
