/* SPDX-License-Identifier: MIT */
/* How long after a fact in the guest a wait for it has returned on the host. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "bench.h"
#include "loop/loop.h"

/*
 * A program in the guest makes each thing true at a moment that nobody knows in advance, some time
 * after the wait has begun, and tells the guest's CLOCK_MONOTONIC from right before the system
 * call; of a unit, systemd does. The host's time at which the wait has returned is put on the same
 * clock: both are read in turn, and the fastest of those round trips bounds the error.
 */

#define SAMPLES	     40
#define CLOCK_ROUNDS 30

/* perl-base is in each Debian, without Time::HiRes. 228 is clock_gettime(2), 165 mount(2). */
static const char EVENTS[] =
	"use strict; use Socket;\n"
	"$| = 1;\n"
	"sub now {\n"
	"  my $t = pack('q2', 0, 0); syscall(228, 1, $t);\n"
	"  sprintf '%d.%09d', unpack('q2', $t) }\n"
	"sub done { print $_[0], \"\\n\" }\n"
	"my %make = (\n"
	"  file => sub { my $t = now(); open(my $f, '>', $_[0]) or die; done($t) },\n"
	"  mount => sub {\n"
	"    my ($from, $to, $type) = ('none', $_[0], 'tmpfs'); my $t = now();\n"
	"    syscall(165, $from, $to, $type, 0, 0) == 0 or die; done($t) },\n"
	"  port => sub {\n"
	"    socket(our $s, PF_INET, SOCK_STREAM, 0) or die;\n"
	"    bind($s, sockaddr_in($_[0], INADDR_LOOPBACK)) or die;\n"
	"    my $t = now(); listen($s, 5) or die; done($t) },\n"
	"  process => sub { if (!fork()) { done(now()); exec { '/bin/sleep' } $_[0], 99 } },\n"
	");\n"
	"while (<STDIN>) {\n"
	"  my ($what, $arg) = split;\n"
	"  if ($what eq 'time') { done(now()); next }\n"
	"  select(undef, undef, undef, 0.1 + rand(0.1));\n"
	"  $make{$what}->($arg);\n"
	"}\n";

struct lateness {
	struct guest *guest;
	struct agent_process *maker;
	double offset_ms, error_ms; /* guest's clock - host's */
};

static double host_ms(void)
{
	return (double)now_ns() / NS_PER_MS;
}

/* The maker's next line: a time in seconds, returned in ms. */
static double read_time(struct lateness *l)
{
	_cleanup_buf_ struct buf line = {};
	struct error err = {};
	int stream;

	while (!line.len || line.data[line.len - 1] != '\n')
		if (agent_process_read(l->maker, &line, &stream, CALL_NS, &err) <= 0)
			die("the events' maker has ended", &err);
	return strtod(buf_str(&line), NULL) * 1000;
}

static void tell_maker(struct lateness *l, const char *what, const char *arg)
{
	_cleanup_free_ char *line = xasprintf("%s %s\n", what, arg);
	struct error err = {};

	if (agent_process_write(l->maker, line, strlen(line), CALL_NS, &err) < 0)
		die("the events' maker", &err);
}

static void tie_clocks(struct lateness *l)
{
	double best = 1e9;

	for (int i = 0; i < CLOCK_ROUNDS; i++) {
		double before = host_ms(), guest, after;

		tell_maker(l, "time", "");
		guest = read_time(l);
		after = host_ms();
		if (after - before >= best)
			continue;
		best = after - before;
		l->offset_ms = guest - (before + after) / 2;
	}
	l->error_ms = MAX(l->error_ms, best / 2);
}

/* --- the waits ---------------------------------------------------------------------------------
 */

static int wait_file(struct agent *a, const char *arg, struct error *err)
{
	return agent_wait_file(a, arg, false, CALL_NS, err);
}

static int wait_port(struct agent *a, const char *arg, struct error *err)
{
	struct agent_socket_wait w = {.address = "localhost", .port = (unsigned)atoi(arg)};

	return agent_wait_socket(a, &w, CALL_NS, err);
}

static int wait_mount(struct agent *a, const char *arg, struct error *err)
{
	return agent_wait_mount(a, arg, CALL_NS, err);
}

static bool is_it(const char *cmdline, void *userdata)
{
	return str_starts(cmdline, userdata);
}

static int wait_process(struct agent *a, const char *arg, struct error *err)
{
	return agent_wait_process(a, is_it, (void *)arg, arg, CALL_NS, err);
}

static double late_unit(struct lateness *l, int i)
{
	_cleanup_free_ char *name = xasprintf("late@%d.service", i);
	_cleanup_free_ char *start = xasprintf("systemctl start --no-block %s", name);
	_cleanup_free_ char *show =
		xasprintf("systemctl show -P ActiveEnterTimestampMonotonic %s", name);
	_cleanup_free_ char *since = NULL;
	struct agent_unit_wait w = {.unit = name};
	struct error err = {};
	double there;

	free(guest_run(l->guest, start));
	if (agent_wait_unit(l->guest->agent, &w, CALL_NS, &err) < 0)
		die(name, &err);
	there = host_ms() + l->offset_ms;
	since = guest_run(l->guest, show);
	return there - strtod(since, NULL) / 1000;
}

/* --- the table ---------------------------------------------------------------------------------
 */

static const struct {
	const char *what, *label, *arg; /* arg: with the number of the sample */
	int (*wait)(struct agent *a, const char *arg, struct error *err);
} KINDS[] = {
	{"file", "a file appears", "/run/late/file-%d", wait_file},
	{"port", "a TCP port opens", "%d", wait_port},
	{"mount", "a file system is mounted", "/run/late/mount-%d", wait_mount},
	{"process", "a process starts (from before its execve)", "late-%d-", wait_process},
};

#define FIRST_PORT 20000

static double late_sample(struct lateness *l, size_t kind, int i)
{
	_cleanup_free_ char *arg = NULL;
	struct error err = {};
	const char *hash = strstr(KINDS[kind].arg, "%d");
	double there;

	arg = xasprintf("%.*s%d%s", (int)(hash - KINDS[kind].arg), KINDS[kind].arg, FIRST_PORT + i,
			hash + 2);
	tell_maker(l, KINDS[kind].what, arg);
	if (KINDS[kind].wait(l->guest->agent, arg, &err) < 0)
		die(KINDS[kind].label, &err);
	there = host_ms() + l->offset_ms;
	return there - read_time(l);
}

static void print_row(const char *label, struct samples *s)
{
	printf("| %s | %.1f | %.1f |\n", label, percentile(s, 50), percentile(s, 99));
	fflush(stdout);
}

void measure_lateness(struct guest *g)
{
	static const char SETUP[] =
		"mkdir -p /run/late; cd /run/late; i=20000; while [ $i -lt 20100 ]; do "
		"mkdir mount-$i; i=$((i+1)); done; printf "
		"'[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/sleep 0.3\\n' "
		">/run/systemd/system/late@.service; systemctl daemon-reload";
	struct lateness l = {.guest = g};
	struct samples units = {};
	struct error err = {};

	free(guest_run(g, SETUP));
	if (agent_write_file(g->agent, "/run/late/events", EVENTS, strlen(EVENTS), 0644, NULL,
			     CALL_NS, &err) < 0)
		die("events", &err);
	l.maker = guest_spawn(g, "exec perl /run/late/events", true);
	printf("| a wait returns after its fact, %d times each | median ms | p99 ms |\n"
	       "|---|---|---|\n",
	       SAMPLES);
	for (size_t kind = 0; kind < ARRAY_SIZE(KINDS); kind++) {
		struct samples s = {};

		tie_clocks(&l);
		for (int i = 0; i < SAMPLES; i++)
			samples_add(&s, late_sample(&l, kind, i));
		print_row(KINDS[kind].label, &s);
	}
	tie_clocks(&l);
	for (int i = 0; i < SAMPLES; i++)
		samples_add(&units, late_unit(&l, i));
	print_row("a unit becomes active (a oneshot's process ends)", &units);
	printf("\nThe two clocks are tied to %.1f ms (aim: 20 ms in the median).\n\n", l.error_ms);
	agent_process_free(l.maker);
}
