-- check, 2
suite { name = "x", tag = { "web" } }
test("one", function() end)
