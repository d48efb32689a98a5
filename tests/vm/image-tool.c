/* SPDX-License-Identifier: MIT */
/* Builds an image and prints its parts as shell assignments; for the scripts tests/vm/image*.sh. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image.h"
#include "loop/loop.h"

struct tool {
	struct image_spec spec;
	struct image_build_opts opts;
	char **packages;
	struct image_file files[16];
	const char *agent;
	const char *initrd_out;
	uint64_t start_ns;
};

static void on_progress(const char *phase, void *userdata)
{
	struct tool *t = userdata;

	fprintf(stderr, "%7.2f s  %s\n", (double)(now_ns() - t->start_ns) / 1e9, phase);
}

static int write_initrd(const struct tool *t, const struct image *image, struct error *err)
{
	_cleanup_buf_ struct buf agent = {}, data = {};
	_cleanup_close_ int fd = -EBADF;
	int r = file_read(t->agent, 16 * MIB, &agent, err);

	if (r >= 0)
		r = image_initrd_memfd(image, agent.data, agent.len, &fd, err);
	if (r < 0)
		return r;
	r = buf_read_fd(&data, fd, 256 * MIB);
	return r < 0 ? r : file_write_atomic(t->initrd_out, data.data, data.len, 0644, err);
}

static int run(void *userdata)
{
	_cleanup_image_ struct image *image = NULL;
	struct tool *t = userdata;
	struct error err = {};
	int r;

	t->start_ns = now_ns();
	r = image_ensure(&t->spec, &t->opts, &image, &err);
	if (r >= 0 && t->initrd_out)
		r = write_initrd(t, image, &err);
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", error_kind_name(err.kind), err.message);
		if (err.hint[0])
			fprintf(stderr, "hint: %s\n", err.hint);
		return 1;
	}
	if (image_kind(image) != IMAGE_LAYERED) {
		printf("disk='%s' format=%s bytes=%llu\n", image_disk(image),
		       image_disk_format(image), (unsigned long long)image_disk_size(image));
		return 0;
	}
	printf("dir='%s'\nvmlinux='%s'\nroot='%s'\nscratch='%s'\nrelease='%s'\ncmdline='%s'\n",
	       image_dir(image), image_vmlinux(image), image_root(image), image_scratch(image),
	       image_kernel_release(image), image_cmdline(image));
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: image-tool [-n NAME] [-p PACKAGE]... [-f PATH=TEXT]... [-F "
			"PATH=SOURCE]...\n\t[-r SCRIPT] [-s SIZE] [-R] [-v] [-a AGENT -i INITRD] "
			"FROM\n");
	return 2;
}

static void add_file(struct tool *t, char *arg, bool from)
{
	struct image_file *f = &t->files[t->spec.n_files++];
	char *eq = strchr(arg, '=');

	*eq = '\0';
	f->path = arg;
	if (from) {
		f->from = eq + 1;
	} else {
		f->data = eq + 1;
		f->len = strlen(eq + 1);
	}
}

int main(int argc, char **argv)
{
	struct tool t = {.opts = {.progress = on_progress}};
	int c;

	t.opts.userdata = &t;
	t.spec.files = t.files;
	while ((c = getopt(argc, argv, "n:p:f:F:r:s:Rva:i:")) >= 0) {
		if (c == 'n')
			t.spec.name = optarg;
		else if (c == 'p')
			strv_push(&t.packages, optarg);
		else if ((c == 'f' || c == 'F') && strchr(optarg, '=') && t.spec.n_files < 16)
			add_file(&t, optarg, c == 'F');
		else if (c == 'r')
			t.spec.run = optarg;
		else if (c == 's' && parse_size(optarg, &t.spec.size_bytes) >= 0)
			;
		else if (c == 'R')
			t.opts.rebuild = true;
		else if (c == 'v')
			log_set_level(LOG_LEVEL_DEBUG);
		else if (c == 'a')
			t.agent = optarg;
		else if (c == 'i')
			t.initrd_out = optarg;
		else
			return usage();
	}
	if (optind + 1 != argc || !t.initrd_out != !t.agent)
		return usage();
	t.spec.from = argv[optind];
	t.spec.packages = t.packages;
	c = loop_main("image-tool", run, &t);
	strv_free(t.packages);
	return c;
}
