-- check, 2
machine("m", { backend = "fake", memry = "512M" })
test("one", function() end)
