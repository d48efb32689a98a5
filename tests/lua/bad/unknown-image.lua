-- check, 2
machine("m", { image = "debian-99" })
test("one", function() end)
