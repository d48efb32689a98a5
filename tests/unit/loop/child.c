/* SPDX-License-Identifier: MIT */
/* A program that test-process.c starts: it does what its first argument says. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "loop/loop.h"
#include "loop/process.h"

/* Each open descriptor and what is read from it. Not from /proc, which may be hidden from us. */
static int list_fds(void)
{
	const char *space = "";

	for (int fd = 0; fd < 1024; fd++) {
		char text[16] = "";

		if (fcntl(fd, F_GETFD) < 0)
			continue;
		if (fd > 2)
			(void)!pread(fd, text, sizeof(text) - 1, 0);
		printf("%s%d%s%s", space, fd, *text ? "=" : "", text);
		space = " ";
	}
	return 0;
}

/* Signal set-up, group and death signal, as the child finds them. */
static int describe(void)
{
	struct sigaction sa;
	sigset_t mask;
	int ignored = 0, blocked = 0, death = -1;

	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int sig = 1; sig < 32; sig++) {
		sigaction(sig, NULL, &sa);
		ignored += sa.sa_handler == SIG_IGN;
		blocked += sigismember(&mask, sig);
	}
	prctl(PR_GET_PDEATHSIG, &death);
	printf("ignored=%d blocked=%d death=%d leader=%d session=%d pid1=%d", ignored, blocked,
	       death, getpgrp() == getpid(), getsid(0) == getpid(), getpid() == 1);
	return 0;
}

/* Starts a grandchild through the code under test, prints its number, and hangs. */
static int start_and_hang(void *userdata)
{
	char *argv[] = {(char *)"sleep", (char *)"100", NULL};
	struct process *p;

	if (process_spawn(argv, NULL, &p, NULL) < 0)
		return 1;
	printf("%d\n", (int)process_pid(p));
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "fds") == 0)
		return list_fds();
	if (strcmp(what, "describe") == 0)
		return describe();
	if (strcmp(what, "parent") == 0)
		return loop_main("parent", start_and_hang, NULL);
	return 99;
}
