-- check, 2
test("grüßt alle", function() end)
