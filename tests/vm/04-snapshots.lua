-- Snapshots of real guests: memory, devices and disks go back together, as often as one likes.
suite { name = "snapshots", tags = { "snapshots" } }

for _, kind in ipairs { "q35", "microvm" } do
  group(kind, function()
    local m = machine("m", { image = "tiny", memory = "256M", machine_type = kind, disks = { "64M" } })

    setup(function() m:wait_for_console_text("tiny is up", { from = "boot" }) end)

    test("write, snapshot, write more, restore, restore again", function()
      m:succeed("echo 1 > /root/n; echo 1 > /run/n")
      m:succeed("echo disk-1 | dd of=/dev/vdc conv=sync 2>/dev/null")
      local one = m:snapshot("one")
      m:succeed("echo 2 > /root/n; echo 2 > /run/n; sync")
      m:succeed("echo disk-2 | dd of=/dev/vdc conv=sync 2>/dev/null")
      local two = m:snapshot("two")
      m:succeed("echo 3 > /root/n; sync; rm /run/n")
      for _ = 1, 2 do
        m:restore(one)
        assert_eq(m:succeed("cat /root/n /run/n; head -n1 /dev/vdc"), "1\n1\ndisk-1")
        m:restore(two)
        assert_eq(m:succeed("cat /root/n /run/n; head -n1 /dev/vdc"), "2\n2\ndisk-2")
      end
      m:succeed("sync")
      m:unplug_power() -- the disks are its own
      assert_eq(m:succeed("cat /root/n; head -n1 /dev/vdc"), "2\ndisk-2")
      assert_eq(m:succeed("dmesg | grep -ci 'ext4-fs error\\|corrupt' || true"), "0")
    end)

    test("random numbers differ, the boot does not", function()
      local s = m:snapshot()
      local id = m:succeed("cat /proc/sys/kernel/random/boot_id")
      local seen = {}
      for _ = 1, 3 do
        m:restore(s)
        assert_eq(m:succeed("cat /proc/sys/kernel/random/boot_id"), id)
        local drawn = m:succeed("head -c 16 /dev/urandom | od -An -tx1")
        assert_true(not seen[drawn], "drawn twice")
        seen[drawn] = true
      end
      assert_gt(m:boot_times().fork, 0)
    end)

    test("a reboot after a restore", function()
      local s = m:snapshot()
      m:restore(s)
      m:succeed("echo kept > /root/kept; sync")
      m:reboot()
      assert_eq(m:succeed("cat /root/kept"), "kept")
      m:restore(s)
      m:fail("cat /root/kept")
    end)

    test("a crash, a restore, a crash, a start", function()
      m:succeed("echo before > /root/state; sync")
      local s = m:snapshot()
      m:expect_panic(function() m:execute("echo c > /proc/sysrq-trigger; sleep 60") end)
      m:restore(s)
      assert_eq(m:succeed("cat /root/state"), "before")
      m:succeed("echo after > /root/state; sync")
      m:expect_panic(function() m:execute("echo c > /proc/sysrq-trigger; sleep 60") end)
      m:unplug_power()
      m:start()
      assert_eq(m:succeed("cat /root/state"), "after")
    end)
  end)
end

group("in mid-write", function()
  local m = machine("m", { image = "tiny", memory = "256M", disks = { "64M" } })

  -- Each block of 4 KiB is of one number from beginning to end; only one may be torn when the writer is killed.
  local torn = [[
    dd if=/dev/vdc bs=4096 count=64 2>/dev/null |
      awk '{ b = int((NR - 1) / 512); if (!(b in first)) first[b] = $0; else if ($0 != first[b]) torn[b] = 1 }
           END { n = 0; for (b in torn) n++; print n, NR }']]

  test("a writer lives on, its disk is whole", function()
    m:write_file("/root/writer", [[
      i=0
      while true; do
        i=$((i + 1))
        yes $(printf %07d $i) | head -c 4096 | dd of=/dev/vdc bs=4096 seek=$((i % 64)) conv=notrunc 2>/dev/null
        echo $i > /run/last
      done]])
    m:spawn("echo $$ > /root/pid; exec sh /root/writer")
    m:wait_until_succeeds("[ $(cat /run/last) -gt 70 ]")
    local s = m:snapshot()
    for _ = 1, 2 do
      m:wait_until_succeeds("[ $(cat /run/last) -gt 100 ]")
      m:restore(s)
      local first = tonumber(m:succeed("cat /run/last"))
      m:wait_until_succeeds("[ $(cat /run/last) -gt " .. first + 20 .. " ]")
      m:succeed("kill -9 $(cat /root/pid); sync")
      local n, lines = m:succeed(torn):match("^(%d+) (%d+)$")
      assert_le(tonumber(n), 1)
      assert_eq(tonumber(lines), 64 * 512)
      m:restore(s)
    end
    assert_eq(m:succeed("dmesg | grep -ci 'i/o error\\|ext4-fs error' || true"), "0")
  end)
end)

group("two machines", function()
  local a = machine("a", { image = "tiny", memory = "256M" })
  local b = machine("b", { image = "tiny", memory = "256M" })

  test("go back to one instant", function()
    wait_all({ a, b }, function(m) m:succeed("echo 1 > /root/n") end)
    local s = snapshot_all("both")
    wait_all({ a, b }, function(m) m:succeed("echo 2 > /root/n") end)
    b:shutdown()
    for _ = 1, 2 do
      restore_all(s)
      assert_eq({ a:succeed("cat /root/n"), b:succeed("cat /root/n") }, { "1", "1" })
      assert_eq({ a:succeed("hostname"), b:succeed("hostname") }, { "a", "b" })
      a:succeed("echo 3 > /root/n")
    end
  end)
end)

group("debian", function()
  local m = machine("m", { image = "debian-13", packages = { "e2fsprogs" }, memory = "512M", disks = { "256M" } })

  -- Nanoseconds of the guest's clock, and how long the host took to learn them.
  local function guest_time()
    local before = time.now()
    local text = m:succeed("date +%s%N")
    return tonumber(text), time.now() - before
  end

  test("filesystems are clean, services live on, clock and entropy are right", function()
    m:wait_for_unit("multi-user.target")
    m:succeed("mkfs.ext4 -q /dev/vdc && mkdir -p /data && mount /dev/vdc /data")
    m:succeed("systemd-run --unit=beside sleep 100000")
    m:succeed("dd if=/dev/urandom of=/data/blob bs=1M count=20 2>/dev/null; sha256sum /data/blob > /data/sum")
    local pid = m:succeed("systemctl show -P MainPID beside")
    local s = m:snapshot("prepared")
    local t0, now0 = guest_time(), time.now()
    m:succeed("rm /data/blob; sync; systemctl stop beside")
    local seen = {}
    for _ = 1, 2 do
      m:restore(s)
      local t, took = guest_time()
      -- The guest's clock has gone on as ours has, though it was taken back.
      assert_lt(math.abs((t - t0) / 1e9 - (time.now() - now0)), 0.05 + took)
      m:succeed("sha256sum -c /data/sum")
      m:require_unit_state("beside", "active")
      assert_eq(m:succeed("systemctl show -P MainPID beside"), pid)
      local uuid = m:succeed("cat /proc/sys/kernel/random/uuid")
      assert_true(not seen[uuid], "drawn twice")
      seen[uuid] = true
      m:succeed("umount /data && e2fsck -fn /dev/vdc")
    end
    assert_eq(m:succeed("dmesg | grep -cE 'EXT4-fs error|I/O error' || true"), "0")
    m:unplug_power()
    m:wait_for_unit("multi-user.target")
    m:succeed("e2fsck -fn /dev/vdc")
  end)
end)
