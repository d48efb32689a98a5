-- Files both ways, packages, logs.
suite { name = "files", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  files = { ["/etc/motd"] = "Good morning\n" },
  fake = {
    boot_text = { "first line", "\27[1msecond\27[0m line" },
    files = { ["/var/log/app.log"] = "started\n", ["/srv/tree/a"] = "A", ["/srv/tree/sub/b"] = "B" },
    journal = "kernel: hello\napp[1]: started",
    units = { ["app.service"] = { journal = "app[1]: started\n" } },
    exec = { ["~apt-get.*no-such-package"] = { code = 100, stderr = "E: Unable to locate package no-such-package\n" },
             ["~apt-get.*curl"] = { stdout = "Setting up curl\n" } },
  },
})

test("read_file and write_file are binary-safe", function()
  assert_eq(m:read_file("/etc/motd"), "Good morning\n")
  local bytes = {}
  for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
  local data = table.concat(bytes):rep(1024)
  m:write_file("/root/blob", data)
  assert_true(m:read_file("/root/blob") == data)
  m:write_file("/root/empty", "")
  assert_eq(m:read_file("/root/empty"), "")
  m:write_file("/root/tool", "#!/bin/sh\n", { mode = "0755", owner = "root:root" })
  m:write_file("/root/number", 42)
  assert_eq(m:succeed("cat /root/number"), "42")
end)

test("reading what is not there is the test's failure", function()
  local e = assert_error(function() m:read_file("/no/such/file") end, "/no/such/file.*No such file")
  assert_eq(e.kind, "expect")
  assert_eq(assert_error(function() m:read_file() end).kind, "usage")
  assert_eq(assert_error(function() m:write_file("/x", "y", { mode = "rwx" }) end).kind, "usage")
end)

test("copy_from_host takes files and trees beside the test file", function()
  m:copy_from_host("lib/greeting.lua", "/opt/greeting.lua")
  assert_contains(m:read_file("/opt/greeting.lua"), "hello")
  m:copy_from_host("lib", "/opt/tree")
  assert_contains(m:read_file("/opt/tree/greeting.lua"), "hello")
  local e = assert_error(function() m:copy_from_host("no/such", "/opt/x") end, "no/such")
  assert_eq(e.kind, "usage")
end)

test("copy_to_host lands among the artifacts", function()
  local path = m:copy_to_host("/var/log/app.log")
  assert_matches(path, "artifacts/.*app.log$")
  m:copy_from_host(path, "/back")
  assert_eq(m:read_file("/back"), "started\n")
  path = m:copy_to_host("/var/log/app.log", "logs/named.log")
  assert_matches(path, "artifacts/logs/named.log$")
  path = m:copy_from_machine("/srv/tree")
  m:copy_from_host(path .. "/sub/b", "/b")
  assert_eq(m:read_file("/b"), "B")
  local e = assert_error(function() m:copy_to_host("/no/such") end, "/no/such")
  assert_eq(e.kind, "expect")
  assert_eq(assert_error(function() m:copy_to_host("/var/log/app.log", "../../out") end).kind, "usage")
end)

test("install", function()
  m:install("curl")
  m:install { "curl" }
  local e = assert_error(function() m:install("no-such-package") end, "no-such-package")
  assert_eq(e.kind, "expect")
  assert_contains(json.encode(e.detail), "Unable to locate package")
end)

test("journal", function()
  assert_contains(m:journal(), "kernel: hello")
  assert_contains(m:journal { unit = "app", lines = 5, since = "-1h", boot = 0 }, "app[1]: started")
  assert_not_contains(m:journal { unit = "app" }, "kernel")
end)

test("the console's log", function()
  m:start()
  m:wait_for_console_text("second line", { from = "boot" })
  assert_contains(m:get_console_log(), "first line\nsecond line")
end)
