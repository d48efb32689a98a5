-- check, 2
local m = machine("m", { backend = "fake" })
test("one", function()
  if m:is_up() the
    m:succeed("true")
  end
end)
