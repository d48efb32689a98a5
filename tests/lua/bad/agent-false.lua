-- check, 2
local m = machine("m", { backend = "fake", agent = false })
test("one", function() m:succeed("true") end)
