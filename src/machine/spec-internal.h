/* SPDX-License-Identifier: MIT */
/* Typed reading of a machine's options, shared by spec.c and spec-lists.c. */
#pragma once

#include "machine/spec.h"

/* Where an option stands, for messages: "option 'cpus' of machine 'server'". */
struct option_ref {
	const char *machine;
	const char *outer; /* "disks[2]", or NULL for one of the machine itself */
	const char *name;
};

/* Each reads one key of obj. An absent key leaves *ret as it is and returns 0. */
int option_string(json_t *obj, struct option_ref ref, char **ret, struct error *err);
int option_bool(json_t *obj, struct option_ref ref, bool *ret, struct error *err);
int option_unsigned(json_t *obj, struct option_ref ref, uint64_t min, uint64_t max, uint64_t *ret,
		    struct error *err);
/* Text with a unit, or a number of bytes. */
int option_size(json_t *obj, struct option_ref ref, uint64_t min, uint64_t *ret, struct error *err);
/* A list of strings (numbers are taken as text); one string counts as a list of one. */
int option_strings(json_t *obj, struct option_ref ref, char ***ret, struct error *err);
/* An object whose values are text; a new reference. */
int option_string_map(json_t *obj, struct option_ref ref, json_t **ret, struct error *err);

/* Fails with the nearest name for a key of obj that is not in names (NULL-terminated). */
int option_check_keys(json_t *obj, const char *machine, const char *outer, const char *const *names,
		      struct error *err);
/* "option 'x' of machine 'm' must be <wanted>, not <what it is>". */
int option_type_error(struct option_ref ref, const char *wanted, json_t *found, struct error *err);
/* "option 'x' of machine 'm' <fmt>". */
int option_error(struct option_ref ref, struct error *err, const char *fmt, ...) _printf_(3, 4);

/* spec-lists.c: `disks` and `files`. */
int spec_parse_disks(json_t *json, struct machine_spec *s, struct error *err);
int spec_parse_files(json_t *json, struct machine_spec *s, struct error *err);
