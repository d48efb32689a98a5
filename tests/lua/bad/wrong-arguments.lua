-- check, 2
local m = machine("m", { backend = "fake" })
local other = { succeed = function() end }

test("options", function()
  m:wait_for_open_port(80, { timout = 1 })
  m:execute("true", { env = { timout = "not an option" }, colour = true })
  m:wait_for_shutdown { timeot = "5s" }
  retry({ attemps = 3, delay = 0 }, function() m:write_file("/a", "b", { mod = 420 }) end)
  metric("x", 1, { unit = "s", beter = "lower" })
  wait_all({ m }, function(x) x:wait_for_file("/x", { timeotu = 1 }) end)
  m:is_fine("x", { timout = 1 })
end)

test("regular expressions", function()
  m:wait_for_console_text("login: (")
  assert_error(function() local a, b = 1, 2; return a + b end, "[z-a]")
  re.match("text", '\\d{2')
  re.gsub("text", "(?<n>", "")
  m:wait_for_console_text([[*]], { timeout = 1 })
end)

-- What nobody can know, or what is right.
test("nothing wrong", function()
  other:succeed("x", { timout = 1 })
  local pattern = "("
  m:wait_for_console_text(pattern)
  m:wait_for_console_text("(" .. pattern)
  assert_matches("(", "\\(", "message (")
  re.gsub("(", "[(]", "(")
  retry({ attempts = 2 }, function() local t = { attemps = 1 }; return t end)
end)
