-- check, 2
local wanted = params.version or error("give --param version=…")
test(wanted, function() end)
