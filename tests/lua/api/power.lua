-- Power and life: states, boots, death.
suite { name = "power", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  disks = { "1G", { size = "1M", name = "cd", cdrom = true } },
  fake = {
    exec = {
      ["panic now"] = { panic = true },
      ["die now"] = { die = true },
      ["reset now"] = { reset = true },
      ["close now"] = { close = true },
      ["power off soon"] = { delay = "30ms", poweroff = true },
    },
  },
})
local lazy = machine("lazy", { backend = "fake", autostart = false })
local never = machine("never", { backend = "fake", autostart = false, fake = { never_boot = true, boot_text = "stuck here\n" } })
local broken = machine("broken", { backend = "fake", autostart = false, fake = { start_fails = "no firmware" } })

test("autostart and names", function()
  assert_eq({ m.name, m:state(), m:is_up() }, { "m", "up", true })
  assert_eq({ lazy:state(), lazy:is_up() }, { "off", false })
  assert_eq(tostring(m), "machine 'm'")
  assert_eq(type(m.dir), "string")
  assert_true(m == m and m ~= lazy)
end)

test("any method that needs the guest starts it", function()
  assert_eq(lazy:succeed("hostname"), "lazy")
  assert_eq(lazy:state(), "up")
end)

test("start", function()
  lazy:start()
  assert_eq(lazy:state(), "up")
  lazy:start() -- is up already
  lazy:unplug_power()
  lazy:start { wait = false }
  assert_true(lazy:state() == "starting" or lazy:state() == "up")
  lazy:start { timeout = "5s" }
  assert_true(lazy:is_up())
end)

test("start_all", function()
  m:unplug_power()
  local e = assert_error(start_all) -- `broken` does not start
  assert_true(e.kind == "infra" or e.kind == "timeout")
end)

test("a machine that never answers", function()
  local e = assert_error(function() never:start { timeout = "100ms", exact = true } end, "never")
  assert_eq(e.kind, "timeout")
  assert_contains(json.encode(e.detail or {}) .. e.message, "stuck here")
end)

test("a machine that cannot be started is the lab's fault", function()
  local e = assert_error(function() broken:start() end, "no firmware")
  assert_eq(e.kind, "infra")
end)

test("shutdown, and what is on its disks stays", function()
  m:write_file("/root/kept", "kept")
  m:shutdown()
  assert_eq(m:state(), "off")
  m:wait_for_shutdown()
  assert_eq(m:read_file("/root/kept"), "kept")
  m:shutdown { timeout = "10s" }
  m:unplug_power() -- no error when it is off
  assert_eq(m:state(), "off")
end)

test("crash is unplug_power", function()
  m:crash()
  assert_eq(m:state(), "off")
end)

test("wait_for_shutdown", function()
  m:spawn("power off soon")
  m:wait_for_shutdown()
  assert_eq(m:state(), "off")
  m:start()
  local e = assert_error(function() m:wait_for_shutdown { timeout = "50ms", exact = true } end)
  assert_eq(e.kind, "timeout")
end)

test("reboot, reset and wait_for_boot", function()
  m:reboot()
  assert_eq(m:succeed("echo 1"), "1")
  m:reset()
  m:wait_for_boot()
  assert_eq(m:succeed("echo 2"), "2")
  local e = assert_error(function() m:wait_for_boot { timeout = "50ms", exact = true } end)
  assert_eq(e.kind, "timeout")
end)

test("a reset that nobody asked for is a crash, until it has booted", function()
  local e = assert_error(function() m:succeed("reset now") end, "reset itself")
  assert_eq(e.kind, "crash")
  m:wait_for_boot()
  assert_eq(m:succeed("echo back"), "back")
end)

test("the VMM's death ends calls at once", function()
  local t = time.now()
  local e = assert_error(function() m:succeed("die now") end, "died")
  assert_eq(e.kind, "crash")
  assert_lt(time.now() - t, 5)
  assert_eq(m:state(), "crashed")
  e = assert_error(function() m:succeed("true") end)
  assert_eq(e.kind, "crash")
  m:start()
  assert_eq(m:succeed("echo back"), "back")
end)

test("the end of the agent's channel ends calls at once", function()
  local e = assert_error(function() m:succeed("close now") end)
  assert_true(e.kind == "crash" or e.kind == "infra")
end)

test("a panic", function()
  local e = assert_error(function() m:succeed("panic now") end, "[Pp]anic")
  assert_eq(e.kind, "crash")
  assert_contains(e.message, "fake panic")
  assert_eq(m:state(), "crashed")
  local p = m:wait_for_panic()
  assert_contains(p.message, "fake panic")
  assert_contains(p.trace, "panic+0x118")
  m:unplug_power()
  m:start()
end)

test("expect_panic", function()
  local p = m:expect_panic(function() m:succeed("panic now") end)
  assert_contains(p.message, "fake panic")
  m:unplug_power()
  m:start()
  local e = assert_error(function()
    m:expect_panic(function() m:succeed("exit 3") end)
  end, "exit code 3")
  assert_eq(e.kind, "expect")
end)

test("a panic that nobody waits for fails the test", { xfail = "nobody waits for it" }, function()
  m:spawn("panic now")
  sleep("100ms")
end)

test("pause and continue", function()
  m:pause()
  assert_eq(m:state(), "paused")
  local e = assert_error(function() m:execute("true") end, "paused")
  assert_eq(e.kind, "usage")
  m:continue()
  assert_eq({ m:state(), m:succeed("echo on") }, { "up", "on" })
end)

test("eject", function()
  m:eject("cd")
  local e = assert_error(function() m:eject("floppy") end, "no disk 'floppy'")
  assert_eq(e.kind, "usage")
end)

test("boot_times", function()
  local t = m:boot_times()
  assert_eq(type(t), "table")
  for _, seconds in pairs(t) do
    assert_ge(seconds, 0)
    assert_lt(seconds, 10)
  end
end)
