-- What stands in the specification and is not built says so, in one standard error.
suite { name = "unsupported", timeout = "20s" }

local m = machine("m", { backend = "fake" })

local methods = {
  "address", "console_screen", "send_key", "send_chars", "get_tty_text", "wait_until_tty_matches", "click",
  "click_text", "screenshot", "guest_screenshot", "get_screen_text", "get_screen_text_variants", "wait_for_text",
  "wait_for_image", "wait_for_x", "wait_for_window", "block", "unblock", "impair", "unimpair", "link_stats",
  "forward_port", "vmm_api",
}

test("methods", function()
  for _, name in ipairs(methods) do
    local e = assert_error(function() m[name](m, "x") end, "machine:" .. name .. " is not built yet")
    assert_eq(e.kind, "unsupported", name)
  end
end)

test("functions", function()
  assert_eq(assert_error(function() network("lan") end, "network is not built yet").kind, "unsupported")
end)

test("host", function()
  for _, name in ipairs { "succeed", "execute", "spawn", "wait_for_open_port" } do
    local e = assert_error(function() host[name](host, "true") end, "host:" .. name .. " is not built yet")
    assert_eq(e.kind, "unsupported")
  end
end)

test("an error of that kind that nobody catches skips the test", function()
  m:screenshot("desktop")
  fail_test("screenshot came back")
end)
