/* SPDX-License-Identifier: MIT */
/* Which build of the agent this is: the ELF note that the linker made. */
#include "agent/build-id.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

/* Defined by the linker: our own ELF header in memory. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

#define ALIGN4(n) (((n) + 3) & ~(size_t)3)

static bool find_note(const uint8_t *p, size_t size, const uint8_t **ret, size_t *ret_len)
{
	while (size >= sizeof(ElfW(Nhdr))) {
		const ElfW(Nhdr) *n = (const ElfW(Nhdr) *)p;
		size_t name = sizeof(*n), desc = name + ALIGN4(n->n_namesz);
		size_t total = desc + ALIGN4(n->n_descsz);

		if (total > size)
			return false;
		if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 &&
		    memcmp(p + name, "GNU", 4) == 0) {
			*ret = p + desc;
			*ret_len = n->n_descsz;
			return true;
		}
		p += total;
		size -= total;
	}
	return false;
}

const char *agent_build_id(void)
{
	static char hex[65] = "";
	const uint8_t *base = (const uint8_t *)&__ehdr_start;
	const ElfW(Phdr) *ph = (const ElfW(Phdr) *)(base + __ehdr_start.e_phoff);
	const uint8_t *id;
	uintptr_t first = 0;
	size_t len;

	if (hex[0])
		return hex;
	strcpy(hex, "unknown");
	/* The header is at the start of the first segment; the others lie relative to it. */
	for (size_t i = __ehdr_start.e_phnum; i-- > 0;) {
		if (ph[i].p_type == PT_LOAD)
			first = ph[i].p_vaddr - ph[i].p_offset;
	}
	for (size_t i = 0; i < __ehdr_start.e_phnum; i++) {
		if (ph[i].p_type != PT_NOTE ||
		    !find_note(base + (ph[i].p_vaddr - first), ph[i].p_memsz, &id, &len))
			continue;
		for (size_t k = 0; k < len && k < 32; k++)
			snprintf(hex + 2 * k, 3, "%02x", id[k]);
		break;
	}
	return hex;
}
