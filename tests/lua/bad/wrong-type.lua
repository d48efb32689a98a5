-- check, 2
machine("m", { backend = "fake", cpus = "two" })
test("one", function() end)
