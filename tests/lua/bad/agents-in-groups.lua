-- check, 2
-- The same variable in two groups: only where all of them have no agent it is known what is wrong.
group("one", function()
  local m = machine("m", { backend = "fake", agent = false })
  test("a", function() pcall(function() m:suceed("true") end) end)
end)
group("two", function()
  local m = machine("m", { backend = "fake" })
  local n = machine("n", { backend = "fake", agent = false })
  test("b", function() m:succeed("true") end)
  test("c", function() n:succeed("true") end)
end)
