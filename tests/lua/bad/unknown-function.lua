-- check, 2
tset("one", function() end)
