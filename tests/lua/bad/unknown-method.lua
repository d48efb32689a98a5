-- check, 2
local m = machine("m", { backend = "fake" })
test("one", function() m:suceed("true") end)
