-- check, 2
machine("m", { backend = "fake", fake = { boot_tekst = "x" } })
test("one", function() end)
