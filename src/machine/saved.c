/* SPDX-License-Identifier: MIT */
/* Saved states: descriptors with a count of those who hold them. */
#include "machine/saved.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"

struct saved *saved_new(void)
{
	struct saved *s = xcalloc(1, sizeof(*s));

	*s = (struct saved){
		.n_ref = 1,
		.devices_fd = -1,
		.memory_fd = -1,
		.vm = json_object(),
		.core = json_object(),
	};
	return s;
}

struct saved *saved_ref(struct saved *s)
{
	assert(s->n_ref > 0);
	s->n_ref++;
	return s;
}

struct saved *saved_unref(struct saved *s)
{
	if (!s)
		return NULL;
	assert(s->n_ref > 0);
	if (--s->n_ref > 0)
		return NULL;
	cleanup_close(&s->devices_fd);
	cleanup_close(&s->memory_fd);
	for (size_t i = 0; i < s->n_disks; i++) {
		for (size_t k = 0; k < s->disks[i].n_layers; k++)
			close(s->disks[i].layers[k]);
		free(s->disks[i].layers);
		free(s->disks[i].name);
	}
	free(s->disks);
	json_decref(s->vm);
	json_decref(s->core);
	free(s);
	return NULL;
}

void cleanup_saved(struct saved **s)
{
	saved_unref(*s);
}

static struct saved_disk *find_disk(const struct saved *s, const char *name)
{
	for (size_t i = 0; i < s->n_disks; i++)
		if (str_eq(s->disks[i].name, name))
			return &s->disks[i];
	return NULL;
}

const struct saved_disk *saved_find_disk(const struct saved *s, const char *name)
{
	return find_disk(s, name);
}

void saved_push_layer(struct saved *s, const char *disk, int fd)
{
	struct saved_disk *d = find_disk(s, disk);

	assert(fd >= 0);
	if (!d) {
		s->disks = xrealloc(s->disks, (s->n_disks + 1) * sizeof(*s->disks));
		d = &s->disks[s->n_disks++];
		*d = (struct saved_disk){.name = xstrdup(disk)};
	}
	d->layers = xrealloc(d->layers, (d->n_layers + 1) * sizeof(*d->layers));
	d->layers[d->n_layers++] = fd;
}
