-- The same machine in other shapes: microvm, own files and packages, own disks, own kernel, no agent.
suite { name = "variants" }

group("microvm", function()
  local m = machine("m", { image = "tiny", machine_type = "microvm", memory = "256M" })
  test("boots and answers", function()
    assert_eq(m:succeed("echo hello"), "hello")
    m:shutdown()
    assert_eq(m:succeed("echo again"), "again")
  end)
end)

group("files", function()
  local m = machine("m", {
    image = "tiny", memory = "256M",
    files = {
      ["/etc/motd"] = "Good morning\n",
      ["/usr/local/bin/tool"] = { from = "data/tool.sh", mode = "755" },
      ["/srv/tree"] = { from = "data/tree" },
    },
  })
  test("are there when it starts", function()
    assert_eq(m:succeed("cat /etc/motd"), "Good morning")
    assert_eq(m:succeed("tool"), "the tool runs")
    assert_eq(m:succeed("cat /srv/tree/a/b"), "leaf")
  end)
end)

group("own init", function()
  local m = machine("m", {
    image = "tiny", memory = "256M", cmdline = "assay.init=/sbin/first",
    files = { ["/sbin/first"] = { from = "data/first.sh", mode = "755" } },
  })
  test("runs in place of the image's, and knows who the machine is", function()
    m:wait_for_file("/first")
    assert_eq(m:read_file("/first"), "m /sbin/first 1\n")
    -- Of the machine's name: the same in every test and on every host.
    assert_eq(m:read_file("/etc/machine-id"), "f928c558fc181ed2131d5d598817bce6\n")
    assert_contains(m:read_file("/etc/hosts"), "127.0.1.1\tm\n")
  end)
end)

group("environment", function()
  local m = machine("m", { image = "tiny", memory = "256M", env = { COLOUR = "red", SHAPE = "round" } })
  test("the definition's own, a command's laid over it", function()
    assert_eq(m:succeed("echo $COLOUR $SHAPE", { env = { SHAPE = "square" } }), "red square")
    assert_eq(m:spawn("echo $COLOUR $SHAPE"):read_line(), "red round")
  end)
end)

group("disks", function()
  local m = machine("m", { image = "tiny", memory = "256M", disks = { "64M", { size = "32M", name = "data" } } })
  test("empty ones are found by name and keep what is written", function()
    m:succeed("grep -l disk1 /sys/block/vd*/serial")
    local dev = m:succeed("f=$(grep -l '^data$' /sys/block/vd*/serial); f=${f%/serial}; echo /dev/${f##*/}")
    assert_eq(m:succeed("cat /sys/block/" .. dev:match("[^/]+$") .. "/size"), tostring(32 * 1024 * 2))
    m:succeed("echo written | dd of=" .. dev .. " conv=sync,fsync 2>/dev/null; sync")
    m:unplug_power()
    assert_eq(m:succeed("head -c 7 " .. dev), "written")
  end)
end)

group("no agent", function()
  local m = machine("m", { image = "tiny", memory = "256M", agent = false })
  test("the console is enough", function()
    m:start()
    m:wait_for_console_text("tiny is up", { from = "boot" })
    local e = assert_error(function() m:succeed("true") end, "agent")
    assert_eq(e.kind, "usage")
    m:unplug_power()
  end)
end)

group("two machines", function()
  local a = machine("a", { image = "tiny", memory = "256M" })
  local b = machine("b", { image = "tiny", memory = "256M" })
  test("run side by side", function()
    start_all()
    local names = wait_all({ a, b }, function(m) return m:succeed("hostname") end)
    assert_eq(names[1], "a")
    assert_eq(names[2], "b")
  end)
end)

group("packages", function()
  local m = machine("m", { image = "debian-13", packages = { "socat" }, memory = "512M" })
  test("are installed", function()
    m:spawn("socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo from socat'")
    m:wait_for_open_port(8080)
    assert_eq(m:succeed("socat - TCP:localhost:8080 < /dev/null"), "from socat")
  end)
end)

group("bookworm", function()
  local m = machine("m", { image = "debian-12", memory = "512M" })
  test("boots", { slow = true }, function()
    m:wait_for_unit("multi-user.target")
    assert_contains(m:succeed("cat /etc/os-release"), "bookworm")
    assert_eq(m:succeed("systemctl is-system-running --wait || true"), "running")
    m:reboot()
    m:wait_for_unit("multi-user.target")
  end)
end)
