-- check, 2
machine("m", { backend = "fake" })
machine("m", { backend = "fake" })
test("one", function() end)
