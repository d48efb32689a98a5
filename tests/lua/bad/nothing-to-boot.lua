-- check, 2
machine("m", { memory = "512M" })
test("one", function() end)
