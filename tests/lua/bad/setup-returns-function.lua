-- run, 3
local m = machine("m", { backend = "fake" })
setup(function() return { name = "x", later = function() m:start() end } end)
test("one", function() end)
