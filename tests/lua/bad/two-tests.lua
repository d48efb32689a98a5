-- check, 2
test("one", function() end)
test("one", function() end)
