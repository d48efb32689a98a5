-- run, 1
test("a table", function()
  subtest("in a subtest", function() error({ a = 1, { "b" } }) end)
end)
test("nothing", function() error() end)
test("a number", function() error(42) end)
test("a table with text", function() error(setmetatable({}, { __tostring = function() return "own words" end })) end)
test("a table with a message", function() error({ message = "own message" }) end)
test("a nil field", function() local t = {} ; return t.nam.x end)
