-- What a test file cannot reach, what it can, and that declaring is the same each time.
suite { name = "sandbox", timeout = "20s" }

local greeting = require("greeting")
local at_top = { time = os.time(), clock = os.clock(), now = time.now(), random = math.random(1, 1 << 40) }
local order = {}
for k in pairs { zeta = 1, alpha = 2, [10] = 3, [2] = 4 } do order[#order + 1] = tostring(k) end

test("no way to the host", function()
  for name, fn in pairs {
    ["io.open"] = function() io.open("/etc/passwd") end,
    ["io.popen"] = function() io.popen("id") end,
    ["os.execute"] = function() os.execute("id") end,
    ["os.getenv"] = function() os.getenv("HOME") end,
    ["os.exit"] = function() os.exit(0) end,
    ["package.loadlib"] = function() package.loadlib("x", "y") end,
    ["debug.getregistry"] = function() debug.getregistry() end,
    ["dofile"] = function() dofile("/etc/passwd") end,
    ["loadfile"] = function() loadfile("/etc/passwd") end,
  } do
    local e = assert_error(fn, "not available in test files")
    assert_eq(e.kind, "usage", name)
    assert_contains(e.message, name:match("[^.]+$"))
    assert_true(e.hint, name)
  end
  assert_eq(string.dump, nil)
end)

test("no bytecode", function()
  assert_eq(load("return 6 * 7")(), 42)
  assert_eq(load("\27Lua"), nil)
  assert_eq(assert_error(function() load("return 1", "x", "b") end, "bytecode").kind, "usage")
end)

test("debug.traceback stays", function() assert_contains(debug.traceback("here"), "here") end)

test("no finalizers", function()
  local ran = false
  setmetatable({}, { __gc = function() ran = true end })
  collectgarbage()
  collectgarbage("collect")
  assert_false(ran)
  assert_gt(collectgarbage("count"), 1)
  assert_error(function() collectgarbage("stop") end)
end)

test("require finds lib/, once", function()
  assert_eq(greeting.hello("world"), "hello world")
  assert_eq(greeting.name, "greeting")
  assert_true(rawequal(require("greeting"), greeting))
  assert_eq(loads, 1)
  local e = assert_error(function() require("no-such-module") end, "no%-such|does not exist")
  assert_eq(e.kind, "usage")
  for _, name in ipairs { "../secret", "/etc/passwd", "..", "" } do
    assert_eq(assert_error(function() require(name) end, "does not exist").kind, "usage")
  end
end)

test("the top level stands still", function()
  assert_eq(at_top.time, 1735689600)
  assert_eq(at_top.clock, 0)
  assert_eq(at_top.now, 0)
  assert_gt(os.time(), 1735689600)
  assert_eq(os.date("!%Y", 0), "1970")
  assert_eq(order, { "2", "10", "alpha", "zeta" })
  local again = {}
  for k in pairs { zeta = 1, alpha = 2, [10] = 3, [2] = 4 } do again[#again + 1] = tostring(k) end
  assert_eq(again, order)
end)

test("math.random is the seed's", function()
  assert_eq(math.type(at_top.random), "integer")
  math.randomseed(7)
  local x = math.random(1000000)
  math.randomseed(7)
  assert_eq(math.random(1000000), x)
end)

test("what pcall and coroutines may catch", function()
  local ok, e = pcall(fail_test, "caught")
  assert_eq({ ok, e.kind, e.message }, { false, "expect", "caught" })
  local handled
  ok, e = xpcall(function() error("x") end, function(m) handled = m; return "handled" end)
  assert_eq({ ok, e }, { false, "handled" })
  assert_contains(handled, "x")
  local co = coroutine.create(function(n) local m = coroutine.yield(n + 1); fail_test("in a coroutine " .. m) end)
  assert_eq({ coroutine.resume(co, 1) }, { true, 2 })
  ok, e = coroutine.resume(co, "now")
  assert_eq({ ok, e.message }, { false, "in a coroutine now" })
  assert_eq(coroutine.wrap(function() sleep("1ms"); return 5 end)(), 5) -- waits work in there as well
end)

test("skip goes through pcall, xpcall and coroutines", function()
  xpcall(function()
    coroutine.resume(coroutine.create(function() pcall(skip, "through all of them") end))
  end, function() return "swallowed" end)
  fail_test("skip() was swallowed")
end)

test("errors cannot be forged or changed", function()
  local _, e = pcall(fail_test, "real")
  assert_eq(getmetatable(e), "error")
  assert_error(function() setmetatable(e, {}) end)
  local ok = pcall(error, { kind = "skip", message = "forged" })
  assert_false(ok)
end)

test("memory is bounded", function()
  local e = assert_error(function()
    local t = {}
    while true do t[#t + 1] = ("x"):rep(1 << 20) .. #t end
  end, "memory")
  assert_eq(type(tostring(e)), "string")
  collectgarbage()
  assert_eq(#("y"):rep(1 << 20), 1 << 20) -- and life goes on
end)

test("deep recursion is an error, not a crash", function()
  local function down(n) return 1 + down(n + 1) end
  assert_error(function() down(1) end, "stack overflow")
  local function nest(n) return n == 0 and 0 or select(2, pcall(nest, n - 1)) end
  nest(150)
  assert_error(function() string.rep("x", -1):gsub(("("):rep(300), "") end)
end)

test("no name is misspelt silently", function()
  local e = assert_error(function() asert_eq(1, 1) end, "asert_eq") -- luacheck: ignore
  assert_eq(e.kind, "usage")
  assert_contains(tostring(e), "assert_eq")
end)

test("params is a table of texts", function()
  assert_eq(type(params), "table")
  assert_eq(params.not_given, nil)
  assert_eq(params.greeting, "hello world")
end)

test("print and log take anything", function()
  print("text", 1, nil, true, {})
  log("text", 1, nil, true, {})
  log()
end)
