-- check, 2
setup(function() end)
setup(function() end)
test("one", function() end)
