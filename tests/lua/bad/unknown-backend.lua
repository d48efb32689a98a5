-- check, 2
machine("m", { backend = "quemu", image = "tiny" })
test("one", function() end)
