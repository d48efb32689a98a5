/* SPDX-License-Identifier: MIT */
/* Waiting for files, sockets, mounts and processes, with the real agent. */
#include "agent-fixture.h"

#include <arpa/inet.h>
#include <sys/un.h>

const char *agent_program;

/* --- the waits by name ------------------------------------------------------------------------ */

static int wait_file(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	_cleanup_free_ char *path = path_join(f->dir, arg);

	return agent_wait_file(f->agent, path, false, timeout_ns, err);
}

static int wait_gone(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	_cleanup_free_ char *path = path_join(f->dir, arg);

	return agent_wait_file(f->agent, path, true, timeout_ns, err);
}

/* "tcp 80", "udp 53 ::1", "unix PATH", "dgram PATH", with "!" in front: closed. */
static int wait_socket(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	struct agent_socket_wait w = {.closed = *arg == '!', .address = "localhost"};
	char type[16], first[128], second[64] = "";

	check(sscanf(arg + w.closed, "%15s %127s %63s", type, first, second) >= 2);
	if (str_eq(type, "tcp") || str_eq(type, "udp")) {
		w.type = str_eq(type, "tcp") ? AGENT_SOCKET_TCP : AGENT_SOCKET_UDP;
		w.port = atoi(first);
		if (*second)
			w.address = second;
	} else {
		w.type = str_eq(type, "unix") ? AGENT_SOCKET_UNIX : AGENT_SOCKET_UNIX_DGRAM;
		w.address = first;
	}
	return agent_wait_socket(f->agent, &w, timeout_ns, err);
}

static bool contains(const char *cmdline, void *userdata)
{
	return strstr(cmdline, userdata);
}

static int wait_process(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	return agent_wait_process(f->agent, contains, (void *)arg, arg, timeout_ns, err);
}

static int wait_mount(struct fixture *f, const char *arg, uint64_t timeout_ns, struct error *err)
{
	return agent_wait_mount(f->agent, arg, timeout_ns, err);
}

/* --- files --------------------------------------------------------------------------------------
 */

static void file_case(struct fixture *f, const char *pattern, const char *script)
{
	struct waiting w = {.wait = wait_file, .f = f, .arg = pattern};
	uint64_t t;

	waiting_begin(&w);
	t = now_ns();
	sh(f, script);
	waiting_succeeds(&w, t);
}

FIBER_TEST(test_file_appears)
{
	struct fixture f;

	fixture_start(&f, NULL);
	file_case(&f, "plain", "echo >plain");
	file_case(&f, "a/b/c/deep", "mkdir -p a/b/c; echo >a/b/c/deep");
	file_case(&f, "moved/x", "mkdir tmp; echo >tmp/x; mv tmp moved");
	file_case(&f, "glob/*/[xy]?.log", "mkdir -p glob/1 glob/2; echo >glob/2/y7.log");
	file_case(&f, "a/../up", "echo >up");
	file_case(&f, "real", "ln -s target link; ln -s link real; echo >target");
	file_case(&f, "through/f", "ln -s elsewhere through; mkdir elsewhere; echo >elsewhere/f");
	file_case(&f, "odd\\*name", "echo >oddXname; echo >'odd*name'");
	file_case(&f, "sp ace/ü", "mkdir 'sp ace'; echo >'sp ace/ü'");
	fixture_stop(&f);
}

/* Directories on the way that are removed and made again, and a link that is turned. */
FIBER_TEST(test_file_way_changes)
{
	struct fixture f;

	fixture_start(&f, NULL);
	sh(&f, "mkdir -p a/b");
	file_case(&f, "a/b/f", "rm -r a; mkdir -p a/b; rm -r a/b; mkdir a/b; echo >a/b/f");
	sh(&f, "mkdir one two; ln -s one way; echo >two/g");
	file_case(&f, "way/g", "ln -sfn two way");
	fixture_stop(&f);
}

FIBER_TEST(test_file_is_gone)
{
	struct fixture f;
	struct waiting w = {.wait = wait_gone, .f = &f, .arg = "d/*.pid"};
	uint64_t t;

	fixture_start(&f, NULL);
	check(agent_wait_file(f.agent, "/nonexistent/x", true, NS_PER_SEC, NULL) == 0);
	sh(&f, "mkdir d; echo >d/1.pid; echo >d/2.pid");
	waiting_begin(&w);
	sh(&f, "rm d/1.pid");
	check(agent_ping(f.agent, 20 * NS_PER_SEC, NULL) == 0);
	check(!fiber_is_done(w.fiber));
	t = now_ns();
	sh(&f, "mv d/2.pid d/2.other");
	waiting_succeeds(&w, t);
	fixture_stop(&f);
}

FIBER_TEST(test_file_not_there)
{
	struct fixture f;
	struct waiting w = {.wait = wait_file, .f = &f, .timeout_ns = 100 * NS_PER_MS};

	fixture_start(&f, NULL);
	sh(&f, "mkdir d; echo >d/1.pid");
	w.arg = "d/x/y";
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "/d' exists, 'x' in it does not");
	w.arg = "d/*.log";
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "nothing matches");
	w.wait = wait_gone;
	w.arg = "d/*.pid";
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "1 file of that name is still there");
	fixture_stop(&f);
}

/* Many at once; then the agent has nothing left of them. */
FIBER_TEST(test_many_files_at_once)
{
	enum { N = 100 };
	static struct waiting w[N]; /* too large for a fiber's stack */
	struct fixture f;
	char names[N][16];
	uint64_t t;

	fixture_start(&f, NULL);
	for (int i = 0; i < N; i++) {
		snprintf(names[i], sizeof(names[i]), "d/%d", i);
		w[i] = (struct waiting){.wait = wait_file, .f = &f, .arg = names[i]};
		waiting_begin(&w[i]);
	}
	for (int i = 0; i < N; i += 2)
		fiber_cancel(w[i].fiber);
	t = now_ns();
	sh(&f, "mkdir d; cd d; seq 0 99 | xargs touch");
	for (int i = 0; i < N; i++) {
		if (i % 2) {
			waiting_succeeds(&w[i], t);
		} else {
			waiting_fails(&w[i], ERROR_CANCELLED, "");
		}
	}
	fixture_stop(&f);
}

/* --- sockets ------------------------------------------------------------------------------------
 */

/* A bound socket; the port is the kernel's choice. */
static int bind_inet(int type, const char *address, unsigned *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(*port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(*port)};
	bool v6 = strchr(address, ':');
	struct sockaddr *sa = v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in;
	socklen_t len = v6 ? sizeof(in6) : sizeof(in);
	int fd = socket(sa->sa_family, type | SOCK_CLOEXEC, 0), one = 1;

	check(inet_pton(sa->sa_family, address,
			v6 ? (void *)&in6.sin6_addr : (void *)&in.sin_addr) == 1);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, sa, len) < 0) {
		cleanup_close(&fd);
		return -1;
	}
	check(getsockname(fd, sa, &len) == 0);
	*port = ntohs(v6 ? in6.sin6_port : in.sin_port);
	return fd;
}

static void inet_case(struct fixture *f, int type, const char *listen_on, const char *wait_at)
{
	unsigned port = 0;
	int fd = bind_inet(type, listen_on, &port);
	char arg[128];
	struct waiting w = {.wait = wait_socket, .f = f, .arg = arg};
	uint64_t t;

	if (fd < 0)
		return; /* no IPv6 here */
	snprintf(arg, sizeof(arg), "%s %u %s", type == SOCK_STREAM ? "tcp" : "udp", port, wait_at);
	if (type == SOCK_DGRAM)
		close(fd);
	waiting_begin(&w);
	t = now_ns();
	if (type == SOCK_DGRAM)
		fd = bind_inet(type, listen_on, &port);
	else
		check(listen(fd, 5) == 0);
	waiting_succeeds(&w, t);
	/* … and closed again */
	memmove(arg + 1, arg, strlen(arg) + 1);
	arg[0] = '!';
	waiting_begin(&w);
	t = now_ns();
	close(fd);
	waiting_succeeds(&w, t);
}

FIBER_TEST(test_inet_sockets)
{
	struct fixture f;

	fixture_start(&f, NULL);
	inet_case(&f, SOCK_STREAM, "127.0.0.1", "localhost");
	inet_case(&f, SOCK_STREAM, "::1", "localhost");
	inet_case(&f, SOCK_STREAM, "0.0.0.0", "127.0.0.1");
	inet_case(&f, SOCK_STREAM, "127.0.0.2", "127.0.0.2");
	inet_case(&f, SOCK_STREAM, "::", "::1");
	inet_case(&f, SOCK_DGRAM, "127.0.0.1", "localhost");
	inet_case(&f, SOCK_DGRAM, "0.0.0.0", "127.0.0.1");
	inet_case(&f, SOCK_DGRAM, "::", "127.0.0.1");
	inet_case(&f, SOCK_DGRAM, "::1", "::1");
	fixture_stop(&f);
}

/* No literal address for us, so the child looks it up; which names there are is the machine's
 * matter. */
FIBER_TEST(test_socket_by_name)
{
	struct fixture f;
	unsigned port = 0;
	int fd = bind_inet(SOCK_STREAM, "127.0.0.1", &port);
	char arg[128];
	struct waiting w = {.wait = wait_socket, .f = &f, .arg = arg};
	uint64_t t;

	fixture_start(&f, NULL);
	snprintf(arg, sizeof(arg), "tcp %u 127.1", port);
	waiting_begin(&w);
	t = now_ns();
	check(listen(fd, 5) == 0);
	waiting_succeeds(&w, t);
	close(fd);
	snprintf(arg, sizeof(arg), "tcp %u surely.nowhere.invalid", port);
	w.timeout_ns = 200 * NS_PER_MS;
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "no address is known for 'surely.nowhere.invalid'");
	fixture_stop(&f);
}

FIBER_TEST(test_socket_not_there)
{
	struct fixture f;
	unsigned port = 0;
	int fd = bind_inet(SOCK_STREAM, "127.0.0.1", &port);
	char arg[128];
	struct waiting w = {
		.wait = wait_socket, .f = &f, .arg = arg, .timeout_ns = 200 * NS_PER_MS};

	fixture_start(&f, NULL);
	snprintf(arg, sizeof(arg), "tcp %u", port);
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "127.0.0.1: Connection refused");
	check(strstr(w.err.message, "on localhost to be open"));
	/* Another address than the one that is bound. */
	close(fd);
	fd = bind_inet(SOCK_DGRAM, "127.0.0.3", &port);
	snprintf(arg, sizeof(arg), "udp %u", port);
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "Connection refused");
	snprintf(arg, sizeof(arg), "!udp %u 127.0.0.3", port);
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "127.0.0.3: open");
	close(fd);
	snprintf(arg, sizeof(arg), "unix %s/no/sock", f.dir);
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "'no' in it does not");
	snprintf(arg, sizeof(arg), "tcp 0");
	check(wait_socket(&f, arg, NS_PER_SEC, &w.err) < 0 && w.err.kind == ERROR_USAGE);
	fixture_stop(&f);
}

static int bind_unix(int type, const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	size_t len = strlen(name);

	memcpy(sa.sun_path, name, len);
	if (name[0] == '@')
		sa.sun_path[0] = 0;
	check(bind(fd, (struct sockaddr *)&sa, offsetof(struct sockaddr_un, sun_path) + len) == 0);
	return fd;
}

static void unix_case(struct fixture *f, int type, const char *path)
{
	char arg[256];
	struct waiting w = {.wait = wait_socket, .f = f, .arg = arg};
	uint64_t t;
	int fd;

	snprintf(arg, sizeof(arg), "%s %s", type == SOCK_DGRAM ? "dgram" : "unix", path);
	waiting_begin(&w);
	fd = bind_unix(type, path);
	if (type != SOCK_DGRAM) {
		/* Bound, but not listening: not open. */
		check(agent_ping(f->agent, 20 * NS_PER_SEC, NULL) == 0);
		check(!fiber_is_done(w.fiber));
		t = now_ns();
		check(listen(fd, 1) == 0);
	} else {
		t = now_ns();
	}
	waiting_succeeds(&w, t);
	memmove(arg + 1, arg, strlen(arg) + 1);
	arg[0] = '!';
	waiting_begin(&w);
	t = now_ns();
	close(fd);
	waiting_succeeds(&w, t);
}

FIBER_TEST(test_unix_sockets)
{
	struct fixture f;
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL, *abstract = NULL;

	fixture_start(&f, NULL);
	a = in_dir(&f, "stream*");
	b = in_dir(&f, "packets");
	c = in_dir(&f, "dgram");
	abstract = xasprintf("@%s", f.dir);
	unix_case(&f, SOCK_STREAM, a);
	unix_case(&f, SOCK_SEQPACKET, b);
	unix_case(&f, SOCK_DGRAM, c);
	unix_case(&f, SOCK_STREAM, abstract);
	fixture_stop(&f);
}

/* --- processes, mounts ---------------------------------------------------------------------------
 */

static struct process *spawn(char *const *argv)
{
	struct process *p = NULL;

	check(process_spawn(argv, NULL, &p, NULL) == 0);
	return p;
}

FIBER_TEST(test_processes)
{
	struct fixture f;
	struct waiting w = {.wait = wait_process, .f = &f, .arg = "sleep 98.7654"};
	char *direct[] = {"sleep", "98.7654", NULL};
	char *later[] = {"sh", "-c", "sleep 0.1; n=98; exec sleep $n.76543", NULL};
	struct process *p;
	uint64_t t;

	fixture_start(&f, NULL);
	waiting_begin(&w);
	t = now_ns();
	p = spawn(direct);
	waiting_succeeds(&w, t);
	/* It is there already. */
	check(wait_process(&f, w.arg, NS_PER_SEC, NULL) == 0);
	process_free(p);
	/* The command line changes after the process was seen. */
	w.arg = "sleep 98.76543";
	waiting_begin(&w);
	t = now_ns();
	p = spawn(later);
	waiting_succeeds(&w, t);
	process_free(p);
	w.arg = "surely nothing has this name";
	w.timeout_ns = 100 * NS_PER_MS;
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "it is none of the ");
	fixture_stop(&f);
}

static void mount_test(char **prefix)
{
	struct fixture f;
	struct waiting w = {.wait = wait_mount, .f = &f, .timeout_ns = 100 * NS_PER_MS};
	struct waiting file = {.wait = wait_file, .f = &f, .arg = "m p/inside"};
	_cleanup_free_ char *path = NULL, *script = NULL;
	struct agent_command cmd = {};
	struct agent_result result = {};
	uint64_t t;

	fixture_start(&f, prefix);
	path = in_dir(&f, "m p");
	w.arg = path;
	sh(&f, "mkdir 'm p'; ln -s 'm p' link");
	waiting_begin(&w);
	waiting_fails(&w, ERROR_TIMEOUT, "nothing is mounted there");
	w.timeout_ns = 0;
	waiting_begin(&w);
	waiting_begin(&file);
	script = xasprintf("mount -t tmpfs none '%s'; touch '%s/inside'", path, path);
	cmd.script = script;
	t = now_ns();
	check(agent_run(f.agent, &cmd, 20 * NS_PER_SEC, &result, NULL) == 0 && result.code == 0);
	waiting_succeeds(&w, t);
	waiting_succeeds(&file, t);
	agent_result_done(&result);
	free(path);
	path = in_dir(&f, "link//");
	check(agent_wait_mount(f.agent, path, NS_PER_SEC, NULL) == 0);
	check(agent_wait_mount(f.agent, "relative", NS_PER_SEC, NULL) < 0);
	fixture_stop(&f);
}

FIBER_TEST(test_mounts)
{
	char *as_root[] = {"unshare", "-m", NULL}, *as_user[] = {"unshare", "-Urm", NULL};
	char *probe[] = {"unshare", geteuid() == 0 ? "-m" : "-Urm", "true", NULL};
	struct run_result result = {};

	if (process_run(probe, NULL, NULL, 0, MIB, 20 * NS_PER_SEC, &result, NULL) < 0 ||
	    result.status != 0)
		fprintf(stderr, "mounts are not tested: no mount namespace can be made here\n");
	else
		mount_test(geteuid() == 0 ? as_root : as_user);
	run_result_done(&result);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_appears),
		cmocka_unit_test(test_file_way_changes),
		cmocka_unit_test(test_file_is_gone),
		cmocka_unit_test(test_file_not_there),
		cmocka_unit_test(test_many_files_at_once),
		cmocka_unit_test(test_inet_sockets),
		cmocka_unit_test(test_socket_by_name),
		cmocka_unit_test(test_socket_not_there),
		cmocka_unit_test(test_unix_sockets),
		cmocka_unit_test(test_processes),
		cmocka_unit_test(test_mounts),
	};

	assert_int_equal(argc, 2);
	agent_program = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
