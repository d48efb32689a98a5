-- QMP as the fake backend answers it, credentials.
suite { name = "hypervisor", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  credentials = { ["login.motd"] = "from outside", token = "s3cret" },
  fake = { qmp = { ["query-version"] = { qemu = { major = 7 } } } },
})

test("qmp", function()
  assert_eq(m:qmp("query-version").qemu.major, 7)
  assert_eq(m:qmp("query-status").running, true)
  local e = assert_error(function() m:qmp("no-such-command", { a = 1 }) end, "no-such-command")
  assert_eq(e.kind, "expect")
end)

test("wait_for_qmp_event drops none", function()
  m:pause()
  m:continue()
  m:wait_for_qmp_event("STOP") -- it was before
  m:wait_for_qmp_event("RESUME", { since = "start" })
  parallel(
    function() m:wait_for_qmp_event("RESET", { since = "now" }) end,
    function() sleep("30ms"); m:reset(); m:wait_for_boot() end)
  local e = assert_error(function() m:wait_for_qmp_event("NEVER", { timeout = "50ms", exact = true }) end, "NEVER")
  assert_eq(e.kind, "timeout")
end)

test("wait_for_qmp_event with a condition", function()
  local seen = 0
  m:reset()
  m:wait_for_boot()
  local event = m:wait_for_qmp_event("RESET", { match = function(data) seen = seen + 1; return data.guest == false end })
  assert_ge(seen, 1)
  assert_eq(type(event), "table")
  local e = assert_error(function()
    m:wait_for_qmp_event("RESET", { timeout = "50ms", exact = true, match = function() return false end })
  end)
  assert_eq(e.kind, "timeout")
end)

test("credential", function()
  assert_eq(m:credential("token"), "s3cret")
  assert_eq(m:credential("login.motd"), "from outside")
  local e = assert_error(function() m:credential("tokn") end, "tokn")
  assert_eq(e.kind, "usage")
end)
