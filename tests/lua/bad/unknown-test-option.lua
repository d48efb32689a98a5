-- check, 2
test("one", { timeot = "5s" }, function() end)
