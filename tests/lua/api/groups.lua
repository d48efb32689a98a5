-- Groups, setup, teardown, options of tests.
suite { name = "groups", tags = { "declaring" }, priority = 5, timeout = "30s" }

local m = machine("m", { backend = "fake", fake = { exec = { count = { answers = { "1\n", "2\n" } } } } })
local changed = "no"

setup(function()
  changed = "yes"
  m:write_file("/root/prepared", "by setup")
  return { version = "1.2", list = { 1, 2 }, count = m:succeed("count") }
end)

teardown(function(s)
  assert_eq(s.version, "1.2")
  assert_eq(m:read_file("/root/prepared"), "by setup")
end)

test("gets what setup returned and prepared", function(s)
  assert_eq(s, { version = "1.2", list = { 1, 2 }, count = "1" })
  assert_eq(m:read_file("/root/prepared"), "by setup")
  m:write_file("/root/left", "by a test")
end)

test("has machines of its own", { isolation = "boot" }, function(s)
  assert_eq(s.count, "1")
  m:wait_for_no_file("/root/left", { timeout = "50ms", exact = true })
end)

test("is skipped for want of a capability", { needs = { "snapshot", "screen" } }, function()
  fail_test("the fake backend has neither")
end)

test("runs only with --slow", { slow = true, tags = { "night" } }, function() fail_test("not asked for") end)

test("is expected to fail", { xfail = "that is the point", retries = 0 }, function() fail_test("yes") end)

for _, name in ipairs { "one", "two" } do
  group(name, function()
    local own = machine("m", { backend = "fake", fake = { files = { ["/etc/which"] = name } } })
    setup(function() return name end)
    teardown(function(s) assert_eq(s, name) end)
    test("the same body, another machine", function(s)
      assert_eq({ s, own:read_file("/etc/which") }, { name, name })
      local e = assert_error(function() m:succeed("true") end, "not one of this group's")
      assert_eq({ e.kind, e.hint }, { "usage", "a group has machines of its own" })
    end)
  end)
end

test("nothing can be declared in a test", function()
  for _, fn in ipairs {
    function() suite {} end, function() setup(print) end, function() teardown(print) end,
    function() group("g", print) end, function() test("t", print) end, function() bench("b", print) end,
    function() machine("x", {}) end, function() image("x", { from = "tiny" }) end,
  } do
    assert_eq(assert_error(fn, "only be called at the top level").kind, "usage")
  end
end)

-- An image is declared, not built: no machine uses it.
local name = image("derived", { from = "tiny", packages = { "curl" }, files = { ["/etc/x"] = "y" }, run = "true", size = "2G" })
test("image gives its name", function() assert_eq(name, "derived") end)
