-- run, 1
local long = ("0123456789"):rep(30)

test("long texts", function()
  assert_eq(long .. "ä = 1" .. long, long .. "ö = 1" .. long .. "more")
end)

test("lines", function()
  assert_eq("[a]\nx = 1\nname = \"new\"\n", "[a]\nx = 1\nname = \"old\"\n", "the config")
end)

test("short ones", function() assert_eq("ab", "ac") end)
test("tables", function() assert_eq({ a = { 1, 2 } }, { a = { 1, 3 } }) end)
test("not contained", function() assert_contains(long .. "\nthe end", "needle") end)
