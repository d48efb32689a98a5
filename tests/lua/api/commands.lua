-- succeed, fail, execute, wait_until_…, sleep: results, options, and what failures say.
suite { name = "commands", timeout = "30s" }

local m = machine("m", {
  backend = "fake",
  fake = {
    exec = {
      ["printf a"] = "a",
      ["printf b"] = "b\n\n",
      ["blank lines"] = "\n\n",
      ["both"] = { stdout = "to out\n", stderr = "to err\n", code = 3 },
      ["shot"] = { stdout = "last words", signal = 9 },
      ["who"] = "%user% in %cwd% with %env:LANG%/%env:N%",
      ["eats stdin"] = { stdin = true, stdout = "<%stdin%>" },
      ["third time"] = { answers = { { code = 1, stderr = "not yet" }, { code = 1 }, "lucky\n" } },
      ["breaks"] = { answers = { "fine\n", "fine\n", { code = 2, stdout = "broken\n" } } },
      ["stubborn"] = { ignore_term = true, delay = "1h", stdout = "never" },
      ["half done"] = { stdout = "first half\n", delay = "10ms", stderr = "hm\n" },
      ["flood"] = { stdout = ("x"):rep(1023) .. "\n", ["repeat"] = 4096 },
      ["~^greet (\\w+)$"] = "hello\n",
      ["slow"] = { delay = "50ms" },
    },
  },
})

test("succeed returns stdout without trailing newlines", function()
  assert_eq(m:succeed("echo hello"), "hello")
  assert_eq(m:succeed("printf a", "printf b"), "ab")
  assert_eq(m:succeed("printf b", { trim = false }), "b\n\n")
  assert_eq(m:succeed("printf a", "printf b", { trim = false }), "ab\n\n")
  assert_eq(m:succeed("blank lines"), "")
  assert_eq(m:succeed("greet world"), "hello")
  assert_eq(m:succeed("echo words >&2"), "") -- stderr is kept apart
  assert_eq(m:succeed("true", nil), "")
end)

test("succeed tells the command, its end and its output", function()
  local e = assert_error(function() m:succeed("both") end, "machine 'm'.*command 'both' failed with exit code 3")
  assert_eq(e.kind, "expect")
  assert_eq({ e.detail.stdout, e.detail.stderr, e.detail.code, e.detail.command },
    { "to out\n", "to err\n", 3, "both" })
  e = assert_error(function() m:succeed("shot") end, "killed by signal 9")
  assert_eq({ e.detail.signal, e.detail.stdout }, { 9, "last words" })
  assert_error(function() m:succeed("no-such-program") end, "exit code 127")
end)

test("succeed stops at the first that fails", function()
  assert_error(function() m:succeed("third time", "exit 99") end, "third time")
  assert_error(function() m:succeed("true", "exit 5", "exit 6") end, "exit code 5")
end)

test("fail is the opposite", function()
  assert_eq(m:fail("both"), "to out")
  assert_eq(m:fail("false", "exit 7"), "")
  m:fail("shot")
  local e = assert_error(function() m:fail("echo fine") end, "command 'echo fine' succeeded, but was to fail")
  assert_eq({ e.kind, e.detail.stdout }, { "expect", "fine\n" })
end)

test("fail does not take a time-out for a failure", function()
  local e = assert_error(function() m:fail("sleep 100", { timeout = "50ms", exact = true }) end, "timed out")
  assert_eq(e.kind, "timeout")
end)

test("execute never raises for an exit status", function()
  local r = m:execute("both")
  assert_eq({ r.code, r.signal, r.stdout, r.stderr }, { 3, nil, "to out\n", "to err\n" })
  r = m:execute("shot")
  assert_eq({ r.code, r.signal }, { nil, 9 })
  r = m:execute("slow")
  assert_eq(r.code, 0)
  assert_ge(r.seconds, 0.05)
  assert_lt(r.seconds, 10)
  assert_eq(m:execute("printf b").stdout, "b\n\n")
end)

test("options: user, cwd, env, stdin", function()
  assert_eq(m:succeed("who"), "root in /tmp with /")
  assert_contains(m:succeed("who", { user = "alice" }), "alice in")
  assert_eq(m:succeed("who", { cwd = "/var", env = { LANG = "C", N = 5 } }), "root in /var with C/5")
  assert_eq(m:succeed("eats stdin", { stdin = "a\0b" }), "<a\0b>")
  assert_eq(m:succeed("eats stdin"), "<>")
  assert_eq(m:execute("cat", { stdin = ("0123456789"):rep(100000) }).stdout, ("0123456789"):rep(100000))
end)

test("a time-out kills, and tells what came until then", function()
  local t = time.now()
  local e = assert_error(function() m:succeed("sleep 100", { timeout = "0.1s", exact = true }) end)
  assert_eq(e.kind, "timeout")
  assert_contains(e.message, "command 'sleep 100'")
  assert_contains(e.message, "0.1 s")
  assert_lt(time.now() - t, 8)
end)

test("a command that ignores SIGTERM is killed as well", function()
  local t = time.now()
  local e = assert_error(function() m:execute("stubborn", { timeout = "50ms", exact = true }) end)
  assert_eq(e.kind, "timeout")
  assert_lt(time.now() - t, 8)
  assert_eq(m:succeed("echo alive"), "alive")
end)

test("output is complete", function()
  assert_eq(#m:execute("flood").stdout, 4 << 20)
  local r = m:execute("half done")
  assert_eq({ r.stdout, r.stderr }, { "first half\n", "hm\n" })
end)

test("commands of several fibers run side by side", function()
  local t = time.now()
  local r = parallel(
    function() return m:succeed("sleep 0.2", "echo one") end,
    function() return m:succeed("sleep 0.2", "echo two") end,
    function() return m:succeed("sleep 0.2", "echo three") end)
  assert_eq({ r[1], r[2], r[3] }, { "one", "two", "three" })
  assert_lt(time.now() - t, 0.55)
end)

test("wait_until_succeeds and wait_until_fails", function()
  assert_eq(m:wait_until_succeeds("third time", { interval = "1ms" }), "lucky")
  assert_eq(m:wait_until_fails("breaks", { interval = "1ms" }), "broken")
  local e = assert_error(function()
    m:wait_until_succeeds("both", { timeout = "100ms", exact = true, interval = "5ms" })
  end, "timed out after 0.1 s .*command 'both' to succeed: the last of \\d+ attempts failed with exit code 3")
  assert_eq({ e.kind, e.detail.stderr }, { "timeout", "to err\n" })
  e = assert_error(function()
    m:wait_until_fails("sleep 100", { timeout = "50ms", exact = true })
  end, "to fail: the last of 1 attempts did not end")
  assert_eq(e.kind, "timeout")
end)

test("sleep is the guest's", function()
  local t = time.now()
  m:sleep("50ms")
  m:sleep(0.05)
  assert_ge(time.now() - t, 0.1)
end)

test("what is wrong in the test file is usage, and says how to write it", function()
  local function usage(fn, regex, hint)
    local e = assert_error(fn, regex)
    assert_eq(e.kind, "usage")
    if hint then assert_contains(e.hint, hint) end
  end
  usage(function() m:succeed() end, "command is missing")
  usage(function() m:succeed({}) end, "command is missing")
  usage(function() m:succeed("true", print) end, "must be text, not function")
  usage(function() m.succeed("true") end, "machine is wanted", "server:succeed")
  usage(function() m:succeed("true", { timout = 1 }) end, "unknown option 'timout'", "did you mean 'timeout'?")
  usage(function() m:succeed("true", { timeout = "soon" }) end, "no duration")
  usage(function() m:succeed("true", { env = "A=B" }) end, "'env' must be a table")
  usage(function() m:succeed("true", { trim = 1 }) end, "'trim' must be true or false")
  usage(function() m:execute("true", "false") end, "one command is wanted")
  usage(function() m:suceed("true") end, "suceed", "did you mean 'succeed'?")
  usage(function() m.field = 1 end, "cannot be given fields")
end)
