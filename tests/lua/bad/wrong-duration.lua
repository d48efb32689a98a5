-- check, 2
test("one", { timeout = "5 parsecs" }, function() end)
