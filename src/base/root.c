/* SPDX-License-Identifier: MIT */
/* What the root directory is; apart from path.c, which is the agent's too (musl has no statx). */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"

bool path_root_is_mount(void)
{
	struct statx st;

	/* A kernel that cannot tell (before 5.8) counts as the usual case. */
	return statx(AT_FDCWD, "/", 0, STATX_TYPE, &st) < 0 ||
	       !(st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) ||
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}
