-- check, 2
local helpers = require("helpers.network")
test("one", function() helpers.up() end)
