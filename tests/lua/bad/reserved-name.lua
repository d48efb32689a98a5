-- check, 2
machine("host", { backend = "fake" })
test("one", function() end)
