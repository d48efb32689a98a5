-- run, 1
test("one", { xfail = "bug 42" }, function() end)
