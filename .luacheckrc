-- SPDX-License-Identifier: MIT
std = "lua54"
max_line_length = 140
read_globals = {
  "suite", "setup", "teardown", "test", "bench", "group", "machine", "network", "image",
  "start_all", "subtest", "parallel", "wait_all", "retry", "polling_condition", "skip", "fail_test",
  "log", "artifact", "metric", "breakpoint", "params", "sleep", "snapshot_all", "restore_all", "host",
  "assert_eq", "assert_ne", "assert_true", "assert_false", "assert_contains", "assert_not_contains",
  "assert_matches", "assert_error", "assert_lt", "assert_le", "assert_gt", "assert_ge",
  "re", "json", "trim", "lines", "shell", "base64", "time",
}
unused_args = false
exclude_files = { "tests/lua/bad/**", "tests/fault/bad/**" }
-- What these files are about.
files["tests/lua/api/sandbox.lua"] = { globals = { "loads" } }
files["tests/lua/api/lib/greeting.lua"] = { globals = { "loads" } }
files["tests/lua/api/groups.lua"] = { ignore = { "231" } }
files["tests/lua/api/control-flow.lua"] = { ignore = { "311", "241" } }
