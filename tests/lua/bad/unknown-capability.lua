-- check, 2
test("one", { needs = { "snapshots" } }, function() end)
