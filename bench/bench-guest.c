/* SPDX-License-Identifier: MIT */
/* Measures a real guest through the agent, beside a raw echo or copy over a port of the same
 * virtio-serial device, alternating within one run. Prints Markdown tables. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/file.h"
#include "base/str.h"
#include "bench.h"
#include "loop/loop.h"

#define RAW_PORT    "org.assay.bench"
#define ROUND_TRIPS 300
#define COPY_BYTES  (64 * MIB)
#define COPY_RUNS   5
#define BOOT_RUNS   3

_Static_assert(ROUND_TRIPS <= SAMPLES_MAX, "more samples than there is room for");

void samples_add(struct samples *s, double v)
{
	if (s->n < ARRAY_SIZE(s->v))
		s->v[s->n++] = v;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double percentile(struct samples *s, double p)
{
	size_t i;

	if (!s->n)
		return 0;
	qsort(s->v, s->n, sizeof(s->v[0]), compare);
	i = (size_t)(p / 100.0 * (double)(s->n - 1) + 0.5);
	return s->v[i];
}

_noreturn_ void die(const char *what, const struct error *err)
{
	fprintf(stderr, "bench: %s: %s\n", what, err->message);
	exit(1);
}

static double ms_since(uint64_t t)
{
	return (double)(now_ns() - t) / NS_PER_MS;
}

static void ignore_event(void *userdata, const char *machine, const char *type, json_t *fields)
{
}

/* --- the guest ----------------------------------------------------------------------------- */

static void guest_make(struct guest *g, const char *image, bool with_raw)
{
	struct error err = {};
	_cleanup_free_ char *socket = path_join(g->dir, "raw.sock");
	_cleanup_free_ char *chardev =
		xasprintf("socket,id=raw,path=%s,server=on,wait=off", socket);
	json_t *json =
		json_pack("{s:s, s:s, s:s}", "name", "bench", "image", image, "memory", "512M");
	struct machine_env *env = xcalloc(1, sizeof(*env));

	unlink(socket);
	if (with_raw)
		json_object_set_new(json, "qemu_args",
				    json_pack("[s, s, s, s]", "-chardev", chardev, "-device",
					      "virtserialport,chardev=raw,name=" RAW_PORT));
	*env = (struct machine_env){.dir = g->dir,
				    .work_dir = g->dir,
				    .base_dir = g->dir,
				    .accel = "auto",
				    .emit = ignore_event};
	if (machine_spec_parse(json, &g->spec, &err) < 0)
		die("definition", &err);
	json_decref(json);
	if (machine_new(g->spec, env, &g->machine, &err) < 0 ||
	    machine_start(g->machine, NULL, CALL_NS, &err) < 0 ||
	    machine_agent(g->machine, CALL_NS, &g->agent, &err) < 0)
		die("start", &err);
	if (with_raw && io_connect_unix(socket, CALL_NS, &g->raw, &err) < 0)
		die("raw port", &err);
}

static void guest_done(struct guest *g)
{
	io_free(g->raw);
	machine_free(g->machine);
	machine_spec_free(g->spec);
	g->raw = NULL;
	g->machine = NULL;
	g->spec = NULL;
}

char *guest_run(struct guest *g, const char *script)
{
	struct agent_command cmd = {.script = script, .plain_shell = true};
	struct agent_result r = {};
	struct error err = {};

	if (agent_run(g->agent, &cmd, CALL_NS, &r, &err) < 0)
		die(script, &err);
	free(buf_steal(&r.err, NULL));
	return r.out.data ? buf_steal(&r.out, NULL) : xstrdup("");
}

struct agent_process *guest_spawn(struct guest *g, const char *script, bool keep_stdin)
{
	struct agent_command cmd = {
		.script = script, .plain_shell = true, .keep_stdin = keep_stdin};
	struct agent_process *p = NULL;
	struct error err = {};

	if (agent_process_start(g->agent, &cmd, &p, &err) < 0)
		die(script, &err);
	return p;
}

/* The raw port by its name, without udev's help. */
#define OPEN_RAW                                                                                   \
	"for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" = " RAW_PORT " ] && "         \
	"exec 3<>/dev/${p##*/}; done; "

/* --- round trips ----------------------------------------------------------------------------- */

static void measure_round_trips(struct guest *g)
{
	struct agent_process *echo = guest_spawn(g, OPEN_RAW "exec cat <&3 >&3", false);
	struct agent_command direct = {.argv = (char *[]){(char *)"/bin/true", NULL}};
	struct agent_command shell = {.script = "true"};
	struct samples raw = {}, ping = {}, exec = {}, execute = {};
	struct error err = {};
	double fork_ms;
	_cleanup_free_ char *out = NULL;

	for (int i = 0; i < ROUND_TRIPS; i++) {
		struct agent_result r = {};
		uint64_t t = now_ns();
		char c = 'x';

		if (io_write_all(g->raw, &c, 1, CALL_NS, &err) < 0 ||
		    io_read_exact(g->raw, &c, 1, CALL_NS, &err) < 0)
			die("raw echo", &err);
		if (i) /* the first waits until cat runs */
			samples_add(&raw, ms_since(t));
		t = now_ns();
		if (agent_ping(g->agent, CALL_NS, &err) < 0)
			die("ping", &err);
		samples_add(&ping, ms_since(t));
		t = now_ns();
		if (agent_run(g->agent, &direct, CALL_NS, &r, &err) < 0)
			die("true", &err);
		samples_add(&exec, ms_since(t));
		agent_result_done(&r);
		t = now_ns();
		if (agent_run(g->agent, &shell, CALL_NS, &r, &err) < 0)
			die("true", &err);
		samples_add(&execute, ms_since(t));
		agent_result_done(&r);
	}
	agent_process_free(echo);
	/* What the guest itself takes to start a shell and end it, without us. */
	out = guest_run(g,
			"s=sh; command -v bash >/dev/null && s=bash; read u _ < /proc/uptime; i=0; "
			"while [ $i -lt 100 ]; do $s -c true; i=$((i+1)); done; "
			"read v _ < /proc/uptime; echo \"$u $v\"");
	double u = 0, v = 0;
	sscanf(out, "%lf %lf", &u, &v);
	fork_ms = (v - u) * 1000 / 100;
	printf("| what | median ms | p99 ms |\n|---|---|---|\n");
	printf("| raw echo of a byte | %.3f | %.3f |\n", percentile(&raw, 50),
	       percentile(&raw, 99));
	printf("| ping of the agent | %.3f | %.3f |\n", percentile(&ping, 50),
	       percentile(&ping, 99));
	printf("| /bin/true by the agent | %.3f | %.3f |\n", percentile(&exec, 50),
	       percentile(&exec, 99));
	printf("| `m:execute(\"true\")` (a shell) | %.3f | %.3f |\n", percentile(&execute, 50),
	       percentile(&execute, 99));
	printf("| a shell started in the guest by a shell | %.3f | |\n", fork_ms);
	printf("\nexecute - guest's own shell start = %.3f ms = %.1f raw echoes (aim: 3)\n\n",
	       percentile(&execute, 50) - fork_ms,
	       (percentile(&execute, 50) - fork_ms) / percentile(&raw, 50));
}

/* --- throughput ------------------------------------------------------------------------------ */

static double mb_per_s(uint64_t since)
{
	return (double)COPY_BYTES / 1e6 / ((double)(now_ns() - since) / NS_PER_SEC);
}

#define ZEROS "dd if=/dev/zero bs=65536 count=1024 2>/dev/null"
_Static_assert(COPY_BYTES == 1024 * 65536, "ZEROS makes another amount");

/* What a command's output goes through at least, a file on its way, and neither. */
#define RAW_PLAIN ZEROS " >&3"
#define RAW_PIPE  ZEROS " | cat >&3"
#define RAW_FILE  "cat /run/big/blob >&3"

static double raw_out(struct guest *g, const char *command)
{
	_cleanup_free_ char *script = xasprintf(OPEN_RAW "%s", command);
	_cleanup_free_ char *block = xmalloc(MIB);
	struct agent_process *p = guest_spawn(g, script, false);
	struct error err = {};
	uint64_t got = 0, t = 0;

	while (got < COPY_BYTES) {
		ssize_t n = io_read(g->raw, block, MIB, CALL_NS, &err);

		if (n <= 0)
			die("raw read", &err);
		if (!t)
			t = now_ns();
		got += (uint64_t)n;
	}
	double rate = mb_per_s(t);
	struct agent_result r = {};
	agent_process_wait(p, CALL_NS, &r, NULL);
	agent_result_done(&r);
	agent_process_free(p);
	return rate;
}

static double raw_in(struct guest *g)
{
	_cleanup_free_ char *script = xasprintf(
		OPEN_RAW "echo r >&3; head -c %d <&3 >/dev/null; echo d >&3", (int)COPY_BYTES);
	_cleanup_free_ char *block = xcalloc(1, MIB);
	struct agent_process *p = guest_spawn(g, script, false);
	struct error err = {};
	char two[2];
	uint64_t t;

	if (io_read_exact(g->raw, two, 2, CALL_NS, &err) < 0)
		die("raw ready", &err);
	t = now_ns();
	for (uint64_t sent = 0; sent < COPY_BYTES; sent += MIB)
		if (io_write_all(g->raw, block, MIB, CALL_NS, &err) < 0)
			die("raw write", &err);
	if (io_read_exact(g->raw, two, 2, CALL_NS, &err) < 0)
		die("raw done", &err);
	double rate = mb_per_s(t);
	struct agent_result r = {};
	agent_process_wait(p, CALL_NS, &r, NULL);
	agent_result_done(&r);
	agent_process_free(p);
	return rate;
}

static double agent_stdout(struct guest *g)
{
	_cleanup_buf_ struct buf block = {};
	struct agent_process *p = guest_spawn(g, ZEROS, false);
	struct error err = {};
	uint64_t got = 0, t = 0;

	while (got < COPY_BYTES) {
		int stream;
		int n = agent_process_read(p, &block, &stream, CALL_NS, &err);

		if (n <= 0)
			die("stdout", &err);
		if (!t)
			t = now_ns();
		got += block.len;
		buf_truncate(&block, 0);
	}
	double rate = mb_per_s(t);
	agent_process_free(p);
	return rate;
}

static double copy_in(struct guest *g)
{
	_cleanup_free_ char *from = path_join(g->dir, "blob");
	struct error err = {};
	uint64_t t = now_ns();

	if (agent_copy_in(g->agent, from, "/run/big/blob", CALL_NS, &err) < 0)
		die("copy in", &err);
	return mb_per_s(t);
}

static double copy_out(struct guest *g)
{
	_cleanup_free_ char *to = path_join(g->dir, "back");
	struct error err = {};
	uint64_t t;

	path_remove_tree(to, NULL);
	t = now_ns();
	if (agent_copy_out(g->agent, "/run/big/blob", to, CALL_NS, &err) < 0)
		die("copy out", &err);
	return mb_per_s(t);
}

static void make_blob(struct guest *g)
{
	_cleanup_free_ char *path = path_join(g->dir, "blob");
	_cleanup_free_ uint32_t *data = xmalloc(COPY_BYTES);
	uint32_t x = 1;
	struct error err = {};

	for (size_t i = 0; i < COPY_BYTES / 4; i++)
		data[i] = x = x * 1664525 + 1013904223;
	if (file_write_atomic(path, data, COPY_BYTES, 0644, &err) < 0)
		die("blob", &err);
}

/* Each ratio that has a reference. */
static void print_rate(const char *label, struct samples *s, struct samples *raw,
		       struct samples *same_way)
{
	struct samples *const of[] = {raw, same_way};

	printf("| %s | %.0f |", label, percentile(s, 50));
	for (size_t i = 0; i < ARRAY_SIZE(of); i++) {
		if (of[i])
			printf(" %.0f %% |", 100 * percentile(s, 50) / percentile(of[i], 50));
		else
			printf(" |");
	}
	putchar('\n');
}

static void measure_throughput(struct guest *g)
{
	struct samples ro = {}, rp = {}, rf = {}, ri = {}, so = {}, ci = {}, co = {};

	make_blob(g);
	free(guest_run(g, "mkdir -p /run/big; mount -t tmpfs -o size=200m none /run/big"));
	for (int i = 0; i < COPY_RUNS; i++) {
		samples_add(&ro, raw_out(g, RAW_PLAIN));
		samples_add(&rp, raw_out(g, RAW_PIPE));
		samples_add(&so, agent_stdout(g));
		samples_add(&ri, raw_in(g));
		samples_add(&ci, copy_in(g));
		samples_add(&rf, raw_out(g, RAW_FILE));
		samples_add(&co, copy_out(g));
	}
	printf("| throughput, median of %d × %d MiB | MB/s | of the raw port | of the raw port by "
	       "the "
	       "same way |\n|---|---|---|---|\n",
	       COPY_RUNS, (int)(COPY_BYTES / MIB));
	print_rate("raw port, guest to host", &ro, NULL, NULL);
	print_rate("… from a pipe (`dd \\| cat >port`)", &rp, &ro, NULL);
	print_rate("… from a file (`cat file >port`)", &rf, &ro, NULL);
	print_rate("stdout", &so, &ro, &rp);
	print_rate("`copy_to_host`", &co, &ro, &rf);
	print_rate("raw port, host to guest", &ri, NULL, NULL);
	print_rate("`copy_from_host`", &ci, &ri, NULL);
	putchar('\n');
}

/* --- cold boots ------------------------------------------------------------------------------- */

static void print_phase(struct samples *s)
{
	if (s->n)
		printf(" %.2f |", percentile(s, 50));
	else
		printf(" |");
}

/* Processor time of the VMMs that have ended: it depends less than a clock on what else runs. */
static double vmm_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void measure_boots(struct guest *g, const char *image)
{
	static const char *const phases[] = {"firmware", "kernel",    "initrd",
					     "agent",	 "userspace", "total"};
	struct samples s[ARRAY_SIZE(phases)] = {}, cpu = {};
	struct error err = {};

	for (int i = 0; i < BOOT_RUNS; i++) {
		json_t *times = NULL;
		double before = vmm_seconds();

		guest_make(g, image, false);
		if (machine_boot_times(g->machine, CALL_NS, &times, &err) < 0)
			die("boot times", &err);
		for (size_t k = 0; k < ARRAY_SIZE(phases); k++)
			if (json_object_get(times, phases[k]))
				samples_add(&s[k],
					    json_number_value(json_object_get(times, phases[k])));
		json_decref(times);
		guest_done(g);
		samples_add(&cpu, vmm_seconds() - before);
	}
	printf("| %s |", image);
	for (size_t k = 0; k < ARRAY_SIZE(phases); k++)
		print_phase(&s[k]);
	print_phase(&cpu);
	putchar('\n');
	fflush(stdout);
}

/* Only this part, if not NULL: boot, round, late, throughput. */
static const char *only;

static bool wanted(const char *part)
{
	return !only || str_eq(only, part);
}

static int bench(void *userdata)
{
	struct guest g = {.dir = userdata};
	struct accel_verdict accel = {};

	accel_probe(&accel, NULL);
	printf("Accelerator: %s (%s)\n\n", accel.kvm ? "KVM" : "TCG", accel.reason);
	if (wanted("boot")) {
		printf("| cold boot, median of %d, s | firmware | kernel | initrd | to agent | "
		       "userspace | to multi-user | processor time |\n"
		       "|---|---|---|---|---|---|---|---|\n",
		       BOOT_RUNS);
		measure_boots(&g, "tiny");
		measure_boots(&g, "debian-13");
		putchar('\n');
	}
	guest_make(&g, "debian-13", true);
	agent_wait_booted(g.agent, CALL_NS, (char[32]){0}, NULL);
	if (wanted("round"))
		measure_round_trips(&g);
	fflush(stdout);
	if (wanted("late"))
		measure_lateness(&g);
	if (wanted("throughput"))
		measure_throughput(&g);
	fflush(stdout);
	guest_done(&g);
	return 0;
}

int main(int argc, char **argv)
{
	struct error err = {};
	char dir[] = "/tmp/assay-bench.XXXXXX";
	int r;

	only = argc > 1 ? argv[1] : NULL;
	if (!mkdtemp(dir))
		return 1;
	r = loop_main("bench", bench, dir);
	if (path_remove_tree(dir, &err) < 0)
		fprintf(stderr, "bench: %s\n", err.message);
	return r;
}
