-- check, 2
local config = {}
test(config.names.first, function() end)
