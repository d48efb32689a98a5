-- run, 1
local m = machine("m", { backend = "fake", fake = { units = { web = "failed" } } })
setup(function() m:wait_for_unit("web") end)
test("one", function() end)
test("two", function() end)
