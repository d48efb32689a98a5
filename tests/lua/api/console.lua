-- The console: text, typing, a login. No agent is needed.
suite { name = "console", timeout = "30s" }

local answers = {
  ["root"] = "Password: ",
  ["secret"] = "Welcome\n# ",
  ["wrong"] = "Login incorrect\nm login: ",
  ["ping"] = "pong 1\npong 2\n",
}

-- What a shell would print for a command at its prompt, between the marks that Assay has it print.
for id = 1, 60 do
  for command, output in pairs {
    ["true"] = "\n@@end-%d:0@@\n# ",
    ["'uname -s'"] = "Linux\n\n@@end-%d:0@@\n# ",
    ["'exit 3'"] = "bad\n\n@@end-%d:3@@\n# ",
    ["\"$(printf '%b' 'echo a\\necho b')\""] = "a\nb\n\n@@end-%d:0@@\n# ",
  } do
    answers["printf '%s%s\\n' @@begin- " .. id .. "; eval " .. command .. "; printf '\\n%s%s:%d@@\\n' @@end- " .. id .. " $?"] =
      "@@begin-" .. id .. "\n" .. output:format(id)
  end
end

local m = machine("m", {
  backend = "fake", agent = false,
  fake = { boot_text = "Booting\r\n\27[32mOK\27[0m service 42\nm login: ", console = answers },
})
local with_agent = machine("agent", { backend = "fake", autostart = false, fake = { exec = { shout = { console = "LOUD 7\n" } } } })

test("wait_for_console_text", function()
  m:start()
  local c = m:wait_for_console_text("OK service (?<n>\\d+)") -- escape sequences are gone
  assert_eq({ c[0], c[1], c.n }, { "OK service 42", "42", "42" })
  m:wait_for_console_text("login: $")
  local e = assert_error(function() m:wait_for_console_text("Booting", { timeout = "50ms", exact = true }) end, "/Booting/|Booting")
  assert_eq(e.kind, "timeout")
  m:wait_for_console_text("Booting\nOK", { from = "boot" }) -- across lines
end)

test("send_console: its echo is passed over", function()
  m:wait_for_console_text("login: ")
  m:send_console("ping\n")
  assert_eq(m:wait_for_console_text("p\\w+ \\d")[0], "pong 1")
  assert_eq(m:wait_for_console_text("p\\w+ \\d")[0], "pong 2")
end)

test("console_login and console_succeed", function()
  m:console_login("root", "secret")
  assert_eq(m:console_succeed("uname -s"), "Linux")
  assert_eq(m:console_succeed("true"), "")
  assert_eq(m:console_succeed("echo a\necho b"), "a\nb")
  local e = assert_error(function() m:console_succeed("exit 3") end, "command 'exit 3' at the console failed with exit code 3")
  assert_eq({ e.kind, e.detail.output }, { "expect", "bad\n" })
end)

test("a login that is refused", function()
  local e = assert_error(function() m:console_login("root", "wrong") end, "login of 'root' was refused")
  assert_eq(e.kind, "expect")
end)

test("what a command writes there", function()
  with_agent:succeed("shout")
  assert_eq(with_agent:wait_for_console_text("LOUD (\\d)")[1], "7")
end)

test("wrong expressions and words are usage", function()
  assert_eq(assert_error(function() m:wait_for_console_text("(") end).kind, "usage")
  assert_eq(assert_error(function() m:wait_for_console_text("x", { from = "start" }) end).kind, "usage")
end)

test("the death of the machine ends the wait", function()
  local e = assert_error(function()
    parallel(function() m:wait_for_console_text("never") end, function() sleep("20ms"); m:unplug_power(); sleep(5) end)
  end)
  assert_eq(e.kind, "crash")
end)

test("without an agent the rest is usage, at once", function()
  for _, fn in ipairs {
    function() m:succeed("true") end,
    function() m:wait_for_unit("x") end,
    function() m:read_file("/x") end,
  } do
    local e = assert_error(fn, "agent = false")
    assert_eq(e.kind, "usage")
  end
  assert_true(m:is_up())
end)
