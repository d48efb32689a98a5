-- subtest, parallel, wait_all, retry, polling_condition, skip, fail_test; no machine is needed for most.
suite { name = "control flow", timeout = "30s" }

local a = machine("a", { backend = "fake" })
local b = machine("b", { backend = "fake" })

test("subtest runs its body, and its failure goes on", function()
  local seen = {}
  subtest("outer", function()
    subtest("inner", function() seen[#seen + 1] = "inner" end)
    seen[#seen + 1] = "outer"
  end)
  assert_eq(seen, { "inner", "outer" })
  local e = assert_error(function() subtest("fails", function() fail_test("from within") end) end, "from within")
  assert_eq(e.kind, "expect")
end)

test("parallel gives the results in order", function()
  local order = {}
  local r = parallel(
    function() sleep("30ms"); order[#order + 1] = "slow"; return "first" end,
    function() order[#order + 1] = "quick"; return "second", "dropped" end,
    function() end)
  assert_eq({ r[1], r[2], r[3], r.n }, { "first", "second", nil, 3 })
  assert_eq(order, { "quick", "slow" })
  assert_eq(parallel().n, 0)
end)

test("parallel runs at the same time", function()
  local t = time.now()
  local fs = {}
  for i = 1, 50 do fs[i] = function() sleep("100ms") end end
  parallel(table.unpack(fs))
  assert_lt(time.now() - t, 3)
end)

test("parallel ends the others when one fails", function()
  local reached, t = false, time.now()
  local e = assert_error(function()
    parallel(function() sleep(25); reached = true end, function() sleep("10ms"); fail_test("mine") end)
  end, "^mine")
  assert_eq(e.kind, "expect")
  assert_false(reached)
  assert_lt(time.now() - t, 10)
  assert_eq(assert_error(function() parallel(print, 7) end, "function").kind, "usage")
end)

test("pcall in a cancelled fiber does not keep it alive", function()
  local caught = 0
  assert_error(function()
    parallel(
      function() for _ = 1, 1000 do pcall(sleep, 20); caught = caught + 1 end end,
      function() sleep("10ms"); fail_test("stop") end)
  end, "stop")
  assert_eq(caught, 0)
end)

test("wait_all calls the function with each machine", function()
  local names = wait_all({ a, b }, function(m) return m.name .. m:succeed("echo !") end)
  assert_eq({ names[1], names[2] }, { "a!", "b!" })
  local e = assert_error(function()
    wait_all({ a, b }, function(m) if m == b then m:succeed("exit 4") end end)
  end, "exit code 4")
  assert_eq(e.kind, "expect")
  assert_contains(e.message, "b")
end)

test("retry tries expect and timeout again", function()
  local n = 0
  local first, second = retry({ attempts = 5, delay = "1ms" }, function()
    n = n + 1
    if n < 3 then assert_eq(n, 3) end
    return "done", n
  end)
  assert_eq({ first, second, n }, { "done", 3, 3 })
  assert_eq(retry(function() return 7 end), 7)
end)

test("retry gives up with the last error", function()
  local n = 0
  local e = assert_error(function()
    retry({ attempts = 3, delay = "1ms", backoff = 2 }, function() n = n + 1; fail_test("attempt " .. n) end)
  end, "gave up after 3 attempts: attempt 3")
  assert_eq({ e.kind, n }, { "expect", 3 })
  n = 0
  e = assert_error(function()
    retry({ attempts = 1000, delay = "20ms", timeout = "100ms", exact = true },
      function() n = n + 1; fail_test("again") end)
  end, "gave up after \\d+ attempts.*again")
  assert_lt(n, 20)
end)

test("retry does not repeat what cannot get better", function()
  local n = 0
  local e = assert_error(function()
    retry({ delay = "1ms" }, function() n = n + 1; a:succeed() end)
  end)
  assert_eq({ e.kind, n }, { "usage", 1 })
  e = assert_error(function() retry({ atempts = 3 }, print) end, "unknown option 'atempts'")
  assert_eq({ e.kind, e.hint }, { "usage", "did you mean 'attempts'?" })
  assert_eq(assert_error(function() retry({ attempts = 0 }, print) end).kind, "usage")
end)

test("polling_condition that holds lets the body finish", function()
  local checks = 0
  local c = polling_condition { name = "holds", every = "5ms", check = function() checks = checks + 1; return true end }
  assert_eq(c:during(function() sleep("60ms"); return "result" end), "result")
  assert_gt(checks, 2)
end)

test("polling_condition that fails ends the body", function()
  local up, reached = true, false
  local c = polling_condition { name = "site is up", every = "5ms", check = function() return up end }
  local t = time.now()
  local e = assert_error(function()
    c:during(function() sleep("20ms"); up = false; sleep(25); reached = true end)
  end, "site is up")
  assert_eq(e.kind, "expect")
  assert_false(reached)
  assert_lt(time.now() - t, 10)
  assert_eq(assert_error(function() polling_condition { name = "x" } end, "check").kind, "usage")
end)

test("an error of the body, or of the check, ends both", function()
  local c = polling_condition { every = "5ms", check = function() return true end }
  assert_error(function() c:during(function() fail_test("body") end) end, "^body")
  c = polling_condition { every = "5ms", check = function() fail_test("check") end }
  assert_error(function() c:during(function() sleep(25) end) end, "check")
end)

test("skip cannot be caught", function()
  pcall(skip, "said so")
  fail_test("skip() came back")
end)

test("fail_test raises expect", { xfail = "that is what it is for" }, function() fail_test("on purpose") end)

test("sleep takes numbers and units", function()
  local t = time.now()
  sleep(0.02)
  sleep("20ms")
  assert_ge(time.now() - t, 0.04)
  assert_eq(assert_error(function() sleep("soon") end, "no duration").kind, "usage")
  assert_eq(assert_error(function() sleep(-1) end, "no duration").kind, "usage")
end)

test("breakpoint does nothing without -i", function() breakpoint() end)

test("a computing script is stopped at the deadline", { timeout = "300ms", xfail = "the deadline passes" }, function()
  while true do pcall(function() while true do end end) end
end)

test("errors of Lua itself are usage, those of error() are the test's", function()
  local e = assert_error(function() parallel(function() local x; x.y = 1 end) end, "attempt to index")
  assert_eq(e.kind, "usage")
  e = assert_error(function() parallel(function() error("somebody's words") end) end, "somebody's words")
  assert_eq(e.kind, "expect")
end)
