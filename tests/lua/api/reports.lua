-- What tests tell the reports: log, artifact, metric, bench.
suite { name = "reports", timeout = "30s", tags = { "reports" } }

test("artifact keeps data and files", function()
  local path = artifact("note.txt", "first\n")
  assert_matches(path, "artifacts/note.txt$")
  assert_matches(artifact("note.txt", "second\n"), "artifacts/note-2.txt$") -- replaces nothing
  assert_matches(artifact("deep/er/x.bin", "\0\1"), "artifacts/deep/er/x.bin$")
  assert_matches(artifact("lib/greeting.lua"), "artifacts/greeting.lua$")
end)

test("artifact does not leave its folder", function()
  for _, name in ipairs { "../x", "/etc/x", "a/../../x", "" } do
    assert_eq(assert_error(function() artifact(name, "data") end, "no name for an artifact").kind, "usage")
  end
  assert_eq(assert_error(function() artifact("no/such/file") end, "no/such/file").kind, "usage")
end)

test("metric", function()
  metric("answer", 42)
  metric("latency", 1.5, { unit = "ms", better = "lower" })
  metric("latency", 2.5, { unit = "ms", better = "lower" })
  assert_eq(assert_error(function() metric("x", "1") end, "must be a number").kind, "usage")
  assert_eq(assert_error(function() metric("x", 0 / 0) end, "finite").kind, "usage")
  assert_eq(assert_error(function() metric("x", 1, { better = "up" }) end, "lower").kind, "usage")
  assert_eq(assert_error(function() metric("x", 1, { units = "ms" }) end).hint, "did you mean 'unit'?")
end)

test("log", function()
  log("a line", 2)
  log("two\nlines")
  log("\255 is no UTF-8")
end)

local runs = 0
bench("a body that is repeated", { runs = 3, warmup = 1 }, function()
  runs = runs + 1
  assert_le(runs, 4)
  metric("run", runs)
end)
