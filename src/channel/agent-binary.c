/* SPDX-License-Identifier: MIT */
/* What the embedded agent binary is called by: its digest and its build id. */
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "channel/agent.h"

const char *agent_binary_digest(void)
{
	static char hex[DIGEST_HEX_MAX];
	struct sha256 s;

	if (!hex[0]) {
		sha256_init(&s);
		sha256_update(&s, agent_binary, agent_binary_len);
		sha256_hex(&s, hex);
	}
	return hex;
}

/* The note's description in hex; the file is our own, but a bug in its build shall not crash us. */
static void read_build_id(char *hex, size_t size)
{
	const Elf64_Ehdr *eh = (const Elf64_Ehdr *)agent_binary;

	for (size_t i = 0; i < eh->e_phnum; i++) {
		const Elf64_Phdr *ph = (const Elf64_Phdr *)(agent_binary + eh->e_phoff) + i;
		size_t pos = ph->p_offset, end = ph->p_offset + ph->p_filesz;

		if (ph->p_type != PT_NOTE || end > agent_binary_len)
			continue;
		while (pos + sizeof(Elf64_Nhdr) <= end) {
			const Elf64_Nhdr *n = (const Elf64_Nhdr *)(agent_binary + pos);
			size_t desc = pos + sizeof(*n) + ((n->n_namesz + 3) & ~3u);

			if (n->n_type == NT_GNU_BUILD_ID && desc + n->n_descsz <= end) {
				for (size_t k = 0; k < n->n_descsz && 2 * k + 3 <= size; k++)
					(void)snprintf(hex + 2 * k, 3, "%02x",
						       agent_binary[desc + k]);
				return;
			}
			pos = desc + ((n->n_descsz + 3) & ~3u);
		}
	}
}

const char *agent_binary_build(void)
{
	static char hex[65];

	if (!hex[0]) {
		strcpy(hex, "unknown");
		if (agent_binary_len > sizeof(Elf64_Ehdr))
			read_build_id(hex, sizeof(hex));
	}
	return hex;
}
