/* SPDX-License-Identifier: MIT */
/* Places for artifacts in a test's report folder. */
#pragma once

#include "lua/lua-internal.h"

/* A path in the report folder that is free, its folders made; malloc'd. */
int artifact_path(struct script *s, const char *name, char **ret, struct error *err);
/* Tells that it is there now. */
void artifact_emit(struct call *c, const char *path);
