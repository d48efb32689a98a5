-- check, 2
local m = machine("m", { backend = "fake" })
m:succeed("true")
test("one", function() end)
