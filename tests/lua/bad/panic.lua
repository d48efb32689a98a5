-- run, 1
local m = machine("m", { backend = "fake", fake = { exec = { boom = { panic = true } } } })
test("one", function() m:succeed("boom") end)
