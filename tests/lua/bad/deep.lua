-- check, 2
local function down(n) return 1 + down(n + 1) end
test(tostring(down(1)), function() end)
