/* SPDX-License-Identifier: MIT */
/* The two options of a machine that are lists of tables: disks and files. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "machine/spec-internal.h"

/* A virtio-blk serial has 20 bytes. */
#define DISK_NAME_MAX 20
#define DISK_SIZE_MIN (1 * MIB)

/* Another option at the same place. */
#define OPT(n) ((struct option_ref){.machine = ref.machine, .outer = ref.outer, .name = (n)})

static const char *const disk_keys[] = {"size",	 "path", "readonly", "write",
					"cdrom", "boot", "name",     NULL};
static const char *const file_keys[] = {"text", "from", "mode", "owner", NULL};

static bool disk_name_is_valid(const char *name)
{
	size_t n = strlen(name);

	return n > 0 && n <= DISK_NAME_MAX &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
		       n;
}

/* Names by which the machine's own parts are known in the guest. */
static bool disk_name_is_ours(const char *name)
{
	return str_eq(name, "root0") || str_eq(name, "scratch0") || str_eq(name, "agent0");
}

static int check_disk(const struct machine_spec *s, const struct disk_spec *d,
		      struct option_ref ref, struct error *err)
{
	ref.name = "name";
	if (!disk_name_is_valid(d->name))
		return option_error(ref, err,
				    "must be at most %d letters, digits, '-' and '_', not '%.40s'",
				    DISK_NAME_MAX, d->name);
	if (disk_name_is_ours(d->name))
		return option_error(ref, err, "must not be '%s', which is a disk of Assay's own",
				    d->name);
	for (const struct disk_spec *o = s->disks; o < d; o++)
		if (str_eq(o->name, d->name))
			return option_error(ref, err, "is '%s', and so is another disk's", d->name);

	ref.name = "size";
	if (d->path && d->size_bytes)
		return option_error(ref, err, "cannot go with 'path': a file has its own size");
	if (!d->path && !d->size_bytes && !d->cdrom)
		return option_error(ref, err, "is missing (or 'path', for a file of the host)");
	if (!d->path && (d->readonly || d->write_through)) {
		ref.name = d->readonly ? "readonly" : "write";
		return option_error(ref, err, "makes sense with 'path' only");
	}
	if (d->readonly && d->write_through) {
		ref.name = "write";
		return option_error(ref, err, "contradicts 'readonly'");
	}
	return 0;
}

static int parse_disk(json_t *v, struct machine_spec *s, struct error *err)
{
	struct disk_spec *d = &s->disks[s->n_disks];
	char outer[32];
	struct option_ref ref = {.machine = s->name, .outer = outer};
	_cleanup_(json_decrefp) json_t *plain = NULL;
	uint64_t boot = 0;
	int r;

	snprintf(outer, sizeof(outer), "disks[%zu]", s->n_disks + 1);
	s->n_disks++; /* from here on machine_spec_free() knows it */
	if (!json_is_object(v))
		v = plain = json_pack("{sO}", "size", v); /* "1G" is { size = "1G" } */
	r = option_check_keys(v, s->name, outer, disk_keys, err);
	if (r < 0)
		return r;

	if ((r = option_size(v, OPT("size"), DISK_SIZE_MIN, &d->size_bytes, err)) < 0 ||
	    (r = option_string(v, OPT("path"), &d->path, err)) < 0 ||
	    (r = option_bool(v, OPT("readonly"), &d->readonly, err)) < 0 ||
	    (r = option_bool(v, OPT("write"), &d->write_through, err)) < 0 ||
	    (r = option_bool(v, OPT("cdrom"), &d->cdrom, err)) < 0 ||
	    (r = option_unsigned(v, OPT("boot"), 1, 99, &boot, err)) < 0 ||
	    (r = option_string(v, OPT("name"), &d->name, err)) < 0)
		return r;
	d->boot_order = (int)boot;
	if (!d->name)
		d->name = xasprintf("disk%zu", s->n_disks);
	return check_disk(s, d, ref, err);
}

int spec_parse_disks(json_t *json, struct machine_spec *s, struct error *err)
{
	struct option_ref ref = {.machine = s->name, .name = "disks"};
	json_t *v = json_object_get(json, "disks"), *item;
	size_t i;
	int r;

	if (!v || (json_is_object(v) && json_object_size(v) == 0))
		return 0;
	if (!json_is_array(v))
		return option_type_error(ref, "a list of disks", v, err);
	s->disks = xcalloc(json_array_size(v) + 1, sizeof(*s->disks));
	json_array_foreach(v, i, item)
	{
		r = parse_disk(item, s, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Octal digits as for chmod(1), whether written "0644" or 644: Lua has no octal numbers. */
static int parse_mode(json_t *v, struct option_ref ref, unsigned *ret, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	char *end;
	unsigned long mode;
	int r;

	r = option_string(v, ref, &text, err);
	if (r < 0 || !text)
		return r;
	mode = strtoul(text, &end, 8);
	if (*end || *text == '-' || *text == '+' || mode > 07777)
		return option_error(ref, err, "must be octal digits as for chmod, not '%s'", text);
	*ret = (unsigned)mode;
	return 0;
}

static int parse_file(const char *path, json_t *v, struct machine_spec *s, struct error *err)
{
	struct file_spec *f = &s->files[s->n_files++];
	char outer[192];
	struct option_ref ref = {.machine = s->name, .outer = outer};
	json_t *text;
	int r;

	snprintf(outer, sizeof(outer), "files[\"%.150s\"]", path);
	f->guest_path = xstrdup(path);
	ref.name = "files";
	ref.outer = NULL;
	if (*path != '/' || str_ends(path, "/"))
		return option_error(ref, err, "has '%.150s', which is no absolute path of a file",
				    path);
	if (json_is_string(v) || json_is_number(v)) {
		f->text = json_is_string(v)
				  ? xstrdup(json_string_value(v))
				  : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(14));
		return 0;
	}
	if (!json_is_object(v))
		return option_type_error(ref, "texts, or tables with 'from'", v, err);
	ref.outer = outer;
	r = option_check_keys(v, s->name, outer, file_keys, err);
	if (r < 0)
		return r;
	text = json_object_get(v, "text");
	if (json_is_string(text))
		f->text = xstrdup(json_string_value(text)); /* may be empty, unlike other options */
	else if ((r = option_string(v, OPT("text"), &f->text, err)) < 0)
		return r;
	if ((r = option_string(v, OPT("from"), &f->from, err)) < 0 ||
	    (r = parse_mode(v, OPT("mode"), &f->mode, err)) < 0 ||
	    (r = option_string(v, OPT("owner"), &f->owner, err)) < 0)
		return r;
	if (!f->text == !f->from)
		return option_error(OPT("from"), err, "%s",
				    f->from ? "cannot go with 'text'" : "or 'text' is missing");
	return 0;
}

static int compare_files(const void *a, const void *b)
{
	return strcmp(((const struct file_spec *)a)->guest_path,
		      ((const struct file_spec *)b)->guest_path);
}

int spec_parse_files(json_t *json, struct machine_spec *s, struct error *err)
{
	struct option_ref ref = {.machine = s->name, .name = "files"};
	json_t *v = json_object_get(json, "files"), *item;
	const char *path;
	int r;

	if (!v || (json_is_array(v) && json_array_size(v) == 0))
		return 0;
	if (!json_is_object(v))
		return option_type_error(ref, "a table of paths and contents", v, err);
	s->files = xcalloc(json_object_size(v) + 1, sizeof(*s->files));
	json_object_foreach(v, path, item)
	{
		r = parse_file(path, item, s, err);
		if (r < 0)
			return r;
	}
	/* A Lua table has no order; a definition must have one. */
	qsort(s->files, s->n_files, sizeof(*s->files), compare_files);
	return 0;
}
