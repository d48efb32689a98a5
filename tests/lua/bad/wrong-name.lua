-- check, 2
machine("Web_Server", { backend = "fake" })
test("one", function() end)
