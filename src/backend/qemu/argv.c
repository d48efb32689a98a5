/* SPDX-License-Identifier: MIT */
/* QEMU's command line, built by one function and pinned by golden files. */
#include "backend/qemu/argv.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"

/*
 * What is decided here, and why:
 *
 * - Nothing by default (-nodefaults -no-user-config): the guest has the devices named here only,
 *   whatever the host's configuration says.
 * - The machine type carries its version (pc-q35-7.2), so that a saved state still fits after the
 *   host's QEMU was updated.
 * - -S: the vCPUs wait for `cont`, so that no event comes before QMP's negotiation (those are
 *   lost).
 * - A kernel that is given directly is started by qboot. SeaBIOS 1.16 answers each reset with a
 *   second one of its own, and under TCG on a busy host with up to 70 more (QEMU 7.2: its hard
 *   reboot is a race between the vCPU, which asks for the reset twice, and the main loop);
 *   on microvm it hangs in a third of the boots. qboot does neither, and is 0.1 s faster. It
 *   knows no disks and no VGA text mode: for those it is SeaBIOS.
 * - -cpu max,-cx16 under TCG before QEMU 10: 7.2 emulates cmpxchg16b wrongly under load, and Linux
 *   6.12 double-faults in one of 15 boots.
 * - Without erms and fsrm under TCG: with them the guest copies by `rep movsb`, which TCG does byte
 * by byte: a copy through a virtio-serial port is then five to seven times slower.
 * - Without svm, la57, smap and smep under TCG: the first makes udev load KVM at each boot, the
 * others cost at each walk of page tables and each access of the kernel's to user memory (together
 * 6 % of a Debian boot).
 * - A q35 of ours that boots a given kernel has no SATA, no SMBus and, without a screen, no PS/2:
 *   nothing hangs on them, and kernel and udev spend half a second looking. They stay where there
 *   are arguments of the user's, which may name a drive on "ide.0".
 * - tb-size=128: translated code is kept in a buffer of up to 1 GiB otherwise, of which a Debian
 *   boot touches 400 MiB; with 128 it costs no measurable time more (with 64 a fifth).
 * - Disks are named nodes with explicit files and backing files; nothing is probed, since a guest
 *   could write what a probe then believes. Overlays are as short-lived as the test: host flushes
 *   are left out (no-flush), which does not change what the guest sees, even when QEMU is killed.
 * - An overlay's and a layer's file come as fdsets, since QEMU opens such a file again in another
 * mode (read-only) when a new overlay is put on it. They have no name that anybody else could open,
 * so they are not locked.
 * - The guest's memory has one name (ram) whatever it is made of, for that is how a saved state
 *   finds it. A machine that will be saved has it in a file (share=on), its forks map that file
 *   privately (share=off).
 * - werror=stop, rerror=stop: a full or broken host disk stops the machine with an event that
 *   says so, and never looks to the guest like a fault of its own.
 * - -action panic=none: after a panic the guest goes on talking on its console.
 * - -sandbox: a guest that breaks out of QEMU starts no programs. Left out when there are arguments
 *   of the user's, which may need helpers.
 */

/* SMBIOS strings are counted in a structure of at most 64 KiB; QEMU 7.2 refuses to start above it,
 * QEMU 10 gives the guest an empty entry. */
#define SMBIOS_STRINGS_MAX 65535

#define TCG_BUFFER_MIB 128

static void add(char ***v, const char *option, const char *fmt, ...) _printf_(3, 4);
static void add(char ***v, const char *option, const char *fmt, ...)
{
	va_list ap;

	strv_push(v, option);
	va_start(ap, fmt);
	strv_push_take(v, xvasprintf(fmt, ap));
	va_end(ap);
}

/* For values in QEMU's key=value lists, where a comma is written twice. */
static char *escape_commas(const char *s)
{
	struct buf b = {};

	for (; *s; s++) {
		if (*s == ',')
			buf_putc(&b, ',');
		buf_putc(&b, *s);
	}
	return b.data ? buf_steal(&b, NULL) : xstrdup("");
}

static char *base64_encode(const char *data, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *p = (const unsigned char *)data;
	struct buf b = {};

	buf_reserve(&b, (len + 2) / 3 * 4);
	for (size_t i = 0; i < len; i += 3) {
		size_t n = MIN(len - i, (size_t)3);
		unsigned w = (unsigned)p[i] << 16 | (n > 1 ? (unsigned)p[i + 1] << 8 : 0) |
			     (n > 2 ? p[i + 2] : 0);

		buf_putc(&b, digits[w >> 18 & 63]);
		buf_putc(&b, digits[w >> 12 & 63]);
		buf_putc(&b, n > 1 ? digits[w >> 6 & 63] : '=');
		buf_putc(&b, n > 2 ? digits[w & 63] : '=');
	}
	return buf_steal(&b, NULL);
}

static bool is_microvm(const struct qemu_config *c)
{
	return str_eq(c->machine, "microvm");
}

/* Virtio devices hang on PCI, or on microvm's own transport. */
static const char *bus_suffix(const struct qemu_config *c)
{
	return is_microvm(c) ? "device" : "pci";
}

bool qemu_uses_qboot(const struct qemu_config *c)
{
	return is_microvm(c) || (c->kernel && c->version.has_qboot && !c->display);
}

/* The chipset's devices that this machine does without. */
static const char *q35_omissions(const struct qemu_config *c)
{
	if (!c->kernel || strv_len(c->extra_args) > 0)
		return "";
	for (size_t i = 0; i < c->n_disks; i++)
		if (c->disks[i].cdrom)
			return "";
	if (c->display || !qemu_version_at_least(&c->version, 7, 1))
		return ",sata=off,smbus=off";
	return ",sata=off,smbus=off,i8042=off";
}

static void add_machine(char ***v, const struct qemu_config *c)
{
	const struct qemu_version *q = &c->version;
	char memory[FORMAT_MAX];

	if (is_microvm(c)) {
		add(v, "-machine", "microvm,memory-backend=ram");
	} else if (q->has_upstream_types && q->micro < 50) {
		add(v, "-machine", "pc-q35-%d.%d,memory-backend=ram%s", q->major, q->minor,
		    q35_omissions(c));
	} else { /* a .50 or later is on its way to a version that has no name yet */
		add(v, "-machine", "q35,memory-backend=ram%s", q35_omissions(c));
	}
	if (qemu_uses_qboot(c))
		add(v, "-bios", "qboot.rom");
	if (c->kvm) {
		add(v, "-accel", "kvm");
		add(v, "-cpu", "host");
	} else {
		add(v, "-accel", "tcg,tb-size=%d", TCG_BUFFER_MIB);
		add(v, "-cpu", "max,%s-erms,-fsrm,-svm,-la57,-smap,-smep",
		    q->major < 10 ? "-cx16," : "");
	}
	add(v, "-smp", "%u", c->cpus ? c->cpus : 1);

	if (c->memory_bytes % MIB == 0)
		(void)snprintf(memory, sizeof(memory), "%lluM",
			       (unsigned long long)(c->memory_bytes / MIB));
	else
		(void)snprintf(memory, sizeof(memory), "%lluK",
			       (unsigned long long)(c->memory_bytes / KIB));
	add(v, "-m", "%s", memory);
	if (c->memory == QEMU_MEMORY_OWN)
		add(v, "-object", "memory-backend-ram,id=ram,size=%s", memory);
	else
		add(v, "-object",
		    "memory-backend-file,id=ram,size=%s,mem-path=/proc/self/fd/%d,share=%s", memory,
		    c->memory_fd, c->memory == QEMU_MEMORY_SAVABLE ? "on" : "off");
	if (c->incoming)
		add(v, "-incoming", "defer");
}

static void add_process(char ***v, const struct qemu_config *c)
{
	add(v, "-name", "guest=%s", c->name);
	strv_push(v, "-nodefaults");
	strv_push(v, "-no-user-config");
	add(v, "-display", "none");
	strv_push(v, "-S");
	add(v, "-action", "panic=none");
	if (strv_len(c->extra_args) == 0)
		add(v, "-sandbox",
		    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
		    "resourcecontrol=deny");
	if (c->rtc_base)
		add(v, "-rtc", "base=%s", c->rtc_base);
}

static void add_channels(char ***v, const struct qemu_config *c)
{
	add(v, "-chardev", "socket,id=qmp,fd=%d", c->qmp_fd);
	add(v, "-mon", "chardev=qmp,mode=control");
	add(v, "-chardev", "socket,id=console,fd=%d", c->console_fd);
	add(v, "-device", "isa-serial,id=console0,chardev=console");
	add(v, "-device", "virtio-rng-%s,id=rng0", bus_suffix(c));
	if (c->agent_fd >= 0) {
		add(v, "-device", "virtio-serial-%s,id=vserial0", bus_suffix(c));
		add(v, "-chardev", "socket,id=agent,fd=%d", c->agent_fd);
		add(v, "-device",
		    "virtserialport,id=agent0,bus=vserial0.0,nr=1,chardev=agent,"
		    "name=org.assay.agent.0");
	}
	if (c->display)
		add(v, "-device", "VGA,id=vga0");
	if (c->pvpanic)
		add(v, "-device", "pvpanic,id=panic0");
}

static void add_kernel(char ***v, const struct qemu_config *c)
{
	if (!c->kernel)
		return;
	add(v, "-kernel", "%s", c->kernel);
	if (c->initrd)
		add(v, "-initrd", "%s", c->initrd);
	if (c->cmdline)
		add(v, "-append", "%s", c->cmdline);
}

/* --- Disks ---------------------------------------------------------------------------------- */

static json_t *base_node(const struct qemu_disk *d, const char *name, bool readonly)
{
	json_t *node = json_pack("{s:s, s:s}", "driver", d->format, "node-name", name);

	json_object_set_new(node, "read-only", json_boolean(readonly));
	json_object_set_new(node, "file",
			    json_pack("{s:s, s:s}", "driver", "file", "filename", d->path));
	return node;
}

static json_t *fdset_node(int fdset)
{
	json_t *node = json_pack("{s:s, s:s}", "driver", "file", "locking", "off");
	_cleanup_free_ char *path = xasprintf("/dev/fdset/%d", fdset);

	json_object_set_new(node, "filename", json_string(path));
	return node;
}

json_t *qemu_overlay_node(const char *name, int fdset, json_t *backing)
{
	json_t *file = fdset_node(fdset);
	json_t *node = json_pack("{s:s, s:s, s:s}", "driver", "qcow2", "node-name", name, "discard",
				 "unmap");

	json_object_set_new(file, "discard", json_string("unmap"));
	json_object_set_new(file, "cache", json_pack("{s:b}", "no-flush", true));
	json_object_set_new(node, "cache", json_pack("{s:b}", "no-flush", true));
	json_object_set_new(node, "file", file);
	/* Given here and not in the file's header: what it is called there may change. */
	json_object_set_new(node, "backing", backing);
	return node;
}

static json_t *layer_node(int fdset, json_t *backing)
{
	json_t *node = json_pack("{s:s, s:b}", "driver", "qcow2", "read-only", true);

	json_object_set_new(node, "file", fdset_node(fdset));
	json_object_set_new(node, "backing", backing);
	return node;
}

/* The overlay with all that lies below it. */
static json_t *stack_node(char ***v, const struct qemu_disk *d, const char *name, int *fdset)
{
	_cleanup_free_ char *base_name = xasprintf("base-%s", d->name);
	json_t *below = d->path ? base_node(d, base_name, true) : json_null();

	for (unsigned i = 0; i < d->n_layers; i++) {
		add(v, "-add-fd", "fd=%d,set=%d", d->overlay_fd + 2 + (int)i, ++*fdset);
		below = layer_node(*fdset, below);
	}
	++*fdset;
	add(v, "-add-fd", "fd=%d,set=%d", d->overlay_fd, *fdset);
	add(v, "-add-fd", "fd=%d,set=%d", d->overlay_fd + 1, *fdset);
	return qemu_overlay_node(name, *fdset, below);
}

static void add_node(char ***v, const struct qemu_disk *d, const char *id, int *fdset)
{
	json_t *node = d->overlay_fd >= 0 ? stack_node(v, d, id, fdset)
					  : base_node(d, id, d->readonly || d->cdrom);
	_cleanup_free_ char *json = json_dumps(node, JSON_COMPACT);

	json_decref(node);
	add(v, "-blockdev", "%s", json);
}

static void add_disk(char ***v, const struct qemu_config *c, const struct qemu_disk *d, int *fdset,
		     unsigned *n_cdroms)
{
	_cleanup_free_ char *id = xasprintf("disk-%s", d->name);
	_cleanup_buf_ struct buf device = {};

	if (!d->ejected)
		add_node(v, d, id, fdset);
	if (d->cdrom)
		buf_printf(&device, "ide-cd,id=%s,bus=ide.%u", id, (*n_cdroms)++);
	else
		buf_printf(&device, "virtio-blk-%s,id=%s", bus_suffix(c), id);
	if (!d->ejected)
		buf_printf(&device, ",drive=%s", id);
	buf_printf(&device, ",serial=%s,werror=stop,rerror=stop", d->name);
	/* With a kernel of its own on the command line, QEMU's boot ROM holds index 0. */
	if (d->bootindex >= 0 && !c->kernel)
		buf_printf(&device, ",bootindex=%d", d->bootindex);
	add(v, "-device", "%s", buf_str(&device));
}

static int check_disks(const struct qemu_config *c, struct error *err)
{
	unsigned n_cdroms = 0;

	for (size_t i = 0; i < c->n_disks; i++) {
		const struct qemu_disk *d = &c->disks[i];

		assert(d->path || d->overlay_fd >= 0);
		assert(!d->path || d->format);
		if (d->cdrom && is_microvm(c))
			return error_set(err, ERROR_USAGE, ENOTSUP,
					 "disk '%s' is a CD-ROM, and a microvm has no drive for it",
					 d->name);
		if (d->cdrom && ++n_cdroms > 6)
			return error_set(
				err, ERROR_USAGE, ENOSPC,
				"disk '%s' is the seventh CD-ROM, and a q35 has six drives",
				d->name);
	}
	return 0;
}

/* --- Credentials ---------------------------------------------------------------------------- */

/* systemd.system-credentials(7): strings of SMBIOS type 11, base64 so that any value fits. */
static int add_credentials(char ***v, const struct qemu_config *c, struct error *err)
{
	size_t total = 0;
	const char *name;
	json_t *value;

	if (json_object_size(c->credentials) > 0 && is_microvm(c))
		return error_set(err, ERROR_USAGE, ENOTSUP,
				 "a microvm has no SMBIOS, by which credentials are given");
	json_object_foreach(c->credentials, name, value)
	{
		_cleanup_free_ char *key = escape_commas(name);
		_cleanup_free_ char *text =
			base64_encode(json_string_value(value) ? json_string_value(value) : "",
				      json_string_length(value));

		total += strlen("io.systemd.credential.binary:=") + strlen(name) + strlen(text) + 1;
		add(v, "-smbios", "type=11,value=io.systemd.credential.binary:%s=%s", key, text);
	}
	if (total > SMBIOS_STRINGS_MAX)
		return error_set(err, ERROR_USAGE, E2BIG,
				 "the credentials take %zu bytes (in base64), and SMBIOS has room "
				 "for %d",
				 total, SMBIOS_STRINGS_MAX);
	return 0;
}

int qemu_build_argv(const struct qemu_config *c, char ***ret, struct error *err)
{
	_cleanup_strv_ char **v = NULL;
	unsigned n_cdroms = 0;
	int r, fdset = 0;

	r = check_disks(c, err);
	if (r < 0)
		return r;
	strv_push(&v, c->program);
	add_process(&v, c);
	add_machine(&v, c);
	add_channels(&v, c);
	add_kernel(&v, c);
	for (size_t i = 0; i < c->n_disks; i++)
		add_disk(&v, c, &c->disks[i], &fdset, &n_cdroms);
	r = add_credentials(&v, c, err);
	if (r < 0)
		return r;
	for (char *const *a = c->extra_args; a && *a; a++)
		strv_push(&v, *a);
	*ret = TAKE_PTR(v);
	return 0;
}

char *qemu_format_argv(char *const *argv)
{
	struct buf b = {};

	for (size_t i = 0; argv[i]; i++) {
		_cleanup_free_ char *word = shell_quote(argv[i]);

		if (i > 0)
			buf_puts(&b, argv[i][0] == '-' ? " \\\n\t" : " ");
		buf_puts(&b, word);
	}
	buf_putc(&b, '\n');
	return buf_steal(&b, NULL);
}
