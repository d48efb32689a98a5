-- run, 1
local m = machine("m", { backend = "fake" })
test("one", { timeout = "200ms" }, function()
  while true do pcall(function() m:succeed("sleep 100") end) end
end)
