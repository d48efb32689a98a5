-- systemd's units, as far as a guest without systemd can play them.
suite { name = "units", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  fake = {
    units = {
      ["nginx.service"] = "active",
      ["late.service"] = { state = "active", after = "80ms" },
      ["bad.service"] = { state = "failed", result = "exit-code", journal = "bad[7]: cannot bind\n" },
      ["idle.service"] = "inactive",
      ["once.service"] = { state = "inactive", type = "oneshot" },
      ["never.service"] = { state = "active", after = "1h" },
      ["app.socket"] = { state = "active", sub = "listening" },
    },
  },
})
local plain = machine("plain", { backend = "fake", fake = { systemd = false } })

test("wait_for_unit", function()
  m:wait_for_unit("nginx")
  m:wait_for_unit("nginx.service", { state = "active" })
  m:wait_for_unit("app.socket")
  local t = time.now()
  m:wait_for_unit("late")
  assert_lt(time.now() - t, 5)
  m:wait_for_unit("once") -- a oneshot that finished well
  m:wait_for_unit("bad", { state = "failed" })
  m:wait_for_unit("idle", { state = "inactive" })
end)

test("wait_for_unit raises at once when it is in vain", function()
  local t = time.now()
  local e = assert_error(function() m:wait_for_unit("bad") end, "bad.service")
  assert_eq(e.kind, "expect")
  assert_contains(json.encode(e.detail), "cannot bind")
  e = assert_error(function() m:wait_for_unit("idle") end, "inactive")
  assert_eq(e.kind, "expect")
  e = assert_error(function() m:wait_for_unit("ghost") end, "does not exist")
  assert_eq(e.kind, "expect")
  assert_lt(time.now() - t, 10)
end)

test("wait_for_unit times out", function()
  local e = assert_error(function() m:wait_for_unit("never", { timeout = "80ms", exact = true }) end, "activating")
  assert_eq(e.kind, "timeout")
end)

test("require_unit_state", function()
  m:require_unit_state("nginx")
  m:require_unit_state("nginx", "active")
  m:require_unit_state("bad", "failed")
  local e = assert_error(function() m:require_unit_state("idle", "active") end, "idle.*inactive")
  assert_eq(e.kind, "expect")
end)

test("information", function()
  local info = m:get_unit_info("nginx")
  assert_eq({ info.ActiveState, info.LoadState, info.SubState }, { "active", "loaded", "running" })
  assert_eq(m:get_unit_property("bad", "Result"), "exit-code")
  assert_eq(m:get_unit_property("once", "Type"), "oneshot")
end)

test("systemctl, start_job, stop_job", function()
  local r = m:systemctl("is-active nginx")
  assert_eq({ r.code, r.stdout }, { 0, "active\n" })
  assert_eq(m:systemctl("is-active idle").code, 3)
  m:start_job("idle")
  m:require_unit_state("idle", "active")
  m:stop_job("nginx")
  m:require_unit_state("nginx", "inactive")
  local e = assert_error(function() m:start_job("ghost") end, "ghost")
  assert_eq(e.kind, "expect")
end)

test("without systemd it is unsupported", function()
  local e = assert_error(function() plain:wait_for_unit("nginx") end, "systemd")
  assert_eq(e.kind, "unsupported")
end)
