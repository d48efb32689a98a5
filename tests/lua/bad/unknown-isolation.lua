-- check, 2
suite { isolation = "forked" }
test("one", function() end)
