-- check, 2
local a = machine("a", { image = "debian-31" })

test("one", function() a:succeed("true") end)

group("other", function()
  machine("b", { backend = "fake" })
  machine("c", { backend = "fake", fake = { exek = {} } })

  test("two", function() end)
end)
