-- check, 2
group("outer", function()
  group("inner", function()
    test("one", function() end)
  end)
end)
