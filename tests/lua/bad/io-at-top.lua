-- check, 2
local f = io.open("/etc/passwd")
test("one", function() return f end)
