-- check, 2
machine("m", { backend = "fake", networks = { "lan" } })
test("one", function() end)
