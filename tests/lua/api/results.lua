-- wait_for_result: guests that are tests themselves.
suite { name = "results", timeout = "30s" }

local function guest(name, text)
  return machine(name, { backend = "fake", agent = false, autostart = false, fake = { boot_text = text } })
end

local good = guest("good", "TAP version 13\n1..3\nok 1 - a\nok 2 - b # SKIP no disk\nok 3 - c\n")
local bad = guest("bad", "TAP version 13\n1..2\nok 1 - a\nnot ok 2 - b\n")
local short = guest("short", "TAP version 13\n1..3\nok 1 - a\n")
local bail = guest("bail", "TAP version 13\n1..3\nok 1 - a\nBail out! no memory\n")
local silent = guest("silent", "nothing of the kind\n")
local kunit = guest("kunit", {
  "[    1.0] KTAP version 1", "[    1.0] 1..1", "[    1.1]     KTAP version 1", "[    1.1]     # Subtest: list",
  "[    1.1]     1..2", "[    1.2]     ok 1 first", "[    1.3]     ok 2 second", "[    1.4] ok 1 list",
})

test("tap", function()
  good:start()
  local r = good:wait_for_result { protocol = "tap" }
  assert_eq({ r.tests, r.failed }, { 3, 0 })
end)

test("tap with a failure", function()
  bad:start()
  local r = bad:wait_for_result { protocol = "tap" }
  assert_eq({ r.tests, r.failed }, { 2, 1 })
end)

test("a plan that is not fulfilled is no result", function()
  short:start()
  local e = assert_error(function() short:wait_for_result { protocol = "tap", timeout = "100ms", exact = true } end)
  assert_true(e.kind == "timeout" or e.kind == "expect")
end)

test("a bail-out ends it at once", function()
  bail:start()
  local e = assert_error(function() bail:wait_for_result { protocol = "tap" } end, "no memory")
  assert_eq(e.kind, "expect")
end)

test("silence is no result", function()
  silent:start()
  local e = assert_error(function() silent:wait_for_result { protocol = "tap", timeout = "100ms", exact = true } end)
  assert_eq(e.kind, "timeout")
end)

test("ktap", function()
  kunit:start()
  local r = kunit:wait_for_result { protocol = "ktap" }
  assert_eq(r.failed, 0)
  assert_ge(r.tests, 1)
end)

test("other protocols", function()
  local e = assert_error(function() good:wait_for_result { protocol = "gtest" } end)
  assert_eq(e.kind, "unsupported")
  e = assert_error(function() good:wait_for_result { protocol = "tapp" } end)
  assert_eq(e.kind, "usage")
  assert_eq(assert_error(function() good:wait_for_result { protcol = "tap" } end).hint, "did you mean 'protocol'?")
end)
