-- spawn: what goes on beside the test.
suite { name = "processes", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  fake = {
    exec = {
      ["talks"] = { stdout = "one\ntwo\nlast without end", stderr = "oops\n", code = 3 },
      ["late"] = { delay = "50ms", stdout = "listening on 8080\n" },
      ["flood"] = { stdout = ("x"):rep(99) .. "\n", ["repeat"] = 50000 },
      ["stubborn"] = { ignore_term = true, delay = "1h" },
    },
  },
})

test("wait gives what execute does", function()
  local p = m:spawn("talks")
  assert_gt(p.pid, 0)
  local r = p:wait()
  assert_eq({ r.code, r.signal, r.stdout, r.stderr }, { 3, nil, "one\ntwo\nlast without end", "oops\n" })
  assert_eq(p:wait().code, 3) -- any number of times
end)

test("read_line gives line after line, then nil", function()
  local p = m:spawn("talks")
  assert_eq({ p:read_line(), p:read_line(), p:read_line() }, { "one", "two", "last without end" })
  assert_eq(p:read_line(), nil)
  assert_eq(p:read_line(), nil)
end)

test("wait_for_output moves on behind each match", function()
  local p = m:spawn("talks")
  assert_eq(p:wait_for_output("(?<what>\\w+)\n")[1], "one")
  assert_eq(p:wait_for_output("(?<what>\\w+)\n").what, "two")
  local e = assert_error(function() p:wait_for_output("one") end, "ended without output that matches /one/")
  assert_eq(e.kind, "expect")
  assert_contains(e.detail.stdout, "last without end")
  assert_eq(m:spawn("late"):wait_for_output("listening on (\\d+)")[1], "8080")
end)

-- Else the time would grow with the square of what a process says.
test("wait_for_output looks at each byte once", function()
  assert_error(function() m:spawn("flood"):wait_for_output("xy|yx", { timeout = "10s" }) end,
    "ended without output")
end)

test("stdin is written to, and closed", function()
  local p = m:spawn("cat")
  p:write("hello\n")
  assert_eq(p:read_line(), "hello")
  p:write("again")
  p:close_stdin()
  local r = p:wait()
  assert_eq({ r.code, r.stdout }, { 0, "hello\nagain" })
end)

test("kill sends signals by name and number", function()
  local p = m:spawn("sleep 1000")
  p:kill()
  assert_eq(p:wait().signal, 15)
  p:kill() -- it has ended: no error
  p = m:spawn("stubborn")
  p:kill("TERM")
  local e = assert_error(function() p:wait { timeout = "50ms", exact = true } end, "process 'stubborn' to end")
  assert_eq(e.kind, "timeout")
  p:kill("SIGKILL")
  assert_eq(p:wait().signal, 9)
  p = m:spawn("sleep 1000")
  p:kill(2)
  assert_eq(p:wait().signal, 2)
  e = assert_error(function() p:kill("NOSUCH") end, "no signal 'NOSUCH'")
  assert_eq(e.kind, "usage")
end)

test("waiting for a silent process times out", function()
  local p = m:spawn("sleep 1000")
  assert_eq(assert_error(function() p:read_line { timeout = "30ms", exact = true } end).kind, "timeout")
  local e = assert_error(function() p:wait_for_output("word", { timeout = "30ms", exact = true }) end, "/word/")
  assert_eq(e.kind, "timeout")
end)

test("it goes on beside commands, and dies with its machine", function()
  local p = m:spawn("sleep 1000")
  assert_eq(m:succeed("echo beside"), "beside")
  m:unplug_power()
  assert_eq(assert_error(function() p:wait() end).kind, "crash")
end)

local kept

test("what is left over ends with the test", { isolation = "shared" }, function()
  kept = m:spawn("sleep 1000")
  assert_gt(kept.pid, 0)
end)

test("wrong use is usage", function()
  local p = m:spawn("cat")
  assert_eq(assert_error(function() p.wait() end, "process is wanted").kind, "usage")
  assert_eq(assert_error(function() p:wiat() end, "wiat").hint, "did you mean 'wait'?")
  assert_eq(assert_error(function() m:spawn() end, "command must be text").kind, "usage")
end)
