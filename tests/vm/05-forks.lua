-- Tests start as forks of a machine that has booted and was set up: each on its own, none of them waits.
suite { name = "forks" }

group("tiny", function()
  local m = machine("m", { image = "tiny", memory = "256M", disks = { "64M" } })

  setup(function()
    m:write_file("/from-setup", "made once")
    m:succeed("echo disk > /dev/vdc", "sync")
    -- What went off and on again in between is saved all the same.
    m:shutdown()
    m:start()
    return { boot_id = m:read_file("/proc/sys/kernel/random/boot_id") }
  end)

  for _, name in ipairs { "one", "two", "three" } do
    test("finds what setup left, and not what others wrote: " .. name, function(s)
      assert_eq(m:read_file("/proc/sys/kernel/random/boot_id"), s.boot_id)
      assert_eq(m:read_file("/from-setup"), "made once")
      assert_eq(m:succeed("head -c 4 /dev/vdc"), "disk")
      assert_eq(m:execute("test -e /from-test").code, 1)
      m:write_file("/from-test", name)
      m:succeed("echo " .. name .. " > /dev/vdc", "sync")
      assert_eq(m:read_file("/from-test"), name)
    end)
  end

  test("a fork that is switched off boots from its own disks", function(s)
    m:write_file("/from-test", "mine")
    m:succeed("echo mine > /dev/vdc", "sync")
    m:reboot()
    assert_ne(m:read_file("/proc/sys/kernel/random/boot_id"), s.boot_id)
    assert_eq(m:read_file("/from-setup"), "made once")
    assert_eq(m:read_file("/from-test"), "mine")
    m:shutdown()
    assert_eq(m:succeed("head -c 4 /dev/vdc"), "mine")
  end)

  test("its past is the template's", function()
    assert_contains(m:get_console_log(), "tiny is up")
    assert_gt(m:boot_times().fork, 0)
  end)
end)

group("several", function()
  local a = machine("a", { image = "tiny", memory = "256M" })
  local b = machine("b", { image = "tiny", memory = "256M", autostart = false })
  local c = machine("c", { image = "tiny", memory = "256M", autostart = false })

  setup(function()
    a:write_file("/name", "a")
    b:write_file("/name", "b") -- starts it
  end)

  test("are all as they were", function()
    assert_eq(a:read_file("/name"), "a")
    assert_eq(b:read_file("/name"), "b")
    assert_eq(c:state(), "off")
    assert_eq(c:execute("test -e /name").code, 1)
  end)

  test("draw random numbers of their own", function()
    local cmd = "head -c 16 /dev/urandom | od -An -tx1"
    assert_ne(a:succeed(cmd), b:succeed(cmd))
  end)
end)

group("debian", function()
  local m = machine("m", { image = "debian-13", memory = "512M" })

  setup(function()
    m:succeed("systemctl is-active systemd-journald")
    m:write_file("/etc/systemd/system/web.service",
      "[Service]\nExecStart=/bin/sleep infinity\nExecStartPre=/bin/sh -c 'echo x >> /var/starts'\n")
    m:succeed("systemctl daemon-reload")
    m:start_job("web.service")
    m:wait_for_unit("web.service")
    return m:succeed("cat /var/starts")
  end)

  test("a service that setup started runs on", function(starts)
    m:require_unit_state("web.service", "active")
    assert_eq(m:succeed("cat /var/starts"), starts)
    m:stop_job("web.service")
    m:write_file("/var/mine", "1")
  end)

  test("and in the next test, too", function()
    m:require_unit_state("web.service", "active")
    assert_eq(m:execute("test -e /var/mine").code, 1)
    assert_contains(m:journal { unit = "web.service" }, "Started")
  end)
end)

group("at rest", function()
  local m = machine("m", { image = "debian-13", memory = "512M" })

  test("what a boot leaves to be done is done before the fork", function()
    assert_eq(m:execute("test -e /run/udev/queue").code, 1)
    assert_eq(m:succeed("systemctl is-system-running"), "running")
  end)
end)
