/* SPDX-License-Identifier: MIT */
/* The accelerator probe: whether KVM runs kernel-mode code as hardware does is tried, not guessed.
 */
#include <assert.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "loop/io.h"
#include "machine/accel-guest.h"
#include "machine/accel-internal.h"
#include "machine/machine.h"

/*
 * Theory of operation
 *
 * A /dev/kvm that opens proves nothing, nor does one that executes a `hlt`: on hosts without
 * hardware virtualization of their own (some cloud sandboxes) kernel-mode code may be emulated
 * instruction by instruction, a thousand times slower, until the emulator meets an instruction
 * that it lacks. So a throw-away guest (accel-guest.S) does what a kernel does, in long mode with
 * paging on, and says through I/O ports where it is.
 *
 * The guest runs in a forked child: KVM_RUN blocks, and whatever happens in there, SIGKILL at the
 * deadline ends it. (A fork, not the tree's one spawn(): nothing is executed. The child makes
 * system calls only, so a fork of a process that has other things going on is safe.) What it finds
 * is in memory shared with the parent, so that it is known up to the last step even then. End of
 * file on a pipe tells that the child has ended.
 *
 * The verdict is remembered until the next boot in the runtime directory, unless it is one that a
 * mere overload of the host could have brought about. Whether /dev/kvm opens is looked at each
 * time.
 */

#define PROBE_DEADLINE_NS (300 * NS_PER_MS)
/* Hardware does 500 to 5000 million iterations of the guest's loop in a second; emulators 2. */
#define FAST_PER_SEC  100000000.0
#define KVM_SCALE     1.0
#define TCG_SCALE     4.0
#define CACHE_VERSION 1
#define CPUID_ENTRIES 256 /* KVM_MAX_CPUID_ENTRIES */

static const char *const step_words[] = {
	[GUEST_STEP_NONE] = "its first instruction",
	[GUEST_STEP_SPEED] = "a loop of 32 thousand iterations",
	[GUEST_STEP_CMPXCHG16B] = "cmpxchg16b",
	[GUEST_STEP_XSAVE] = "xsave",
	[GUEST_STEP_XRSTORS] = "xrstors",
	[GUEST_STEP_INT3] = "int3",
	[GUEST_STEP_LOOP] = "a loop of 4 million iterations",
	[GUEST_STEP_DONE] = "its end",
};

#ifdef __x86_64__

extern const char accel_guest_start[], accel_guest_int3[], accel_guest_end[];

/* --- In the child: system calls only --- */

struct guest {
	volatile struct accel_findings *found;
	int vm_fd, vcpu_fd;
	char *memory;
	struct kvm_run *run;
};

static uint64_t clock_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Notes which request failed; the parent makes words of it. */
static int kvm(struct guest *g, int fd, unsigned long request, const char *name, void *arg)
{
	int r = ioctl(fd, request, arg);

	if (r < 0) {
		g->found->failed_errno = errno;
		g->found->failed_call = name; /* a constant: means the same in the parent */
	}
	return r;
}
#define KVM(g, fd, request, arg) kvm(g, fd, request, #request, (void *)(arg))

static void put64(struct guest *g, unsigned at, uint64_t value)
{
	memcpy(g->memory + at, &value, sizeof(value));
}

static void fill_memory(struct guest *g)
{
	uint64_t handler = GUEST_CODE + (uint64_t)(accel_guest_int3 - accel_guest_start);

	put64(g, GUEST_PML4, GUEST_PDPT | 3);
	put64(g, GUEST_PDPT, GUEST_PD | 3);
	put64(g, GUEST_PD, 0x83); /* present, writable, 2 MiB */
	put64(g, GUEST_GDT + GUEST_CS, 0x00af9a000000ffff);
	put64(g, GUEST_GDT + GUEST_DS, 0x00cf92000000ffff);
	/* Interrupt gate of vector 3 (SDM 3A, 6.14.1); the handler is below 64 KiB + 64 KiB. */
	put64(g, GUEST_IDT + 3 * 16,
	      (handler & 0xffff) | GUEST_CS << 16 | 0x8e00ULL << 32 | (handler >> 16) << 48);
	memcpy(g->memory + GUEST_CODE, accel_guest_start,
	       (size_t)(accel_guest_end - accel_guest_start));
}

static int make_vm(struct guest *g, int kvm_fd)
{
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_MEMORY};
	int size;

	g->vm_fd = KVM(g, kvm_fd, KVM_CREATE_VM, 0);
	if (g->vm_fd < 0)
		return -1;
	g->memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	if (g->memory == MAP_FAILED)
		return -1;
	fill_memory(g);
	region.userspace_addr = (uintptr_t)g->memory;
	/* Intel wants room for a task state segment, out of the guest's way. */
	if (KVM(g, g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ||
	    KVM(g, g->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000) < 0)
		return -1;
	g->vcpu_fd = KVM(g, g->vm_fd, KVM_CREATE_VCPU, 0);
	size = KVM(g, kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (g->vcpu_fd < 0 || size < 0)
		return -1;
	g->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu_fd, 0);
	return g->run == MAP_FAILED ? -1 : 0;
}

/* The processor as the host's KVM offers it. */
static int set_cpuid(struct guest *g, int kvm_fd)
{
	static uint64_t space[(sizeof(struct kvm_cpuid2) +
			       CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2)) /
			      sizeof(uint64_t)];
	struct kvm_cpuid2 *cpuid = (struct kvm_cpuid2 *)space;

	cpuid->nent = CPUID_ENTRIES;
	if (KVM(g, kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		return -1;
	return KVM(g, g->vcpu_fd, KVM_SET_CPUID2, cpuid);
}

/* Long mode, paging on, ring 0: as a kernel is soon after its start. */
static int set_registers(struct guest *g)
{
	struct kvm_regs regs = {.rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2};
	struct kvm_segment code = {.limit = 0xffffffff,
				   .selector = GUEST_CS,
				   .type = 11,
				   .present = 1,
				   .s = 1,
				   .l = 1,
				   .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = GUEST_DS,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};
	struct kvm_sregs sregs;

	if (KVM(g, g->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return -1;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){.limit = 0xffff, .type = 11, .present = 1};
	sregs.gdt = (struct kvm_dtable){.base = GUEST_GDT, .limit = 23};
	sregs.idt = (struct kvm_dtable){.base = GUEST_IDT, .limit = 0xfff};
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 |= 0x20;	/* PAE */
	sregs.cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
	sregs.efer |= 0x500;	/* LME, LMA */
	if (KVM(g, g->vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
		return -1;
	return KVM(g, g->vcpu_fd, KVM_SET_REGS, &regs);
}

static void on_round(struct guest *g, unsigned kilo, uint64_t ns)
{
	double per_sec = (double)kilo * 1024 / ((double)MAX(ns, (uint64_t)1) / 1e9);

	if (per_sec > g->found->best_per_sec)
		g->found->best_per_sec = per_sec;
}

/* Until the guest halts, fails, or SIGKILL comes. */
static void run_guest(struct guest *g)
{
	uint64_t last = clock_ns();

	for (;;) {
		uint64_t now;
		uint8_t value;

		if (KVM(g, g->vcpu_fd, KVM_RUN, 0) < 0)
			return;
		now = clock_ns();
		g->found->exit_reason = g->run->exit_reason;
		if (g->run->exit_reason != KVM_EXIT_IO)
			return;
		value = *((uint8_t *)g->run + g->run->io.data_offset);
		if (g->run->io.port == GUEST_PORT_STEP)
			g->found->step = value;
		else if (g->run->io.port == GUEST_PORT_ROUND)
			on_round(g, value, now - last);
		else
			g->found->wrong = true;
		if (g->found->wrong)
			return;
		last = clock_ns();
	}
}

static _noreturn_ void child_main(int kvm_fd, volatile struct accel_findings *found)
{
	struct guest g = {.found = found};

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (make_vm(&g, kvm_fd) == 0 && set_cpuid(&g, kvm_fd) >= 0 && set_registers(&g) >= 0)
		run_guest(&g);
	found->ended = true;
	_exit(0);
}

/* --- In the parent --- */

/* Until the child's end of the pipe is closed, or the deadline. */
static void wait_for_end(int *pipe_fd)
{
	uint64_t deadline = deadline_in(PROBE_DEADLINE_NS);
	struct pollfd p = {.fd = *pipe_fd, .events = POLLIN};

	if (fiber_self()) {
		_cleanup_io_ struct io *io = io_new(TAKE_FD(*pipe_fd));

		(void)io_wait_readable(io, PROBE_DEADLINE_NS, NULL);
		return;
	}
	while (poll(&p, 1, (int)(timeout_left(deadline) / NS_PER_MS)) < 0 && errno == EINTR)
		;
}

static int run_child(int kvm_fd, volatile struct accel_findings *found, struct error *err)
{
	_cleanup_close_ int read_fd = -EBADF;
	int fds[2], status;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot make a pipe");
	read_fd = fds[0];
	pid = fork();
	if (pid == 0)
		child_main(kvm_fd, found);
	close(fds[1]);
	if (pid < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot fork");
	wait_for_end(&read_fd);
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static int try_guest(int kvm_fd, struct accel_findings *ret, struct error *err)
{
	volatile struct accel_findings *found;
	int r;

	found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (found == MAP_FAILED)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot map memory");
	r = run_child(kvm_fd, found, err);
	*ret = *found;
	(void)munmap((void *)found, sizeof(*found));
	return r;
}

#else /* !__x86_64__ */

static int try_guest(int kvm_fd, struct accel_findings *ret, struct error *err)
{
	return error_set(err, ERROR_UNSUPPORTED, ENOTSUP, "the KVM probe knows x86_64 hosts only");
}

#endif

/* --- The verdict --- */

static void set_verdict(struct accel_verdict *v, bool good, const char *fmt, ...) _printf_(3, 4);
static void set_verdict(struct accel_verdict *v, bool good, const char *fmt, ...)
{
	va_list ap;

	v->kvm = good;
	v->timeout_scale = good ? KVM_SCALE : TCG_SCALE;
	va_start(ap, fmt);
	(void)vsnprintf(v->reason, sizeof(v->reason), fmt, ap);
	va_end(ap);
}

bool accel_judge(const struct accel_findings *f, struct accel_verdict *ret)
{
	unsigned step = MIN(f->step, (unsigned)GUEST_STEP_DONE);
	double millions = f->best_per_sec / 1e6;
	bool slow = f->best_per_sec > 0 && f->best_per_sec < FAST_PER_SEC;

	if (f->failed_call) {
		set_verdict(ret, false, "/dev/kvm opens, but %s fails: %s", f->failed_call,
			    strerror(f->failed_errno));
		return f->failed_errno != ENOMEM;
	}
	if (step == GUEST_STEP_DONE && !slow) {
		set_verdict(ret, true,
			    "a test guest ran 64-bit kernel-mode code at %.0f million loop "
			    "iterations a second",
			    millions);
		return true;
	}
	if (slow && (f->wrong || (f->ended && step != GUEST_STEP_DONE))) {
		set_verdict(ret, false,
			    "/dev/kvm emulates 64-bit kernel-mode code (%.1f million loop "
			    "iterations a second; hardware does hundreds) and fails at %s",
			    millions, step_words[step]);
	} else if (slow) {
		set_verdict(ret, false,
			    "/dev/kvm emulates 64-bit kernel-mode code: %.1f million loop "
			    "iterations a second, where hardware does hundreds",
			    millions);
	} else if (f->ended) {
		set_verdict(ret, false,
			    "a test guest under /dev/kvm fails at %s (KVM exit reason %u)",
			    step_words[step], f->exit_reason);
	} else {
		set_verdict(ret, false, "a test guest under /dev/kvm was still at %s after %u ms",
			    step_words[step], (unsigned)(PROBE_DEADLINE_NS / NS_PER_MS));
		return false; /* a busy host can do that to a good one */
	}
	return true;
}

/* --- The cache --- */

/* Another kernel, another boot, another device node (its module was loaded anew): another key. */
static char *cache_key(int kvm_fd)
{
	_cleanup_buf_ struct buf boot_id = {};
	struct stat st;

	if (fstat(kvm_fd, &st) < 0 ||
	    buf_read_file(&boot_id, "/proc/sys/kernel/random/boot_id", 64) < 0)
		return NULL;
	return xasprintf("%d %.36s %" PRIu64 " %" PRId64 ".%09ld", CACHE_VERSION, buf_str(&boot_id),
			 (uint64_t)st.st_ino, (int64_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

static char *cache_path(void)
{
	_cleanup_free_ char *dir = NULL;

	if (path_runtime_dir(&dir, NULL) < 0)
		return NULL;
	return path_join(dir, "accel");
}

/* Three lines: the key, "kvm" or "tcg", the reason. */
static bool cache_read(const char *path, const char *key, struct accel_verdict *ret)
{
	_cleanup_buf_ struct buf text = {};
	_cleanup_strv_ char **lines = NULL;

	if (!path || !key || !path_exists(path) || file_read(path, 4096, &text, NULL) < 0)
		return false;
	lines = strv_split(buf_str(&text), "\n");
	if (strv_len(lines) != 3 || !str_eq(lines[0], key))
		return false;
	set_verdict(ret, str_eq(lines[1], "kvm"), "%s", lines[2]);
	return true;
}

static void cache_write(const char *path, const char *key, const struct accel_verdict *v)
{
	_cleanup_free_ char *text = NULL;

	if (!path || !key)
		return;
	text = xasprintf("%s\n%s\n%s\n", key, v->kvm ? "kvm" : "tcg", v->reason);
	(void)file_write_atomic(path, text, strlen(text), 0600, NULL); /* only a cache */
}

static void judge_open_failure(int code, struct accel_verdict *ret)
{
	struct stat st;
	struct group *group;

	if (code == ENOENT) {
		set_verdict(ret, false, "there is no /dev/kvm");
	} else if ((code == EACCES || code == EPERM) && stat("/dev/kvm", &st) == 0) {
		group = getgrgid(st.st_gid);
		set_verdict(
			ret, false,
			"no permission to open /dev/kvm (mode %04o, group %s: add the user to a "
			"group that may)",
			st.st_mode & 07777, group ? group->gr_name : "?");
	} else {
		set_verdict(ret, false, "/dev/kvm cannot be opened: %s", strerror(code));
	}
}

int accel_probe(struct accel_verdict *ret, struct error *err)
{
	_cleanup_close_ int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	_cleanup_free_ char *path = NULL;
	_cleanup_free_ char *key = NULL;
	struct accel_findings found = {};
	int r;

	if (kvm_fd < 0) {
		judge_open_failure(errno, ret);
		return 0;
	}
	path = cache_path();
	key = cache_key(kvm_fd);
	if (cache_read(path, key, ret))
		return 0;
	r = try_guest(kvm_fd, &found, err);
	if (r < 0) {
		error_prefix(err, "cannot probe KVM");
		return r;
	}
	if (accel_judge(&found, ret))
		cache_write(path, key, ret);
	log_debug("accelerator: %s (%s)", ret->kvm ? "kvm" : "tcg", ret->reason);
	return 0;
}
