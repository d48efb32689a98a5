-- check, 2
machine("m", { backend = "fake", memory = 512 })
test("one", function() end)
