-- run, 3
machine("m", { backend = "fake", fake = { start_fails = "no room" } })
test("one", function() end)
