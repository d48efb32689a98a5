-- run --fail-fast, 1
local m = machine("m", { backend = "fake", fake = { exec = { ["curl x"] = { code = 7, stderr = "refused\n" } } } })

test("says where", function()
  subtest("first", function() m:succeed("true") end)
  subtest("outer", function()
    pcall(subtest, "is caught", function() fail_test("not this one") end)
    retry({ attempts = 2, delay = "10ms" }, function()
      subtest("inner", function() m:succeed("curl x") end)
    end)
  end)
end)

test("is not run", function() end)
test("is slow", { slow = true }, function() end)
