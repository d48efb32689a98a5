-- Waiting for a state in the guest: ports, sockets, files, mounts, processes, journal.
suite { name = "waits", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  fake = {
    ports = { ["22"] = 0, ["80"] = "80ms" },
    sockets = { "/run/app.sock" },
    mounts = { "/srv/data" },
    processes = { "/usr/sbin/nginx -g daemon off;", "[kworker/0:1]" },
    files = { ["/etc/hostname"] = "m\n", ["/run/lock"] = "" },
    journal = "app[12]: started in 42 ms\nother[1]: noise",
    units = { ["app.service"] = { state = "active", journal = "app[12]: ready 7\n" } },
    exec = {
      ["make file"] = { delay = "60ms", write = { ["/run/app/1.pid"] = "12\n" } },
      ["drop lock"] = { delay = "60ms", remove = { "/run/lock" } },
      ["close port"] = { delay = "60ms", close_port = 22 },
      ["~journalctl .*--unit=wrong"] = { stdout = "noise\n", stderr = "Failed to add match: oops\n" },
    },
  },
})
local short = { timeout = "60ms", exact = true }

local function times_out(fn, regex)
  local t = time.now()
  local e = assert_error(fn, regex)
  assert_eq(e.kind, "timeout")
  assert_contains(e.message, "machine 'm'")
  assert_contains(e.message, "60 ms")
  assert_lt(time.now() - t, 5)
end

test("ports", function()
  m:wait_for_open_port(22)
  local t = time.now()
  m:wait_for_open_port(80, { address = "127.0.0.1" })
  assert_lt(time.now() - t, 5)
  times_out(function() m:wait_for_open_port(81, short) end, "81")
  m:wait_for_closed_port(81)
  times_out(function() m:wait_for_closed_port(22, short) end, "22")
  parallel(function() m:wait_for_closed_port(22) end, function() m:succeed("close port") end)
  for _, port in ipairs { 0, 65536, "http", 1.5 } do
    assert_eq(assert_error(function() m:wait_for_open_port(port) end).kind, "usage")
  end
  local e = assert_error(function() m:wait_for_open_port(22, { protocol = "sctp" }) end)
  assert_eq(e.kind, "usage")
end)

test("unix sockets", function()
  m:wait_for_open_unix_socket("/run/app.sock")
  m:wait_for_open_unix_socket("/run/app.sock", { datagram = true })
  times_out(function() m:wait_for_open_unix_socket("/run/none.sock", short) end, "/run/none.sock")
end)

test("files", function()
  m:wait_for_file("/etc/hostname")
  parallel(function() m:wait_for_file("/run/app/*.pid") end, function() m:succeed("make file") end)
  times_out(function() m:wait_for_file("/run/never", short) end, "/run/never")
  m:wait_for_no_file("/run/never")
  parallel(function() m:wait_for_no_file("/run/lock") end, function() m:succeed("drop lock") end)
  times_out(function() m:wait_for_no_file("/etc/hostname", short) end, "/etc/hostname")
end)

test("mounts", function()
  m:wait_for_mount("/srv/data")
  m:wait_for_mount("/")
  times_out(function() m:wait_for_mount("/mnt", short) end, "/mnt")
end)

test("processes", function()
  m:wait_for_process("nginx.*daemon")
  m:wait_for_process("^\\[kworker")
  times_out(function() m:wait_for_process("apache", short) end, "apache")
  assert_eq(assert_error(function() m:wait_for_process("(") end).kind, "usage")
end)

test("the journal", function()
  assert_eq(m:wait_for_journal("started in (\\d+) ms")[1], "42")
  assert_eq(m:wait_for_journal("ready (?<n>\\d)", { unit = "app" }).n, "7")
  local e = assert_error(function()
    m:wait_for_journal("never said", { timeout = "300ms", exact = true }) end, "never said|journalctl ended")
  assert_true(e.kind == "timeout" or e.kind == "expect")
  -- What journalctl says itself is no entry of the journal, but a reason.
  e = assert_error(function() m:wait_for_journal("oops", { unit = "wrong" }) end, "journalctl ended")
  assert_eq(e.detail.stderr, "Failed to add match: oops\n")
  assert_eq(e.detail.journal, "noise\n")
end)

test("a wait ends when the test is given up", function()
  local t = time.now()
  assert_error(function()
    parallel(function() m:wait_for_file("/run/never") end, function() sleep("20ms"); fail_test("enough") end)
  end, "^enough")
  assert_lt(time.now() - t, 5)
  assert_eq(m:succeed("echo alive"), "alive")
end)
